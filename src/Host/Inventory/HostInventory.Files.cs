using System.Text;
using Godwit.ChunkStore;
using Godwit.Migration.Wire;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Inventory;

// Which files there are, and how they are opened, replaced and removed.
public sealed partial class HostInventory
{
    private bool AddIfThere(List<ContentSource> sources, string path, ContentOrigin origin)
    {
        if (!TryOpen(path, out ContentIndex? index, out MappedFile? mapping))
        {
            return false;
        }

        try
        {
            string file = File.Exists(ImageOf(path)) ? ImageOf(path) : index!.Subject.Label;
            sources.Add(new ContentSource(
                origin, index!, mapping, File.OpenHandle(file, share: FileShare.ReadWrite | FileShare.Delete)));
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
        bool memory = IsMemory(path, out Guid guest);
        return new InventoryEntry(
            memory ? ContentOrigin.OwnMemory : ContentOrigin.Disk, index.Subject.Label, guest, index.Count,
            BytesOf(path), new DateTimeOffset(File.GetLastWriteTimeUtc(path), TimeSpan.Zero));
    }

    // The referenced before the referrer, and the other way round when they go: an index without its image is useless.
    private static void Remove(string index)
    {
        File.Delete(index);
        File.Delete(ImageOf(index));
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

    private static SafeFileHandle Create(string path)
    {
        File.Delete(path);
        using var stream = new FileStream(path, new FileStreamOptions
        {
            Mode = FileMode.CreateNew, Access = FileAccess.Write,
            UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite,
        });
        return File.OpenHandle(path, FileMode.Open, FileAccess.Write);
    }

    private List<string> Indexes() =>
        Directory.Exists(_directory) ? [.. Directory.EnumerateFiles(_directory, "*.index")] : [];

    private string IndexOf(Guid guest) => Path.Combine(_directory, $"memory-{guest:N}.index");

    private string IndexOf(string image) => Path.Combine(_directory, $"disk-{SubjectOf(image)}.index");

    private static string ImageOf(string index) => Path.ChangeExtension(index, ".image");

    private static bool IsMemory(string index, out Guid guest)
    {
        string name = Path.GetFileNameWithoutExtension(index);
        guest = default;
        return name.StartsWith("memory-", StringComparison.Ordinal)
            && Guid.TryParse(name["memory-".Length..], out guest);
    }

    private static long BytesOf(string index)
    {
        var file = new FileInfo(index);
        if (!file.Exists)
        {
            return 0;
        }

        string image = ImageOf(index);
        return file.Length + (File.Exists(image) ? SparseFile.AllocatedBytes(image) : 0);
    }

    private static ContentName SubjectOf(Guid guest) => ContentName.Of(guest.ToByteArray());

    private static ContentName SubjectOf(string path) => ContentName.Of(Encoding.UTF8.GetBytes(path));
}
