using System.Net.Sockets;
using System.Runtime.ExceptionServices;
using System.Text.Json.Nodes;
using Godwit.ChunkStore;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.ChunkStore.Trees;
using Godwit.GuestStreams.Qemu;
using Godwit.Host.Inventory;
using Godwit.Host.Qemu;
using Godwit.Migration;
using Godwit.Pages;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Parcels;

/// <summary>What a resume brought here, and from where.</summary>
/// <param name="FetchedBytes">Bytes of packs that were read from the store.</param>
/// <param name="KeptBytes">Content that was in place already.</param>
/// <param name="RebuiltBytes">Content that was rebuilt from what this host has.</param>
/// <param name="ReadBytes">Content that came out of the store.</param>
public sealed record RestoreReport(long FetchedBytes, long KeptBytes, long RebuiltBytes, long ReadBytes)
{
    public static RestoreReport operator +(RestoreReport one, RestoreReport other) => new(
        one.FetchedBytes + other.FetchedBytes, one.KeptBytes + other.KeptBytes,
        one.RebuiltBytes + other.RebuiltBytes, one.ReadBytes + other.ReadBytes);
}

/// <summary>Puts a parcel in place on this host: disk images, memory, and the state of the machine.</summary>
/// <remarks>
/// Nothing reaches a guest or its disks that does not have the name that the manifest's trees give it.
/// </remarks>
public sealed class ParcelRestorer(StoreReader reader, ParcelManifest manifest, GuestInventory? inventory)
{
    private const int PagesAtOnce = 8192;

    // Blocks of disks that have come out of the store: memory that caches them need not. 64 MiB of this at most.
    private const int RestoredMax = 1 << 20;
    private readonly Dictionary<ChunkId, (string Path, long Block)> _restored = [];
    private readonly Dictionary<string, SafeFileHandle> _open = [];
    private readonly byte[] _page = new byte[Page.Size];
    private long _kept;
    private long _rebuilt;
    private long _read;

    /// <summary>So far.</summary>
    public RestoreReport Report => new(reader.BytesRead, _kept, _rebuilt, _read);

    /// <summary>An image on this host and what it is based on.</summary>
    public static IReadOnlyList<string> ImagesOf(string path) => [Path.GetFullPath(path), .. DiskImage.Chain(path)];

    /// <summary>Images of the parcel that none of the guest's disks, kernel and initramfs is or is based on.</summary>
    /// <exception cref="ChunkLostException">A block cannot be had.</exception>
    public IReadOnlyList<string> StrayImages(MachineContract contract)
    {
        HashSet<string> used = [.. contract.Disks.Select(disk => Path.GetFullPath(disk.Path))];
        used.UnionWith(((string?[])[contract.KernelPath, contract.InitramfsPath]).OfType<string>());
        var images = manifest.Disks.DistinctBy(part => part.Name).ToDictionary(part => part.Name);
        if (images.Keys.All(used.Contains))
        {
            return [];
        }

        foreach (DiskContract disk in contract.Disks)
        {
            string? next = Path.GetFullPath(disk.Path);
            for (int i = 0; next is not null && i < DiskImage.ChainMax; i++)
            {
                used.Add(next);
                next = images.TryGetValue(next, out ParcelPart? image) ? BackingOf(image) : null;
            }
        }

        return [.. images.Keys.Where(name => !used.Contains(name))];
    }

