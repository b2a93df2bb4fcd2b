using System.Diagnostics;
using Godwit.ChunkStore;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.ChunkStore.Trees;
using Godwit.Host.Inventory;
using Godwit.Pages;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Parcels;

/// <summary>How far a hoard has come, in bytes of content.</summary>
/// <param name="Needed">What the parcel has, each content once, zeros left out.</param>
/// <param name="Held">Of it, what was here before: in place, to be rebuilt, or hoarded.</param>
/// <param name="Wanted">Of it, what is to be fetched now.</param>
/// <param name="Hoarded">Of that, what has been.</param>
/// <param name="Left">Of it, what the budget leaves to the resume.</param>
/// <param name="Fetched">Bytes of packs that were read from the store.</param>
public sealed record HoardReport(long Needed, long Held, long Wanted, long Hoarded, long Left, long Fetched);

/// <summary>Brings what a parcel needs and this host lacks into its inventory, ahead of the resume.</summary>
/// <remarks>
/// Everything else goes before: it works with the lowest weight for processors and disks. Every chunk has been named
/// when it is put, and is named again when the resume takes it.
/// </remarks>
/// <param name="have">What this host can rebuild beside the hoard; null if nothing may be.</param>
public sealed class ParcelHoarder(StoreReader reader, ParcelManifest manifest, GuestInventory? have, Hoard hoard)
{
    // 512 KiB: a cap is kept in steps of this.
    private const int PagesAtOnce = 128;
    private const int CommitPages = 16_384;
    private readonly byte[] _page = new byte[Page.Size];
    private readonly HashSet<ChunkId> _seen = [];
    private readonly List<ChunkId> _wanted = [];
    private readonly long _began = Stopwatch.GetTimestamp();
    private long _needed;
    private long _held;
    private long _hoarded;
    private long _left;
    private long _steps;

    /// <summary>So far; what is needed, held and wanted grows until the plan is made.</summary>
    public HoardReport Report => new(
        Interlocked.Read(ref _needed), Interlocked.Read(ref _held), (long)_wanted.Count * Page.Size,
        Interlocked.Read(ref _hoarded), Interlocked.Read(ref _left), reader.BytesRead);

    /// <summary>Grows as long as something is done.</summary>
    public long Steps => Interlocked.Read(ref _steps);

    /// <summary>Looks what is lacking, and hoards the trees.</summary>
    /// <returns>Bytes that the hoard takes when everything has been fetched.</returns>
    /// <exception cref="StorageException">The store does not answer.</exception>
    /// <exception cref="ChunkLostException">A node cannot be had.</exception>
    public async Task<long> PlanAsync(CancellationToken cancellationToken)
    {
        await LowPriority.Run("hoard plan", () =>
        {
            // What the resume wants first comes first, should a budget leave the rest out.
            foreach (ParcelPart part in manifest.Parts.Except(manifest.Disks))
            {
                Plan(part, file: null, cancellationToken);
            }

            foreach (ParcelPart disk in manifest.Disks)
            {
                using SafeFileHandle? file = TryOpen(disk.Name);
                Plan(disk, file, cancellationToken);
            }
        });
        return (hoard.Blocks + _wanted.Count) * Page.Size;
    }

    /// <summary>Fetches what is lacking, as much as there is room for.</summary>
    /// <param name="pagesMax">The rest is left to the resume.</param>
    /// <param name="bitsPerSecond">What may be read from the store; 0 for no cap.</param>
    /// <remarks>However it ends, what has been fetched is hoarded.</remarks>
    /// <exception cref="StorageException">The store does not answer.</exception>
    /// <exception cref="ChunkLostException">A page cannot be had.</exception>
    /// <exception cref="IOException">This host's disk cannot be written.</exception>
    public Task FetchAsync(long pagesMax, ulong bitsPerSecond, CancellationToken cancellationToken)
    {
        int count = (int)Math.Min(pagesMax, _wanted.Count);
        _left = (_wanted.Count - count) * (long)Page.Size;
        _wanted.RemoveRange(count, _wanted.Count - count);
        return LowPriority.Run("hoard", () =>
        {
            try
            {
                Fetch(bitsPerSecond, cancellationToken);
                hoard.Finish();
            }
            catch (Exception e) when (e is not IOException || e is StorageException)
            {
                hoard.Commit();
                throw;
            }
        });
    }

