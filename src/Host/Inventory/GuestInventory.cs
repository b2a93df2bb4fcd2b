using System.Diagnostics;
using Godwit.ChunkStore;
using Godwit.ChunkStore.Storage;
using Godwit.Host.Qemu;
using Godwit.Migration.Wire;
using Godwit.Pages;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Inventory;

/// <summary>What this host can rebuild for one guest on its way here.</summary>
/// <remarks>
/// Any thread may call <see cref="Rebuild"/>, also while more is being found; nobody may after
/// <see cref="Dispose"/>.
/// </remarks>
public sealed class GuestInventory : IChunksAtHand, IDisposable
{
    /// <summary>Pages that <see cref="Rebuild"/> takes at a time.</summary>
    public const int RebuildMax = 64;

    // Short of what a source waits before it sends what it might have named.
    private static readonly TimeSpan RunningPatience = TimeSpan.FromSeconds(1.5);
    private readonly Lock _adding = new();
    private readonly IReadOnlyList<string> _missing;
    private readonly IReadOnlyList<GuestMemory> _running;
    private volatile ContentSource[] _sources;

    internal GuestInventory(
        IReadOnlyList<ContentSource> ready, IReadOnlyList<string> missing, IReadOnlyList<GuestMemory> running)
    {
        _running = running;
        _sources = [.. ready];
        _missing = missing;
    }

    /// <summary>Content that was hoarded for the guest, in bytes, and as much of it as was given out.</summary>
    public (long Bytes, long UsedBytes) Hoarded => (
        _sources.Where(source => source.IsHoard).Sum(source => (long)source.Index.CountBlocks() * Page.Size),
        _sources.Where(source => source.IsHoard).Sum(source => (long)source.UsedBlocks * Page.Size));

    /// <summary>Gives a chunk: a node of a tree over anything that there is, or a page.</summary>
    public bool TryRead(ChunkId id, Span<byte> to, out int length)
    {
        foreach (ContentSource source in _sources)
        {
            if (source.TryRead(id, to, out length))
            {
                return true;
            }
        }

        length = 0;
        return false;
    }

    /// <summary>True if an index has the name; what lies there has not been looked at.</summary>
    public bool Holds(ContentName name) => _sources.Any(source => source.Index.TryFind(name, out _));

    /// <summary>Rebuilds a page by its name.</summary>
    /// <param name="name">16 bytes.</param>
    /// <param name="page">4096 bytes; anything may be left in them if the result is false.</param>
    /// <returns>True only if the page has this name: what was read has been named again.</returns>
    public bool TryRebuild(ReadOnlySpan<byte> name, Span<byte> page) => Rebuild(name, page) != 0;

    /// <summary>Rebuilds up to <see cref="RebuildMax"/> pages by their names.</summary>
    /// <param name="names">16 bytes for each.</param>
    /// <param name="pages">4096 bytes for each; anything may be left in those that the result leaves out.</param>
    /// <returns>A bit for each page, the first one's lowest, set only if the page has its name: what was read has been
    /// named again.</returns>
    public ulong Rebuild(ReadOnlySpan<byte> names, Span<byte> pages)
    {
        int count = names.Length / ContentName.Size;
        ulong all = ulong.MaxValue >> (RebuildMax - count);
        ulong rebuilt = 0;
        foreach (ContentSource source in _sources)
        {
            rebuilt |= source.Read(names, pages, all & ~rebuilt);
            if (rebuilt == all)
            {
                break;
            }
        }

        return rebuilt;
    }

    /// <summary>Rebuilds a page out of what the guest left of it and what has changed since.</summary>
    /// <param name="page">The page.</param>
    /// <param name="delta">What changed.</param>
    /// <param name="name">16 bytes.</param>
    /// <param name="content">4096 bytes; anything may be left in them if the result is false.</param>
    /// <returns>True only if the content has this name.</returns>
    public bool TryRebuild(
        PageNumber page, ReadOnlySpan<byte> delta, ReadOnlySpan<byte> name, Span<byte> content) =>
        _sources.FirstOrDefault(source => source is { Origin: ContentOrigin.OwnMemory, IsHoard: false }) is { } kept
        && kept.TryRead(page, content) && PageDelta.TryApply(delta, content)
        && ContentName.Of(content) == ContentName.Read(name);

