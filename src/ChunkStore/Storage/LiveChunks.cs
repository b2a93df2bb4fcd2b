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
    private readonly List<(ChunkIndex Index, int Entry)> _places = [];
    private readonly HashSet<(string Guest, string Id)> _parcels = [];

    private LiveChunks(Store store) => _store = store;

    /// <summary>Parcels that were looked at; one that went before it was is not among them.</summary>
    public IReadOnlySet<(string Guest, string Id)> Parcels => _parcels;

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
            if (ParcelShelf.Find(store, guest, id, judge) is not { } manifest)
            {
                // Removed since the listing, then nobody needs it; or void.
                if (!ParcelShelf.IsGone(store, guest, id))
                {
                    live._parcels.Add((guest, id));
                }
            }
            else
            {
                live._parcels.Add((guest, id));
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
        // Indexes that were merged since they were marked still say what is live.
        foreach (ChunkIndex index in _store.Indexes.Union(_marks.Keys))
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

    /// <summary>The live chunks of which nothing would last if some packs went.</summary>
    public IEnumerable<ChunkId> In(IReadOnlySet<ChunkId> packs)
    {
        foreach ((ChunkIndex index, BitArray marks) in _marks)
        {
            for (int entry = 0; entry < index.Count; entry++)
            {
                if (marks[entry] && packs.Contains(index.Packs[index.PackOf(entry)])
                    && !LastsWithout(packs, index.IdAt(entry)))
                {
                    yield return index.IdAt(entry);
                }
            }
        }
    }

    private bool LastsWithout(IReadOnlySet<ChunkId> packs, ChunkId id)
    {
        var places = new List<(ChunkIndex Index, int Entry)>();
        return _store.FindLive(id, places) && places.Any(
            place => !packs.Contains(place.Index.Packs[place.Index.PackOf(place.Entry)]));
    }

    // True the first time. A chunk that lies in several packs is marked in all of them: which of them holds it whole
    // is not known without reading it, and another collector may be removing one of them.
    private bool Add(ChunkId id)
    {
        _store.FindLive(id, _places);
        if (_places.Count == 0)
        {
            throw new ChunkLostException(id, "a parcel names it and no index knows it");
        }

        bool isNew = false;
        foreach ((ChunkIndex index, int entry) in _places)
        {
            if (!_marks.TryGetValue(index, out BitArray? marks))
            {
                _marks[index] = marks = new BitArray(index.Count);
            }

            isNew |= !marks[entry];
            marks[entry] = true;
        }

        Count += isNew ? 1 : 0;
        return isNew;
    }
}
