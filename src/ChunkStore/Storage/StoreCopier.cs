using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Trees;

namespace Godwit.ChunkStore.Storage;

/// <summary>What copying a parcel took.</summary>
/// <param name="IsNew">False if it was there already.</param>
/// <param name="Chunks">That were not there.</param>
/// <param name="BytesWritten">Into the store it went to.</param>
/// <param name="BytesRead">Out of the store it came from.</param>
public sealed record CopyReport(bool IsNew, long Chunks, long BytesWritten, long BytesRead);

/// <summary>Copies parcels from one store to another, and of each only what is not there.</summary>
/// <remarks>
/// Trees are walked top down, and no subtree is entered that a parcel of the same guest has in the other store. What an
/// interrupted copy has put is found again. A session has to be open on both stores meanwhile.
/// </remarks>
public sealed class StoreCopier(Store from, Store to, IParcelJudge judge, StoreWriterOptions options)
{
    private const int ChunksAtOnce = 4096;

    // What a cut may cost: 256 MiB of pages.
    private const int ChunksBetweenFlushes = 1 << 16;

    /// <summary>Copies one parcel.</summary>
    /// <param name="session">Open on the store that it goes to.</param>
    /// <exception cref="ParcelRefusedException">It is not what a member has signed.</exception>
    /// <exception cref="ChunkLostException">Something of it cannot be had.</exception>
    /// <exception cref="OperationCanceledException">What has been put is found again by the next copy.</exception>
    public CopyReport Copy(
        string guest, string id, StoreSession session, CancellationToken cancellation = default)
    {
        if (ParcelShelf.Find(to, guest, id, judge) is not null
            || ParcelShelf.Find(from, guest, id, judge) is not { } manifest)
        {
            return new CopyReport(false, 0, 0, 0);
        }

        using StoreReader there = to.OpenReader(cancellation);
        using StoreReader reader = from.OpenReader(cancellation);
        using var writer = new StoreWriter(to, options);
        LiveChunks live = LiveChunks.Mark(
            to, [.. ParcelShelf.List(to).Where(parcel => parcel.Guest == guest)], judge, there);
        var missing = new List<ChunkId>();
        HashSet<ChunkId> entered = [];
        foreach (ParcelPart part in manifest.Parts)
        {
            // Nodes are put like pages: that one is in the store says nothing of what is below it.
            ChunkTree.Walk(part.RootId, part.Pages, reader, node =>
            {
                if (live.Contains(node) || !entered.Add(node))
                {
                    return false;
                }

                missing.Add(node);
                return true;
            }, page => missing.Add(page));
            Copy(missing, reader, writer);
            missing.Clear();
        }

        writer.Flush();
        session.RequireThere();
        return new CopyReport(
            ParcelShelf.Copy(from, to, guest, id, options.Random), writer.ChunksNew, writer.BytesWritten,
            reader.BytesRead);
    }

    private static void Copy(List<ChunkId> ids, StoreReader reader, StoreWriter writer)
    {
        long flushed = writer.ChunksNew;
        foreach (ChunkId[] some in ids.Where(id => !writer.Contains(id)).Chunk(ChunksAtOnce))
        {
            reader.Read([.. some.Select((id, i) => new WantedChunk(id, i))], (i, chunk) =>
                writer.Put(some[i], chunk, Packs.Segment.GroupOf(chunk.Length)));
            if (writer.ChunksNew - flushed >= ChunksBetweenFlushes)
            {
                writer.Flush();
                flushed = writer.ChunksNew;
            }
        }
    }
}