    private void Plan(ParcelPart part, SafeFileHandle? file, CancellationToken cancellationToken)
    {
        ChunkId[] ids = ChunkTree.Load(part.RootId, part.Pages, reader);
        for (long page = 0; page < ids.Length; page++)
        {
            cancellationToken.ThrowIfCancellationRequested();
            Interlocked.Increment(ref _steps);
            ChunkId id = ids[page];
            if (id.IsZeros || !_seen.Add(id))
            {
                continue;
            }

            Interlocked.Add(ref _needed, Page.Size);
            if ((file is not null && IsInPlace(file, page, id)) || ParcelRestorer.TryRebuild(have, id, _page)
                || hoard.TryRetain(id, _page))
            {
                Interlocked.Add(ref _held, Page.Size);
            }
            else
            {
                _wanted.Add(id);
            }
        }

        ChunkTree.Build(ids, HoardNode);
    }

    private ChunkId HoardNode(ReadOnlySpan<byte> node)
    {
        var id = ChunkId.Of(node);
        return have?.TryRead(id, _page, out _) == true ? id : hoard.AddNode(node);
    }

    private void Fetch(ulong bitsPerSecond, CancellationToken cancellationToken)
    {
        var batch = new List<WantedChunk>(PagesAtOnce);
        for (int from = 0; from < _wanted.Count; from += PagesAtOnce)
        {
            cancellationToken.ThrowIfCancellationRequested();
            batch.Clear();
            for (int i = from; i < Math.Min(_wanted.Count, from + PagesAtOnce); i++)
            {
                batch.Add(new WantedChunk(_wanted[i], i));
            }

            reader.Read(batch, (i, content) =>
            {
                if (content.Length != Page.Size)
                {
                    throw new StoreFormatException($"page {_wanted[i]}", $"it has {content.Length} bytes");
                }

                hoard.Add(_wanted[i], content);
                Interlocked.Add(ref _hoarded, Page.Size);
                Interlocked.Increment(ref _steps);
            });
            if ((from + PagesAtOnce) % CommitPages == 0)
            {
                hoard.Commit();
            }

            Rest(bitsPerSecond, cancellationToken);
        }
    }

    // Until what was read is what the cap allows since the beginning.
    private void Rest(ulong bitsPerSecond, CancellationToken cancellationToken)
    {
        while (bitsPerSecond > 0)
        {
            TimeSpan due = TimeSpan.FromSeconds(reader.BytesRead * 8.0 / bitsPerSecond);
            TimeSpan early = due - Stopwatch.GetElapsedTime(_began);
            if (early <= TimeSpan.Zero)
            {
                return;
            }

            cancellationToken.WaitHandle.WaitOne(early < TimeSpan.FromSeconds(1) ? early : TimeSpan.FromSeconds(1));
            cancellationToken.ThrowIfCancellationRequested();
            Interlocked.Increment(ref _steps);
        }
    }

    private bool IsInPlace(SafeFileHandle file, long block, ChunkId id)
    {
        _page.AsSpan().Clear();
        return RandomAccess.Read(file, _page, block * Page.Size) > 0 && ChunkId.Of(_page) == id;
    }

    private static SafeFileHandle? TryOpen(string path)
    {
        try
        {
            return File.OpenHandle(path, share: FileShare.ReadWrite | FileShare.Delete);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // It is not there yet; or the resume says what is wrong with it.
            return null;
        }
    }
}