    /// <summary>
    /// Offers everything there is, then indexes what has no index yet, running guests and disk images, and offers that.
    /// </summary>
    /// <param name="offer">Takes up to <see cref="ControlMessage.InventoryOffer.CountMax"/> fingerprints; blocks while
    /// too many are on their way; false ends it.</param>
    /// <param name="ready">Called when everything has been offered that was ready, and of the running guests as much as
    /// could be indexed without keeping the source waiting.</param>
    internal void Offer(Func<ContentOrigin, ReadOnlyMemory<byte>, bool> offer, Action ready)
    {
        foreach (ContentSource source in _sources)
        {
            if (!Offer(source, offer))
            {
                return;
            }
        }

        long begun = Stopwatch.GetTimestamp();
        bool isReady = false;
        void BeReady()
        {
            if (!isReady)
            {
                isReady = true;
                ready();
                LowPriority.Lower();
            }
        }

        using var stop = new CancellationTokenSource();
        bool OfferRunning(ContentOrigin origin, ReadOnlyMemory<byte> fingerprints)
        {
            if (Stopwatch.GetElapsedTime(begun) > RunningPatience)
            {
                BeReady();
            }

            return offer(origin, fingerprints);
        }

        foreach (GuestMemory memory in _running)
        {
            Index(memory.File, ContentOrigin.Sibling, () => memory.File, OfferRunning, stop);
        }

        BeReady();
        foreach (string path in _missing)
        {
            try
            {
                using var file = File.OpenHandle(path, share: FileShare.ReadWrite | FileShare.Delete);
                Index(file, ContentOrigin.Disk, () => Open(path), offer, stop);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                // Its pages are sent as any others; the index that is made afterwards says what is wrong.
            }
        }
    }

    public void Dispose()
    {
        foreach (ContentSource source in _sources)
        {
            source.Dispose();
        }

        foreach (GuestMemory memory in _running)
        {
            memory.Dispose();
        }
    }

    // What changes behind the index, as running memory does, is not rebuilt from there: it is named when it is read.
    private void Index(
        SafeFileHandle file, ContentOrigin origin, Func<SafeFileHandle> open,
        Func<ContentOrigin, ReadOnlyMemory<byte>, bool> offer, CancellationTokenSource stop)
    {
        try
        {
            FileIndexer.Index(file, new ContentIndexBuilder(), part =>
            {
                if (!Offer(Add(part, origin, open()), offer))
                {
                    stop.Cancel();
                }
            }, stop.Token);
        }
        catch (OperationCanceledException)
        {
            // The move needs no more of it.
        }
    }

    private ContentSource Add(ContentIndexBuilder part, ContentOrigin origin, SafeFileHandle file)
    {
        byte[] bytes = part.Build(new IndexSubject(default, 0, 0, ""));
        if (!ContentIndex.TryOpen(bytes, out ContentIndex? index, out string why))
        {
            throw new InvalidOperationException($"An index that was just made is refused: {why}.");
        }

        var source = new ContentSource(origin, index!, null, file);
        lock (_adding)
        {
            _sources = [.. _sources, source];
        }

        return source;
    }

    private static SafeFileHandle Open(string path) =>
        File.OpenHandle(path, share: FileShare.ReadWrite | FileShare.Delete);

    private static bool Offer(ContentSource source, Func<ContentOrigin, ReadOnlyMemory<byte>, bool> offer)
    {
        const int bytesMax = ControlMessage.InventoryOffer.CountMax * Fingerprint.Size;
        ReadOnlyMemory<byte> fingerprints = source.Index.Fingerprints;
        for (int at = 0; at < fingerprints.Length; at += bytesMax)
        {
            if (!offer(source.Origin, fingerprints.Slice(at, Math.Min(bytesMax, fingerprints.Length - at))))
            {
                return false;
            }
        }

        return true;
    }
}
