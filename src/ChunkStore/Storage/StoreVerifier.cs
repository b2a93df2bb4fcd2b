using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Trees;

namespace Godwit.ChunkStore.Storage;

/// <summary>What a look through a store found.</summary>
/// <param name="Parcels">Manifests that were looked at.</param>
/// <param name="Chunks">Chunks that they name, each counted once.</param>
/// <param name="BytesRead">Bytes of packs that were read.</param>
/// <param name="Problems">What is wrong, each in one line; empty if nothing is.</param>
/// <param name="Lost">Chunks that cannot be had any more.</param>
/// <param name="Repaired">Chunks of which a good copy was put again, and objects that were made again.</param>
/// <param name="Unrepaired">Problems that are as they were: chunks that are lost included.</param>
public sealed record VerificationReport(
    int Parcels, long Chunks, long BytesRead, IReadOnlyList<string> Problems, IReadOnlyList<ChunkId> Lost,
    int Repaired, int Unrepaired);

/// <summary>Finds another copy of a chunk, outside the store; null if there is none.</summary>
public delegate byte[]? ChunkRescue(ChunkId id);

/// <summary>Looks through everything that the parcels of a store name.</summary>
public sealed class StoreVerifier(Store store, IParcelJudge judge, StoreWriterOptions options)
{
    private const int ProblemsMax = 1000;
    private readonly List<string> _problems = [];

    /// <summary>Looks through all parcels.</summary>
    /// <param name="contents">
    /// True: every chunk is read and named again, and what is damaged is repaired. False: that it is listed is enough.
    /// </param>
    /// <param name="rescue">Asked for chunks that the store cannot give; null if there is nobody to ask.</param>
    /// <param name="cancellation">Ends it; what has been repaired by then may have to be repaired again.</param>
    public VerificationReport Run(bool contents, ChunkRescue? rescue, CancellationToken cancellation = default)
    {
        using StoreReader reader = store.OpenReader(cancellation);
        using var writer = new StoreWriter(store, options);
        HashSet<ChunkId> seen = [];
        List<ChunkId> lost = [];
        (int repaired, int unrepaired) = LookAtIndexes(contents);
        string parcel = "";
        byte[]? Restore(ChunkId id)
        {
            if (rescue?.Invoke(id) is { } chunk && ChunkId.Of(chunk) == id)
            {
                writer.Add(id, chunk, Packs.Segment.GroupOf(chunk.Length));
                repaired++;
                return chunk;
            }

            lost.Add(id);
            Problem($"chunk {id} is lost; parcel {parcel} needs it");
            return null;
        }

        HashSet<ChunkId> damaged = [];
        reader.Damaged += damage =>
        {
            damaged.Add(damage.Pack);
            Problem($"chunk {damage.Id} in pack {damage.Pack} at byte {damage.Offset}: {damage.Why}"
                + (damage.HasTwin ? "; another copy is good" : ""));
        };
        int parcels = 0;
        foreach ((string guest, string id) in ParcelShelf.List(store))
        {
            try
            {
                if (ParcelShelf.Find(store, guest, id, judge) is not { } manifest)
                {
                    continue;
                }

                parcels++;
                parcel = id;
                foreach (ParcelPart part in manifest.Parts)
                {
                    Look(part, reader, seen, contents, Restore);
                }
            }
            catch (Exception e) when (e is ParcelRefusedException or ChunkLostException or StoreFormatException)
            {
                Problem($"parcel {id}: {e.Message}");
                unrepaired++;
            }
        }

        writer.Flush();
        if (contents)
        {
            Retire(damaged, seen, lost, writer);
        }

        return new VerificationReport(
            parcels, seen.Count, reader.BytesRead, _problems, lost, repaired, unrepaired + lost.Count);
    }

    private (int Repaired, int Unrepaired) LookAtIndexes(bool contents)
    {
        if (!contents)
        {
            store.Refresh();
            foreach (StoreFormatException e in store.Broken)
            {
                Problem(e.Message);
            }

            return (0, store.Broken.Count);
        }

        (IReadOnlyList<string> repaired, IReadOnlyList<string> broken) = store.Recover(options.Random);
        foreach (string problem in repaired.Concat(broken))
        {
            Problem(problem);
        }

        return (repaired.Count, broken.Count);
    }

    // What parcels need of damaged packs is put again, and they are condemned: nobody builds on them any more, or comes
    // upon the damage again. A pack stays if it is the only one that has something, damaged as it is.
    private void Retire(HashSet<ChunkId> damaged, HashSet<ChunkId> named, List<ChunkId> lost, StoreWriter writer)
    {
        using StoreReader reader = store.OpenReader();
        HashSet<ChunkId> retired = [];
        HashSet<ChunkId> nowhere = [.. lost];
        foreach (ChunkId pack in damaged.Where(store.Packs.Contains))
        {
            ChunkId[] needed = [.. store.EntriesOf(pack).Where(named.Contains)];
            if (needed.Any(nowhere.Contains))
            {
                continue;
            }

            try
            {
                foreach (ChunkId id in needed)
                {
                    byte[] chunk = reader.Read(id);
                    writer.Add(id, chunk, Packs.Segment.GroupOf(chunk.Length));
                }

                retired.Add(pack);
            }
            catch (ChunkLostException e)
            {
                Problem(e.Message);
            }
        }

        writer.Flush();
        if (retired.Count > 0)
        {
            byte[] run = new byte[8];
            options.Random(run);
            StoreCollector.Condemn(store, $"verify-{Convert.ToHexStringLower(run)}", retired, options.Random);
            store.Refresh();
        }
    }

    private void Look(
        ParcelPart part, StoreReader reader, HashSet<ChunkId> seen, bool contents, ChunkRescue restore)
    {
        const int pagesAtOnce = 4096;
        var pages = new List<ChunkId>();
        // A damaged node hides what is below it: it is put again before the walk goes on there.
        ChunkTree.Walk(part.RootId, part.Pages, reader, seen.Add, page =>
        {
            if (seen.Add(page))
            {
                pages.Add(page);
            }
        }, restore);
        foreach (ChunkId[] ids in pages.Chunk(pagesAtOnce))
        {
            if (contents)
            {
                ReadThrough(ids, reader, restore);
                continue;
            }

            foreach (ChunkId id in ids.Where(id => store.Find(id).Count == 0))
            {
                restore(id);
            }
        }
    }

    private static void ReadThrough(ChunkId[] ids, StoreReader reader, ChunkRescue restore)
    {
        try
        {
            reader.Read([.. ids.Select((id, i) => new WantedChunk(id, i))], (_, _) => { });
        }
        catch (ChunkLostException) when (ids.Length > 1)
        {
            // One of them: each by itself.
            foreach (ChunkId id in ids)
            {
                ReadThrough([id], reader, restore);
            }
        }
        catch (ChunkLostException e)
        {
            restore(e.Id);
        }
    }

    private void Problem(string text)
    {
        if (_problems.Count < ProblemsMax && !_problems.Contains(text))
        {
            _problems.Add(text);
        }
    }
}