    /// <summary>Sees that an image which is there and is not to be changed is the parcel's.</summary>
    /// <param name="path">Where it lies on this host.</param>
    /// <param name="isOwn">False for an image that other guests may be based on.</param>
    /// <exception cref="GodwitException"><c>parcel-base-different</c>, <c>parcel-disk</c>.</exception>
    /// <exception cref="ChunkLostException">A node cannot be had.</exception>
    public void CompareDisk(ParcelPart disk, string path, bool isOwn, CancellationToken cancellationToken) =>
        WithDisk(path, () =>
        {
            using SafeFileHandle file = File.OpenHandle(
                path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
            if (RandomAccess.GetLength(file) != disk.Bytes || !IsSame(file, disk, cancellationToken))
            {
                throw isOwn ? IsAnother(path) : BaseDiffers(path);
            }
        });

    /// <summary>Brings a disk image to what the parcel has, whatever lies there.</summary>
    /// <param name="path">Where it belongs on this host.</param>
    /// <exception cref="GodwitException"><c>parcel-disk</c>.</exception>
    /// <exception cref="ChunkLostException">A block cannot be had.</exception>
    public void RestoreDisk(ParcelPart disk, string path, CancellationToken cancellationToken) =>
        WithDisk(path, () =>
        {
            bool isNew = !File.Exists(path);
            // A new image gets its name when it is whole; one that is there is brought up to date in place: until this
            // has succeeded the guest cannot be run from it, and it can always be done again.
            string target = isNew ? path + ".godwit-new" : path;
            Directory.CreateDirectory(Path.GetDirectoryName(path)!);
            using (SafeFileHandle file = OpenDisk(target, isNew))
            {
                if (!isNew && !DiskLock.TryHold(file))
                {
                    throw new GodwitException("parcel-disk",
                        $"The disk image {path} cannot be restored here: a QEMU writes to it, or a tool of QEMU's.",
                        $"See who has it open: 'fuser -v {path}'.");
                }

                RestoreFile(file, path, disk, isNew, cancellationToken);
                if (RandomAccess.GetLength(file) != disk.Bytes)
                {
                    RandomAccess.SetLength(file, disk.Bytes);
                }

                RandomAccess.FlushToDisk(file);
            }

            if (isNew)
            {
                // What goes on may record next that the guest has its disks.
                DurableFolder.Replace(target, path);
            }
        });

    private static void WithDisk(string path, Action work)
    {
        try
        {
            work();
        }
        catch (Exception e) when (e is (IOException or UnauthorizedAccessException) and not StorageException)
        {
            throw new GodwitException("parcel-disk",
                $"The disk image {path} cannot be restored here: {e.Message}",
                "Check free space with 'df', and the owner and mode of its directory; then resume again.", e);
        }
    }

    /// <summary>Fills the guest's memory, which is all zeros.</summary>
    public void RestoreMemory(GuestMemory memory, CancellationToken cancellationToken)
    {
        ParcelPart part = manifest.Memory[0];
        if (part.Name != memory.Name || part.Bytes != memory.Length)
        {
            throw new GodwitException("parcel-memory",
                $"The parcel has {part.Bytes} bytes of {part.Name}, the guest {memory.Length} of {memory.Name}.",
                "The parcel does not go with its contract: make another.");
        }

        try
        {
            foreach (string path in _restored.Values.Select(block => block.Path).Distinct())
            {
                _open[path] = File.OpenHandle(path, share: FileShare.ReadWrite | FileShare.Delete);
            }

            Bring(
                part, keep: null, (page, _, content) => memory.Write(new PageNumber(page), content), cancellationToken);
        }
        finally
        {
            foreach (SafeFileHandle file in _open.Values)
            {
                file.Dispose();
            }

            _open.Clear();
        }
    }

    /// <summary>Gives QEMU the state of the machine; memory is in place.</summary>
    /// <param name="machine">It waits for a stream; afterwards it is ready to run the guest.</param>
    public async Task LoadStateAsync(
        QemuMachine machine, string runtimeDirectory, CancellationToken cancellationToken)
    {
        (byte[] head, byte[] tail, IReadOnlyList<(string Name, byte[] Content)> carried) = await Task.Run(
            ReadState, cancellationToken);
        byte[] stream = StateStream.Whole(head, tail, carried);
        string path = Path.Combine(runtimeDirectory, "resume.sock");
        File.Delete(path);
        var capabilities = new JsonArray(
            new JsonObject { ["capability"] = "events", ["state"] = true },
            new JsonObject { ["capability"] = "late-block-activate", ["state"] = true });
        await machine.ExecuteAsync(
            "migrate-set-capabilities", new JsonObject { ["capabilities"] = capabilities }, cancellationToken);
        await machine.ExecuteAsync("migrate-incoming", new JsonObject { ["uri"] = $"unix:{path}" }, cancellationToken);
        using var qemu = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        await qemu.ConnectAsync(new UnixDomainSocketEndPoint(path), cancellationToken);
        File.Delete(path);
        try
        {
            await qemu.SendAsync(stream, cancellationToken);
            await WaitForLoadAsync(qemu, cancellationToken).WaitAsync(TimeSpan.FromSeconds(60), cancellationToken);
        }
        catch (Exception e) when (e is SocketException or TimeoutException or IOException or StreamFormatException)
        {
            throw new GodwitException("parcel-load",
                $"QEMU does not take the state of {machine.Contract.Name}: {e.Message}",
                "What it said is in its log. A parcel of a newer QEMU needs that version here.", e);
        }
    }

    /// <summary>The state of the machine, without the guest's own memory.</summary>
    internal (byte[] Head, byte[] Tail, IReadOnlyList<(string Name, byte[] Content)> Carried) ReadState()
    {
        byte[] state = ReadBlob(manifest.State);
        return (state[..manifest.StateHeadBytes], state[manifest.StateHeadBytes..],
            [.. manifest.Memory.Skip(1).Select(part => (part.Name, ReadBlob(part)))]);
    }

    /// <summary>Pages that the guest is likely to touch first; none if nothing is known.</summary>
    public IReadOnlyList<long> ReadWake()
    {
        if (manifest.Wake is not { } wake)
        {
            return [];
        }

        if (wake.Bytes > WakeSet.PagesMax * sizeof(uint))
        {
            throw new StoreFormatException($"part {wake.Name}", $"it has {wake.Bytes} bytes");
        }

        try
        {
            return WakeSet.Decode(ReadBlob(wake), manifest.Memory[0].Pages);
        }
        catch (ChunkLostException)
        {
            // A guess is no reason to keep the guest asleep.
            return [];
        }
    }

    /// <summary>Contents of pages that could be had, and are not all zeros.</summary>
    /// <param name="pages">Their numbers.</param>
    /// <param name="ids">Of all pages of the memory.</param>
    internal Dictionary<long, byte[]> ReadPages(IEnumerable<long> pages, ChunkId[] ids)
    {
        var found = new Dictionary<long, byte[]>();
        try
        {
            Bring(
                pages.Where(page => !ids[page].IsZeros).Select(page => (page, ids[page])),
                (page, _, content) => found[page] = content.ToArray());
        }
        catch (ChunkLostException)
        {
            // As above: if the guest does touch what is missing, it waits for it.
        }

        return found;
    }

    private byte[] ReadBlob(ParcelPart part)
    {
        const int blobBytesMax = 512 << 20;
        if (part.Bytes > blobBytesMax)
        {
            throw new StoreFormatException($"part {part.Name}", $"it has {part.Bytes} bytes");
        }

        byte[] content = new byte[part.Pages * Page.Size];
        Bring(
            part, keep: null, (page, _, chunk) => chunk.CopyTo(content.AsSpan((int)page * Page.Size)),
            CancellationToken.None);
        return content[..(int)part.Bytes];
    }

    private static async Task WaitForLoadAsync(Socket qemu, CancellationToken cancellationToken)
    {
        var path = new ReturnPathReader();
        byte[] buffer = new byte[256];
        while (true)
        {
            int count = await qemu.ReceiveAsync(buffer, cancellationToken);
            if (count == 0)
            {
                throw new IOException("it closed its stream");
            }

            path.Feed(buffer.AsSpan(0, count));
            while (path.TryTake(out ReturnPathMessage message))
            {
                if (message.Type == ReturnPathType.Shut)
                {
                    if (message.Value != 0)
                    {
                        throw new IOException($"it ended with code {message.Value}");
                    }

                    return;
                }
            }
        }
    }

    private string? BackingOf(ParcelPart image)
    {
        return DiskImage.BackingOf(image.Name, (bytes, offset) =>
        {
            int count = (int)Math.Clamp(image.Bytes - offset, 0, bytes.Length);
            for (int done = 0; done < count;)
            {
                (long page, long at) = Math.DivRem(offset + done, Page.Size);
                int length = (int)Math.Min(count - done, Page.Size - at);
                ChunkId id = ChunkTree.PageAt(image.RootId, image.Pages, page, reader);
                ReadOnlySpan<byte> content = id.IsZeros ? new byte[Page.Size] : reader.Read(id);
                content.Slice((int)at, length).CopyTo(bytes[done..]);
                done += length;
            }

            return count;
        });
    }

    private bool IsSame(SafeFileHandle file, ParcelPart disk, CancellationToken cancellationToken)
    {
        foreach (TreePart part in ChunkTree.Parts(disk.RootId, disk.Pages, reader))
        {
            for (int at = 0; at < part.Pages.Length; at += PagesAtOnce)
            {
                cancellationToken.ThrowIfCancellationRequested();
                ReadOnlyMemory<ChunkId> some = part.Pages[at..Math.Min(at + PagesAtOnce, part.Pages.Length)];
                if (AreInPlace(file, disk, part.First + at, some).Contains(false))
                {
                    return false;
                }

                _kept += (some.Length - some.Span.Count(default(ChunkId))) * (long)Page.Size;
            }
        }

        return true;
    }

    // To name what lies there takes longer than to read it: on as many cores as there are, within reason.
    private static bool[] AreInPlace(
        SafeFileHandle file, ParcelPart disk, long first, ReadOnlyMemory<ChunkId> ids)
    {
        const int coresMax = 4;
        const int blocksAtOnce = 256;
        bool[] same = new bool[ids.Length];
        try
        {
            Parallel.For(
                0, (ids.Length + blocksAtOnce - 1) / blocksAtOnce,
                new ParallelOptions { MaxDegreeOfParallelism = coresMax }, () => new byte[Page.Size],
                (part, _, there) =>
                {
                    for (int i = part * blocksAtOnce; i < Math.Min((part + 1) * blocksAtOnce, ids.Length); i++)
                    {
                        same[i] = IsInPlace(file, disk, first + i, ids.Span[i], there);
                    }

                    return there;
                },
                _ => { });
        }
        catch (AggregateException e)
        {
            // One block that cannot be read is as good as another.
            ExceptionDispatchInfo.Throw(e.InnerExceptions[0]);
        }

        return same;
    }

    private static bool IsInPlace(SafeFileHandle file, ParcelPart disk, long block, ChunkId id, byte[] there)
    {
        there.AsSpan().Clear();
        int count = RandomAccess.Read(file, there, block * Page.Size);
        return count >= Math.Min(Page.Size, disk.Bytes - (block * Page.Size))
            && (id.IsZeros ? ZeroTest.IsZero(there) : ChunkId.Of(there) == id);
    }

    private void RestoreFile(
        SafeFileHandle file, string path, ParcelPart disk, bool isNew, CancellationToken cancellationToken)
    {
        byte[] zeros = new byte[Page.Size];
        bool[] KeepSame(long first, ReadOnlyMemory<ChunkId> ids)
        {
            bool[] same = AreInPlace(file, disk, first, ids);
            for (int i = 0; i < same.Length; i++)
            {
                if (!same[i] && ids.Span[i].IsZeros)
                {
                    RandomAccess.Write(file, zeros, (first + i) * Page.Size);
                }
            }

            return same;
        }

        if (isNew)
        {
            // Blocks of zeros stay holes.
            RandomAccess.SetLength(file, disk.Bytes);
        }

        Bring(
            disk, isNew ? null : KeepSame,
            (block, id, content) =>
            {
                RandomAccess.Write(file, content, block * Page.Size);
                if (_restored.Count < RestoredMax)
                {
                    _restored.TryAdd(id, (path, block));
                }
            },
            cancellationToken);
    }

    private delegate void Place(long page, ChunkId id, ReadOnlySpan<byte> content);

    // Which of the pages from the first one on are in place already.
    private delegate bool[] Keep(long first, ReadOnlyMemory<ChunkId> ids);

    // What is in place stays, what this host can rebuild is rebuilt, the rest comes out of the store.
    private void Bring(
        ParcelPart part, Keep? keep, Place place, CancellationToken cancellationToken)
    {
        foreach (TreePart some in ChunkTree.Parts(part.RootId, part.Pages, reader))
        {
            for (int from = 0; from < some.Pages.Length; from += PagesAtOnce)
            {
                cancellationToken.ThrowIfCancellationRequested();
                Bring(
                    (int)some.First + from, some.Pages.Slice(from, Math.Min(PagesAtOnce, some.Pages.Length - from)),
                    keep, place);
            }
        }
    }

    private void Bring(int first, ReadOnlyMemory<ChunkId> ids, Keep? keep, Place place)
    {
        bool[]? kept = keep?.Invoke(first, ids);
        var rest = new List<(long Page, ChunkId Id)>(PagesAtOnce);
        for (int i = 0; i < ids.Length; i++)
        {
            if (ids.Span[i].IsZeros)
            {
                continue;
            }

            if (kept?[i] == true)
            {
                _kept += Page.Size;
            }
            else
            {
                rest.Add((first + i, ids.Span[i]));
            }
        }

        Bring(rest, place);
    }

    private void Bring(IEnumerable<(long Page, ChunkId Id)> pages, Place place)
    {
        var wanted = new List<WantedChunk>(PagesAtOnce);
        var ids = new List<(long Page, ChunkId Id)>(PagesAtOnce);
        foreach ((long page, ChunkId id) in pages)
        {
            if (TryRebuild(id))
            {
                place(page, id, _page);
                _rebuilt += Page.Size;
            }
            else
            {
                wanted.Add(new WantedChunk(id, wanted.Count));
                ids.Add((page, id));
            }
        }

        reader.Read(wanted, (i, content) =>
        {
            (long page, ChunkId id) = ids[i];
            if (content.Length != Page.Size)
            {
                throw new StoreFormatException($"page {page}", $"it has {content.Length} bytes");
            }

            place(page, id, content);
            _read += Page.Size;
        });
    }

    // The inventory knows contents by the first half of their names: the whole is held against what it gives.
    private bool TryRebuild(ChunkId id) => TryRebuild(inventory, id, _page)
        || (_restored.TryGetValue(id, out (string Path, long Block) there)
            && _open.TryGetValue(there.Path, out SafeFileHandle? file)
            && RandomAccess.Read(file, _page, there.Block * Page.Size) == Page.Size && ChunkId.Of(_page) == id);

    internal static bool TryRebuild(GuestInventory? inventory, ChunkId id, Span<byte> page)
    {
        if (inventory is null)
        {
            return false;
        }

        Span<byte> name = stackalloc byte[ChunkId.Size];
        id.Write(name);
        return inventory.TryRebuild(name[..ContentName.Size], page) && ChunkId.Of(page) == id;
    }

    private static SafeFileHandle OpenDisk(string path, bool isNew)
    {
        if (isNew)
        {
            File.Delete(path);
        }

        SafeFileHandle file = File.OpenHandle(
            path, isNew ? FileMode.CreateNew : FileMode.Open, FileAccess.ReadWrite,
            FileShare.ReadWrite | FileShare.Delete);
        if (isNew)
        {
            // While nothing is in it: what a guest keeps on its disk is nobody else's on this host.
            File.SetUnixFileMode(file, UnixFileMode.UserRead | UnixFileMode.UserWrite);
        }

        return file;
    }

    private static GodwitException IsAnother(string path) => new("parcel-disk",
        $"There is an image at {path} already. This host does not know it as the guest's, and it is not what the "
        + "parcel has.", "Move it away if nobody needs it there: the parcel brings its own.");

    private static GodwitException BaseDiffers(string path) => new("parcel-base-different",
        $"The image {path} that the guest's disk is based on is another one here.",
        "Put the right image there, or move this one away: the parcel brings its own.");
}
