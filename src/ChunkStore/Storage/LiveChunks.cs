using System.Collections;
using Godwit.ChunkStore.Packs;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Trees;

namespace Godwit.ChunkStore.Storage;

/// <summary>Which chunks of a store its parcels name: one bit for each entry of its indexes.</summary>
internal sealed class LiveChunks
{
    private readonly Store _store;
    private readonly Dictionary<ChunkIndex, BitArray> _marks = [];

    private LiveChunks(Store store) => _store = store;

    /// <summary>Chunks that are named.</summary>
    public long Count { get; private set; }

    /// <summary>Walks every tree of every parcel; what two parcels share is walked once.</summary>
    /// <exception cref="ParcelRefusedException">A manifest cannot be believed.</exception>
    /// <exception cref="ChunkLostException">A chunk is named and not there.</exception>
    public static LiveChunks Mark(
        Store store, IReadOnlyList<(string Guest, string Id)> parcels, IParcelJudge judge, StoreReader reader)
    {
        var live = new LiveChunks(store);
        foreach ((string guest, string id) in parcels)
        {
            // Removed since the listing: then nobody needs it.
            if (ParcelShelf.Find(store, guest, id, judge) is { } manifest)
            {
                foreach (ParcelPart part in manifest.Parts)
                {
                    ChunkTree.Walk(part.RootId, part.Pages, reader, live.Add, page => live.Add(page));
                }
            }
        }

        return live;
    }

    /// <summary>Whether a parcel names a chunk.</summary>
    public bool Contains(ChunkId id) => _store.TryFindFirst(id, out ChunkIndex? index, out int entry)
        && _marks.TryGetValue(index!, out BitArray? marks) && marks[entry];

    /// <summary>Entries of live chunks and of all, by pack.</summary>
    public Dictionary<ChunkId, (int Live, int All)> ByPack()
    {
        var packs = _store.Packs.ToDictionary(pack => pack, _ => (Live: 0, All: 0));
        foreach (ChunkIndex index in _store.Indexes)
        {
            _marks.TryGetValue(index, out BitArray? marks);
            for (int entry = 0; entry < index.Count; entry++)
            {
                int number = index.PackOf(entry);
                if ((uint)number < (uint)index.Packs.Length
                    && packs.TryGetValue(index.Packs[number], out (int Live, int All) count))
                {
                    bool isLive = marks is not null && marks[entry];
                    packs[index.Packs[number]] = (count.Live + (isLive ? 1 : 0), count.All + 1);
                }
            }
        }

        return packs;
    }

    /// <summary>The live chunks that some packs hold.</summary>
    public IEnumerable<ChunkId> In(IReadOnlySet<ChunkId> packs)
    {
        foreach ((ChunkIndex index, BitArray marks) in _marks)
        {
            for (int entry = 0; entry < index.Count; entry++)
            {
                if (marks[entry] && packs.Contains(index.Packs[index.PackOf(entry)]))
                {
                    yield return index.IdAt(entry);
                }
            }
        }
    }

    // True the first time.
    private bool Add(ChunkId id)
    {
        if (!_store.TryFindFirst(id, out ChunkIndex? index, out int entry))
        {
            throw new ChunkLostException(id, "a parcel names it and no index knows it");
        }

        if (!_marks.TryGetValue(index!, out BitArray? marks))
        {
            _marks[index!] = marks = new BitArray(index!.Count);
        }

        if (marks[entry])
        {
            return false;
        }

        marks[entry] = true;
        Count++;
        return true;
    }
}
