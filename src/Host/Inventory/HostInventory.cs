using System.Collections.Concurrent;
using System.Text;
using Godwit.ChunkStore;
using Godwit.ChunkStore.Trees;
using Godwit.Host.Qemu;
using Godwit.Migration.Wire;
using Godwit.Pages;
using Microsoft.Extensions.Logging;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Inventory;

/// <summary>What an entry of the inventory is.</summary>
public enum InventoryKind
{
    /// <summary>The memory that a guest left behind.</summary>
    Memory,
    /// <summary>A disk image, which is indexed where it lies.</summary>
    Disk,
    /// <summary>What was fetched ahead of a guest's resume.</summary>
    Hoard,
    /// <summary>Sums of what a guest came with that is here now.</summary>
    Arrival,
}

/// <summary>One thing this host can rebuild contents from.</summary>
/// <param name="Kind">What it is.</param>
/// <param name="Label">The guest's name, or the image's path.</param>
/// <param name="Guest">The guest whose memory it is, or that it was hoarded for; empty for a disk image.</param>
/// <param name="Blocks">Contents with a name of their own; of an arrival, pages that were not zero.</param>
/// <param name="DiskBytes">What it takes on this host's disk, index included; an image itself is not ours.</param>
/// <param name="Made">When it was kept or indexed.</param>
public sealed record InventoryEntry(
    InventoryKind Kind, string Label, Guid Guest, long Blocks, long DiskBytes, DateTimeOffset Made);

/// <summary>
/// What this host can rebuild by name: the memory that guests left behind, and the blocks of disk images.
/// </summary>
/// <remarks>
/// Any thread may call. Nothing here is ever trusted: an index that is damaged, of another version or of something else
/// is removed with a warning, and every block is named again when it is read. docs/formats/inventory.md has the files.
/// </remarks>
public sealed partial class HostInventory : IAsyncDisposable
{
    private static readonly TimeSpan KeepingPatience = TimeSpan.FromSeconds(2);

    // An image that a guest writes has always changed. To read it all again costs more than the few blocks it gains.
    private static readonly TimeSpan IndexAgainAfterDefault = TimeSpan.FromHours(1);

    // The registry and the journals are on the same disk, and moves need them more than an inventory.
    private const long FreeBytesMin = 1L << 30;
    private const int FreeLookPages = 16_384;
    private readonly string _directory;
    private readonly long _quotaBytes;
    private readonly TimeSpan _indexAgainAfter;
    private readonly ILogger _logger;
    private readonly Lock _files = new();
    private readonly ConcurrentDictionary<Guid, Task> _keeping = new();
    private readonly ConcurrentDictionary<string, bool> _queued = new(StringComparer.Ordinal);
    private readonly CancellationTokenSource _stop = new();
    private Task _indexing = Task.CompletedTask;

