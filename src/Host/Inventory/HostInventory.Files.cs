using System.Text;
using Godwit.ChunkStore;
using Godwit.Migration.Wire;
using Godwit.Pages;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Inventory;

// Which files there are, and how they are opened, replaced and removed.
public sealed partial class HostInventory
{
    private bool AddIfThere(List<ContentSource> sources, string path, ContentOrigin origin, bool isHoard = false)
    {
        if (!TryOpen(path, out ContentIndex? index, out MappedFile? mapping))
        {
            return false;
        }

        try
        {
            const FileShare anybody = FileShare.ReadWrite | FileShare.Delete;
            string file = File.Exists(ImageOf(path)) ? ImageOf(path) : index!.Subject.Label;
            sources.Add(new ContentSource(
                origin, index!, mapping, File.OpenHandle(file, share: anybody), isHoard,
                File.Exists(NodesOf(path)) ? File.OpenHandle(NodesOf(path), share: anybody) : null));
            return true;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            LogThrownAway(path, e.Message);
            ((IDisposable)mapping!).Dispose();
            lock (_files)
            {
                Remove(path);
            }

            return false;
        }
    }

    private bool TryOpen(string path, out ContentIndex? index, out MappedFile? mapping)
    {
        index = null;
        mapping = null;
        lock (_files)
        {
            if (!File.Exists(path))
            {
                return false;
            }

            string why;
            try
            {
                mapping = MappedFile.Open(path);
                if (ContentIndex.TryOpen(mapping.Memory, out index, out why))
                {
                    return true;
                }
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                why = e.Message;
            }

            ((IDisposable?)mapping)?.Dispose();
            mapping = null;
            LogThrownAway(path, why);
            Remove(path);
            return false;
        }
    }

    private static InventoryEntry Describe(string path, ContentIndex index)
    {
        InventoryKind kind = KindOf(path, out Guid guest);
        return new InventoryEntry(
            kind, index.Subject.Label, guest, index.CountBlocks(),
            BytesOf(path), new DateTimeOffset(File.GetLastWriteTimeUtc(path), TimeSpan.Zero));
    }

    private InventoryEntry? Describe(string arrival)
    {
        lock (_files)
        {
            try
            {
                using ArrivedMemory memory = ArrivedMemory.Open(arrival);
                KindOf(arrival, out Guid guest);
                long bytes = BytesOf(arrival);
                return new InventoryEntry(
                    InventoryKind.Arrival, memory.Label, guest,
                    Math.Max(0, bytes - ArrivedMemory.HeaderBytes) / PageLines.SumsBytes, bytes,
                    new DateTimeOffset(File.GetLastWriteTimeUtc(arrival), TimeSpan.Zero));
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                LogThrownAway(arrival, e.Message);
                File.Delete(arrival);
                return null;
            }
        }
    }

    // The referenced before the referrer, and the other way round when they go: an index without its image is useless.
    private static void Remove(string path)
    {
        File.Delete(path);
        File.Delete(ImageOf(path));
        File.Delete(SumsOf(path));
        File.Delete(NodesOf(path));
    }

    private static void Put(string index, byte[] bytes)
    {
        try
        {
            using SafeFileHandle file = Create(index + ".new");
            RandomAccess.Write(file, bytes, 0);
        }
        catch (IOException)
        {
            // On a full disk half an index is in everybody's way.
            File.Delete(index + ".new");
            throw;
        }

        File.Move(index + ".new", index, overwrite: true);
    }

    internal static SafeFileHandle Create(string path, FileAccess access = FileAccess.Write)
    {
        File.Delete(path);
        using var stream = new FileStream(path, new FileStreamOptions
        {
            Mode = FileMode.CreateNew, Access = FileAccess.Write,
            UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite,
        });
        return File.OpenHandle(path, FileMode.Open, access);
    }

    private List<string> Indexes() => Files("*.index");

    private List<string> Arrivals() => Files("*" + ArrivedMemory.Extension);

    private List<string> Files(string pattern) =>
        Directory.Exists(_directory) ? [.. Directory.EnumerateFiles(_directory, pattern)] : [];

    private string IndexOf(Guid guest) => Path.Combine(_directory, $"memory-{guest:N}.index");

    private string HoardIndexOf(Guid guest) => Path.Combine(_directory, $"hoard-{guest:N}.index");

    private string IndexOf(string image) => Path.Combine(_directory, $"disk-{SubjectOf(image)}.index");

    private static string ImageOf(string index) => Path.ChangeExtension(index, ".image");

    private static string SumsOf(string index) => Path.ChangeExtension(index, ArrivedMemory.Extension);

    private static string NodesOf(string index) => Path.ChangeExtension(index, ".nodes");

    private static InventoryKind KindOf(string index, out Guid guest)
    {
        string[] name = Path.GetFileNameWithoutExtension(index).Split('-', 2);
        guest = default;
        return name[0] == "disk" || !Guid.TryParse(name[^1], out guest) ? InventoryKind.Disk
            : name[0] == "hoard" ? InventoryKind.Hoard : InventoryKind.Memory;
    }

    private static long BytesOf(string path)
    {
        string image = ImageOf(path);
        string nodes = NodesOf(path);
        return SparseFile.AllocatedBytes(path)
            + (File.Exists(nodes) ? SparseFile.AllocatedBytes(nodes) : 0)
            + (File.Exists(image) ? SparseFile.AllocatedBytes(image) : 0);
    }

    private static ContentName SubjectOf(Guid guest) => ContentName.Of(guest.ToByteArray());

    private static ContentName SubjectOf(string path) => ContentName.Of(Encoding.UTF8.GetBytes(path));
}
