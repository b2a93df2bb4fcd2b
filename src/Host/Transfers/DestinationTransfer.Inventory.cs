using System.Buffers;
using System.Numerics;
using Godwit.Host.Inventory;
using Godwit.Host.Qemu;
using Godwit.Migration;
using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Host.Transfers;

// What this host can rebuild by itself: said at the start, done when a name comes, asked for when it cannot be done.
public sealed partial class DestinationTransfer
{
    // Of 32 KiB each: a slow link is kept busy, and acknowledgements behind them are late by a tenth of a second.
    private const int OffersUnderwayMax = 8;

    private void OfferInventory()
    {
        // Contents of private memory are carried by QEMU's stream: nothing can be put in their place there, and what a
        // page holds cannot be read.
        bool isMapped = machine!.Contract.SharedMemory;
        void Ready() => Enter(_ => _engine.OffersReady(takesDeltas: isMapped));
        if (inventory is not null && isMapped)
        {
            inventory.Offer(Offer, Ready);
        }
        else
        {
            Ready();
        }
    }

    private bool Offer(ContentOrigin origin, ReadOnlyMemory<byte> fingerprints)
    {
        lock (_gate)
        {
            while (_engine.OffersUnderway >= OffersUnderwayMax && _engine.Phase <= MigrationPhase.Copying)
            {
                Monitor.Wait(_gate, 100);
            }

            _engine.Offer(origin, fingerprints);
            Pump();
            return _engine.Phase <= MigrationPhase.Copying;
        }
    }

    private void PlaceKnown(in PageRun run, GuestMemory memory, RefusedPages refused)
    {
        byte[] contents = ArrayPool<byte>.Shared.Rent(GuestInventory.RebuildMax * Page.Size);
        for (int done = 0; done < run.Count; done += GuestInventory.RebuildMax)
        {
            int count = Math.Min(run.Count - done, GuestInventory.RebuildMax);
            ulong rebuilt = inventory?.Rebuild(
                run.Content.Slice(done * PageBatch.NameBytes, count * PageBatch.NameBytes), contents) ?? 0;
            for (int at = 0; at < count;)
            {
                var first = new PageNumber(run.First.Value + done + at);
                int good = Math.Min(BitOperations.TrailingZeroCount(~(rebuilt >> at)), count - at);
                if (good > 0)
                {
                    Put(first, contents.AsSpan(at * Page.Size, good * Page.Size), memory);
                    at += good;
                }
                else
                {
                    refused.Add(first);
                    at++;
                }
            }
        }

        ArrayPool<byte>.Shared.Return(contents);
    }

    private void PlaceChanged(in PageRun run, GuestMemory memory, RefusedPages refused)
    {
        Span<byte> content = stackalloc byte[Page.Size];
        if (inventory is not null && inventory.TryRebuild(run.First, run.Content, run.Name, content))
        {
            Put(run.First, content, memory);
        }
        else
        {
            refused.Add(run.First);
        }
    }

    private void AskAgain(Lane lane, int blockIndex, RefusedPages refused)
    {
        if (refused.TakeNews(blockIndex) is { } wanted)
        {
            Enter(now => _engine.PagesRefused(lane.Number, wanted, now));
        }
    }
}