    /// <param name="directory">Where it keeps its files; made if it is not there.</param>
    /// <param name="quotaBytes">What kept memory and indexes may take there; 0 keeps and indexes nothing.</param>
    /// <param name="logger">Hears of what was thrown away.</param>
    /// <param name="indexAgainAfter">How old an index has to be before its image is read again; an hour.</param>
    public HostInventory(string directory, long quotaBytes, ILogger logger, TimeSpan? indexAgainAfter = null)
    {
        _indexAgainAfter = indexAgainAfter ?? IndexAgainAfterDefault;
        _directory = directory;
        _quotaBytes = quotaBytes;
        _logger = logger;
        try
        {
            Directory.CreateDirectory(
                directory, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
            foreach (string unfinished in Directory.EnumerateFiles(directory, "*.new"))
            {
                File.Delete(unfinished);
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            LogUnusable(directory, e.Message);
        }
    }

    /// <summary>
    /// Keeps the memory that a guest leaves behind, in the background; what was kept of it before is replaced.
    /// </summary>
    /// <param name="guest">The guest, which runs elsewhere by now.</param>
    /// <param name="label">Its name.</param>
    /// <param name="memory">Its memory; disposed of here.</param>
    /// <returns>Ends when it is kept or was given up; never fails.</returns>
    public Task Keep(Guid guest, string label, GuestMemory memory)
    {
        Task keeping = LowPriority.Run($"keep {label}", () =>
        {
            try
            {
                using (memory)
                {
                    KeepNow(guest, label, memory);
                }
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException or OperationCanceledException)
            {
                LogNotKept(label, e.Message);
                File.Delete(ImageOf(IndexOf(guest)) + ".new");
            }
            finally
            {
                _keeping.TryRemove(guest, out _);
            }
        });
        _keeping[guest] = keeping;
        // It may have ended before it was noted.
        if (keeping.IsCompleted)
        {
            _keeping.TryRemove(guest, out _);
        }

        return keeping;
    }

    /// <summary>Begins to note what a guest comes with.</summary>
    /// <param name="guest">The guest.</param>
    /// <param name="label">Its name.</param>
    /// <param name="from">The host it comes from, which keeps what it leaves there.</param>
    /// <param name="memoryBytes">The length of its memory.</param>
    /// <returns>The caller's to dispose of; null if there is no room for it.</returns>
    public ArrivedMemory? BeginArrival(Guid guest, string label, string from, long memoryBytes)
    {
        if (memoryBytes / Page.Size * PageLines.SumsBytes > _quotaBytes)
        {
            return null;
        }

        try
        {
            RequireFree();
            return ArrivedMemory.Begin(SumsOf(IndexOf(guest)), label, from, memoryBytes);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            LogNotKept(label, e.Message);
            return null;
        }
    }

    /// <summary>The guest is here, and with it what was noted of its memory; what was kept of it before goes.</summary>
    public void Arrived(Guid guest, ArrivedMemory? memory)
    {
        lock (_files)
        {
            Remove(IndexOf(guest));
            Remove(HoardIndexOf(guest));
            memory?.Keep();
        }

        Trim(_quotaBytes);
    }

    /// <summary>What a guest that is here came with, if it came from this host and all of it was noted.</summary>
    /// <returns>The caller's to dispose of; null if there is nothing.</returns>
    public ArrivedMemory? OpenArrival(Guid guest, string from, long memoryBytes)
    {
        string path = SumsOf(IndexOf(guest));
        lock (_files)
        {
            if (!File.Exists(path))
            {
                return null;
            }

            try
            {
                ArrivedMemory memory = ArrivedMemory.Open(path);
                if (memory.From == from && memory.MemoryBytes == memoryBytes)
                {
                    return memory;
                }

                memory.Dispose();
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                LogThrownAway(path, e.Message);
                File.Delete(path);
            }

            return null;
        }
    }

    /// <summary>Forgets what is kept of a guest's memory, and what was hoarded for it.</summary>
    public void Forget(Guid guest)
    {
        lock (_files)
        {
            Remove(IndexOf(guest));
            Remove(HoardIndexOf(guest));
        }
    }

    /// <summary>Indexes a disk image and what it is based on in the background, where that is new or changed.</summary>
    public void Watch(string image)
    {
        if (_quotaBytes == 0)
        {
            return;
        }

        foreach (string path in DiskImage.Chain(image))
        {
            if (_queued.TryAdd(path, true))
            {
                lock (_files)
                {
                    _indexing = IndexNextAsync(_indexing, path);
                }
            }
        }
    }

    /// <summary>Ends when every image that was to be indexed has been.</summary>
    internal Task IndexedAsync()
    {
        lock (_files)
        {
            return _indexing;
        }
    }

    /// <summary>What can be rebuilt for one guest that comes here.</summary>
    /// <param name="guest">The guest.</param>
    /// <param name="images">Its disk images, as this host reaches them.</param>
    /// <param name="bases">Images that the operator lets every guest be held against; used as far as they are indexed.
    /// </param>
    /// <param name="siblings">Whether what other guests left or use counts too.</param>
    /// <param name="running">The memory of guests that run here and may be read from too; disposed of there.</param>
    /// <param name="hoard">Whether what was hoarded for it counts.</param>
    public async Task<GuestInventory> OpenAsync(
        Guid guest, IReadOnlyList<string> images, IReadOnlyList<string> bases, bool siblings,
        IReadOnlyList<GuestMemory>? running = null, bool hoard = true)
    {
        if (_keeping.TryGetValue(guest, out Task? keeping))
        {
            await Task.WhenAny(keeping, Task.Delay(KeepingPatience));
        }

        List<ContentSource> ready = [];
        List<string> missing = [];
        if (_quotaBytes > 0)
        {
            AddIfThere(ready, IndexOf(guest), ContentOrigin.OwnMemory);
            if (hoard)
            {
                AddIfThere(ready, HoardIndexOf(guest), ContentOrigin.OwnMemory, isHoard: true);
            }

            string[] chain = [.. images.SelectMany(DiskImage.Chain).Distinct()];
            foreach (string path in chain)
            {
                if (!AddIfThere(ready, IndexOf(path), ContentOrigin.Disk))
                {
                    missing.Add(path);
                }
            }

            string[] others = [.. bases.Except(chain)];
            foreach (string path in others)
            {
                AddIfThere(ready, IndexOf(path), ContentOrigin.Disk);
            }

            if (siblings)
            {
                string[] own =
                    [IndexOf(guest), HoardIndexOf(guest), .. chain.Select(IndexOf), .. others.Select(IndexOf)];
                foreach (string index in Indexes().Except(own))
                {
                    AddIfThere(ready, index, ContentOrigin.Sibling);
                }
            }
        }

        return new GuestInventory(ready, missing, running ?? []);
    }

    /// <summary>The indexes of some images, those that there are.</summary>
    public IReadOnlyList<ContentIndex> OpenIndexes(IReadOnlyList<string> images)
    {
        List<ContentIndex> indexes = [];
        foreach (string image in images)
        {
            string path = IndexOf(image);
            if (File.Exists(path) && ContentIndex.TryOpen(File.ReadAllBytes(path), out ContentIndex? index, out _))
            {
                indexes.Add(index!);
            }
        }

        return indexes;
    }

    /// <summary>Everything there is, the newest first.</summary>
    public IReadOnlyList<InventoryEntry> List()
    {
        List<InventoryEntry> entries = [];
        foreach (string path in Indexes())
        {
            if (TryOpen(path, out ContentIndex? index, out MappedFile? mapping))
            {
                using (mapping)
                {
                    entries.Add(Describe(path, index!));
                }
            }
        }

        entries.AddRange(Arrivals().Select(Describe).OfType<InventoryEntry>());

        return [.. entries.OrderByDescending(entry => entry.Made)];
    }

    /// <summary>Removes the oldest until no more than this is left on disk.</summary>
    /// <returns>Bytes that were freed.</returns>
    public long Trim(long bytesMax) => Trim(bytesMax, []);

    private long Trim(long bytesMax, IReadOnlyCollection<string> spared)
    {
        lock (_files)
        {
            string[] all = [.. Indexes(), .. Arrivals()];
            long before = all.Sum(BytesOf);
            long left = before;
            foreach (string path in all.Except(spared).OrderBy(File.GetLastWriteTimeUtc))
            {
                if (left <= bytesMax)
                {
                    break;
                }

                left -= BytesOf(path);
                LogTrimmed(Path.GetFileName(path), bytesMax);
                Remove(path);
            }

            return before - left;
        }
    }

    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync();
        await Task.WhenAll(_keeping.Values);
        await _indexing;
        _stop.Dispose();
    }

    private void KeepNow(Guid guest, string label, GuestMemory memory)
    {
        string index = IndexOf(guest);
        string image = ImageOf(index);
        lock (_files)
        {
            Remove(index);
        }

        var builder = new ContentIndexBuilder();
        using (SafeFileHandle file = Create(image + ".new"))
        {
            RandomAccess.SetLength(file, memory.Length);
            uint end = (uint)ContentSource.Blocks(memory.Length);
            var nodes = new NodeBlockWriter(file, builder, () => end++);
            var tree = new ChunkTreeBuilder(nodes.Add);
            Copy(memory, file, builder, tree);
            tree.AddZerosTo(ContentSource.Blocks(memory.Length));
            tree.Finish();
            nodes.Flush();
        }

        byte[] bytes = builder.Build(new IndexSubject(
            SubjectOf(guest), memory.Length, DateTime.UtcNow.Ticks, label));
        lock (_files)
        {
            File.Move(image + ".new", image, overwrite: true);
            Put(index, bytes);
        }

        if (Trim(_quotaBytes) > 0 && !File.Exists(index))
        {
            LogNotKept(label, $"it takes more than the inventory's quota of {_quotaBytes} bytes");
        }
    }

    // Page by page of what was ever written: holes and zeros take no room in the copy either.
    private void Copy(
        GuestMemory memory, SafeFileHandle file, ContentIndexBuilder builder, ChunkTreeBuilder tree)
    {
        const int pagesAtOnce = 256;
        byte[] buffer = new byte[pagesAtOnce * Page.Size];
        RequireFree();
        int looked = 0;
        var next = new PageNumber(0);
        while (memory.TryFindAllocated(next, out (PageNumber First, long Count) run))
        {
            for (long done = 0; done < run.Count; done += pagesAtOnce)
            {
                _stop.Token.ThrowIfCancellationRequested();
                int count = (int)Math.Min(pagesAtOnce, run.Count - done);
                var first = new PageNumber(run.First.Value + done);
                memory.Read(first, buffer.AsSpan(0, count * Page.Size));
                for (int i = 0; i < count; i++)
                {
                    ReadOnlySpan<byte> page = buffer.AsSpan(i * Page.Size, Page.Size);
                    if (page.ContainsAnyExcept((byte)0))
                    {
                        RandomAccess.Write(file, page, (first.Value + i) * Page.Size);
                        var id = ChunkId.Of(page);
                        builder.Add((uint)(first.Value + i), new ContentName(id.High), Fingerprint.Of(page));
                        tree.AddZerosTo(first.Value + i);
                        tree.Add(id);
                    }
                }

                if ((long)builder.Blocks * Page.Size > _quotaBytes)
                {
                    throw new IOException($"it takes more than the inventory's quota of {_quotaBytes} bytes");
                }

                if (builder.Blocks / FreeLookPages != looked)
                {
                    looked = builder.Blocks / FreeLookPages;
                    RequireFree();
                }
            }

            next = new PageNumber(run.First.Value + run.Count);
        }
    }

    private void RequireFree()
    {
        long free = new DriveInfo(_directory).AvailableFreeSpace;
        if (free < FreeBytesMin)
        {
            throw new IOException($"{_directory} has {free} bytes free; {FreeBytesMin} have to stay");
        }
    }

    private async Task IndexNextAsync(Task before, string path)
    {
        await before;
        await LowPriority.Run($"index {Path.GetFileName(path)}", () =>
        {
            // From here on a change is worth another look.
            _queued.TryRemove(path, out _);
            try
            {
                IndexNow(path);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException or OperationCanceledException)
            {
                LogNotIndexed(path, e.Message);
            }
        });
    }

    private void IndexNow(string path)
    {
        var subject = new IndexSubject(
            SubjectOf(path), new FileInfo(path).Length, File.GetLastWriteTimeUtc(path).Ticks, path);
        string index = IndexOf(path);
        if (TryOpen(index, out ContentIndex? old, out MappedFile? mapping))
        {
            using (mapping)
            {
                if (old!.Subject == subject || DateTime.UtcNow - File.GetLastWriteTimeUtc(index) < _indexAgainAfter)
                {
                    return;
                }
            }

            LogChanged(path);
        }

        var builder = new ContentIndexBuilder();
        using (SafeFileHandle file = File.OpenHandle(path, share: FileShare.ReadWrite | FileShare.Delete))
        using (SafeFileHandle trees = Create(NodesOf(index) + ".new"))
        {
            uint first = (uint)ContentSource.Blocks(subject.Length);
            uint end = first;
            var nodes = new NodeBlockWriter(trees, builder, () => end++, first);
            FileIndexer.Index(file, builder, part: null, _stop.Token, new ChunkTreeBuilder(nodes.Add));
            nodes.Flush();
        }

        byte[] bytes = builder.Build(subject);
        RequireFree();
        lock (_files)
        {
            File.Move(NodesOf(index) + ".new", NodesOf(index), overwrite: true);
            Put(index, bytes);
        }

        Trim(_quotaBytes);
    }

    [LoggerMessage(3401, LogLevel.Warning, "The inventory in {Directory} cannot be used: {Reason}")]
    private partial void LogUnusable(string directory, string reason);

    [LoggerMessage(3402, LogLevel.Warning, "The memory that {Guest} left was not kept: {Reason}")]
    private partial void LogNotKept(string guest, string reason);

    [LoggerMessage(3403, LogLevel.Warning, "{Image} was not indexed: {Reason}")]
    private partial void LogNotIndexed(string image, string reason);

    [LoggerMessage(3404, LogLevel.Warning, "The index {Path} was thrown away: {Reason}")]
    private partial void LogThrownAway(string path, string reason);

    [LoggerMessage(3405, LogLevel.Information, "{Image} has changed since it was indexed and is indexed anew")]
    private partial void LogChanged(string image);

    [LoggerMessage(3406, LogLevel.Information, "{Path} leaves the inventory, which may take {Bytes} bytes")]
    private partial void LogTrimmed(string path, long bytes);
}
