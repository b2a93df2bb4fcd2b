using Godwit.ChunkStore.Packs;

namespace Godwit.ChunkStore.Storage;

/// <summary>A chunk store as one host has it open; docs/formats/chunk-store.md.</summary>
/// <remarks>
/// Holds the indexes and nothing else; any thread may use it. What other hosts have added since shows after
/// <see cref="Refresh"/>.
/// </remarks>
public sealed partial class Store
{
    private readonly Lock _changing = new();
    private volatile State _state = new([], [], new HashSet<ChunkId>(), new HashSet<ChunkId>(), []);

    private Store(IObjectStorage objects, StoreDescriptor descriptor, StoreKey? key, Func<ISegmentCoder> coders)
    {
        Objects = objects;
        Descriptor = descriptor;
        Key = key;
        Coders = coders;
    }

    // An index may name packs that are gone: two hosts may have merged indexes at the same time. What is condemned is
    // read still, and not built on; so is what only the packs themselves still say, and everything as long as it is not
    // known what is condemned.
    private sealed class State(
        IReadOnlyList<ChunkIndex> indexes, IReadOnlyList<ChunkIndex> rebuilt, IReadOnlySet<ChunkId> packs,
        IReadOnlySet<ChunkId> condemned, IReadOnlyList<StoreFormatException> broken)
    {
        public IReadOnlyList<ChunkIndex> Indexes => indexes;
        public IReadOnlyList<ChunkIndex> Rebuilt => rebuilt;
        public IReadOnlySet<ChunkId> Packs => packs;
        public IReadOnlySet<ChunkId> Condemned => condemned;
        public IReadOnlyList<StoreFormatException> Broken => broken;

        // Those that were read, then those that were rebuilt.
        public IReadOnlyList<ChunkIndex> All { get; } = [.. indexes, .. rebuilt];

        // By index and by its number of a pack.
        public bool[][] MayBuildOn { get; } = [.. indexes.Select(index => index.Packs
            .Select(pack => packs.Contains(pack) && !condemned.Contains(pack)
                && !broken.Any(IsCondemnation)).ToArray()),
            .. rebuilt.Select(index => new bool[index.Packs.Length])];

        public State With(IReadOnlyList<ChunkIndex> otherIndexes, IReadOnlySet<ChunkId> otherPacks) =>
            new(otherIndexes, rebuilt, otherPacks, condemned, broken);
    }

    public StoreDescriptor Descriptor { get; }

    public IObjectStorage Objects { get; }

    /// <summary>Chunks that can be found; one that lies in two packs counts twice.</summary>
    public long Chunks => _state.Indexes.Sum(index => (long)index.Count);

    internal StoreKey? Key { get; }

    internal Func<ISegmentCoder> Coders { get; }

    internal IReadOnlyList<ChunkIndex> Indexes => _state.Indexes;

    internal IReadOnlySet<ChunkId> Condemned => _state.Condemned;

    /// <summary>Indexes and notes that could not be read at the last look.</summary>
    internal IReadOnlyList<StoreFormatException> Broken => _state.Broken;

    /// <summary>Packs that were there at the last look, those written here since included.</summary>
    internal IReadOnlySet<ChunkId> Packs => _state.Packs;

    /// <summary>Makes an empty place a store.</summary>
    /// <param name="id">A new UUID.</param>
    /// <returns>False if it is one already; that one stays as it is.</returns>
    public static bool Create(IObjectStorage objects, string id, StoreKey? key) => objects.PutIfAbsent(
        ObjectNames.Descriptor,
        new StoreDescriptor(StoreDescriptor.FormatVersion, id, key?.CheckValue(id) ?? "").Write());

    /// <summary>The store that lies there; null if there is none.</summary>
    /// <exception cref="StoreFormatException">It is of a later version, or damaged.</exception>
    public static StoreDescriptor? Find(IObjectStorage objects) =>
        objects.TryReadAll(ObjectNames.Descriptor) is { } bytes ? StoreDescriptor.Read(bytes.Span) : null;

    /// <summary>Opens a store.</summary>
    /// <param name="key">Null if it is not encrypted.</param>
    /// <param name="coders">Makes coders, one for each thread that needs one.</param>
    /// <exception cref="StoreFormatException">The key is not its key, or it is of a later version.</exception>
    /// <exception cref="StorageException">There is no store, or it does not answer.</exception>
    public static Store Open(IObjectStorage objects, StoreKey? key, Func<ISegmentCoder> coders)
    {
        StoreDescriptor descriptor = Find(objects) ?? throw new StorageException(
            StorageFailure.Unreachable, "there is no store (is the file system mounted?)");
        if ((key?.CheckValue(descriptor.Id) ?? "") != descriptor.KeyCheck)
        {
            throw new StoreFormatException(ObjectNames.Descriptor, descriptor.KeyCheck.Length == 0
                ? "the store is not encrypted, and a key was given"
                : key is null ? "the store is encrypted, and no key was given" : "the key is not this store's");
        }

        var store = new Store(objects, descriptor, key, coders);
        store.Refresh();
        return store;
    }

    /// <summary>Learns of what other hosts have added or condemned.</summary>
    /// <remarks>
    /// An index that is damaged is passed over, and what it said is asked of the packs that no other one names.
    /// </remarks>
    /// <exception cref="StoreFormatException">An index is of a later version.</exception>
    /// <exception cref="StorageException">Another store lies there now, or none.</exception>
    public void Refresh()
    {
        lock (_changing)
        {
            RequireSame();
            const int Attempts = 8;
            for (int attempt = 1; ; attempt++)
            {
                Dictionary<string, ChunkIndex> known = _state.Indexes.ToDictionary(index => index.Name);
                var indexes = new List<ChunkIndex>();
                var broken = new List<StoreFormatException>();
                bool changed = false;
                foreach (StoredObject listed in Objects.List(ObjectNames.Indexes))
                {
                    if (known.TryGetValue(listed.Name, out ChunkIndex? index))
                    {
                        indexes.Add(index);
                    }
                    else if (!ObjectNames.TryId(listed.Name, out _))
                    {
                        // Something of the file system's.
                    }
                    else if (Objects.TryReadAll(listed.Name) is { } bytes)
                    {
                        TryOpen(listed.Name, bytes, indexes, broken);
                    }
                    else
                    {
                        // Replaced between the listing and the look, by one that was not listed yet.
                        changed = true;
                    }
                }

                if (!changed || attempt == Attempts)
                {
                    // Condemned first: a pack that goes between the two looks is not taken for one that stays.
                    HashSet<ChunkId> condemned = ReadCondemned(broken);
                    Dictionary<ChunkId, long> packs = ListPacks();
                    _state = new State(
                        indexes, broken.Any(IsIndex) ? Rebuild(indexes, packs) : [], packs.Keys.ToHashSet(),
                        condemned, broken);
                    return;
                }
            }
        }
    }

    /// <summary>Whether a chunk is there and may be built on.</summary>
    public bool Contains(ChunkId id) => TryFindLasting(_state, id, out _, out _);

    /// <summary>A reader for one thread; the caller disposes it.</summary>
    /// <param name="cancellation">Ends its reads: each looks before it begins.</param>
    public StoreReader OpenReader(CancellationToken cancellation = default) => OpenReader(null, cancellation);

    /// <summary>The same with something that is asked before the store; the caller disposes of it.</summary>
    public StoreReader OpenReader(IChunksAtHand? atHand, CancellationToken cancellation) =>
        new(this, cancellation) { AtHand = atHand };

    /// <summary>Everywhere that a chunk lies, those places that stay first.</summary>
    internal IReadOnlyList<(ChunkIndex Index, int Entry)> Find(ChunkId id)
    {
        var lasting = new List<(ChunkIndex, int)>();
        var leaving = new List<(ChunkIndex, int)>();
        Find(_state, id, lasting, leaving);
        return [.. lasting, .. leaving];
    }

    /// <summary>All places of a chunk that stay; if none does, all the others.</summary>
    /// <param name="places">Emptied, then filled.</param>
    /// <returns>Whether these places stay.</returns>
    internal bool FindLive(ChunkId id, List<(ChunkIndex Index, int Entry)> places)
    {
        places.Clear();
        State state = _state;
        Find(state, id, places, null);
        if (places.Count > 0)
        {
            return true;
        }

        Find(state, id, null, places);
        return false;
    }

    /// <summary>What a pack holds.</summary>
    internal IEnumerable<ChunkId> EntriesOf(ChunkId pack)
    {
        // Each index that names a pack names all that is in it.
        if (_state.All.FirstOrDefault(index => index.Packs.Contains(pack)) is { } index)
        {
            int number = Array.IndexOf(index.Packs, pack);
            for (int entry = 0; entry < index.Count; entry++)
            {
                if (index.PackOf(entry) == number)
                {
                    yield return index.IdAt(entry);
                }
            }
        }
    }

    /// <summary>The first place of a chunk, one that stays if there is one; false if there is none.</summary>
    internal bool TryFindFirst(ChunkId id, out ChunkIndex? index, out int entry)
    {
        if (TryFindLasting(_state, id, out index, out entry))
        {
            return true;
        }

        if (Find(id) is [var (found, foundEntry), ..])
        {
            (index, entry) = (found, foundEntry);
            return true;
        }

        return false;
    }

    /// <summary>A place of a chunk in a pack that no listing has shown.</summary>
    internal bool TryFindUnlisted(ChunkId id, out ChunkIndex? index, out int entry)
    {
        foreach (ChunkIndex one in _state.All)
        {
            if (one.TryFind(id, out entry) && (uint)one.PackOf(entry) < (uint)one.Packs.Length)
            {
                index = one;
                return true;
            }
        }

        (index, entry) = (null, 0);
        return false;
    }

    /// <summary>Puts an index of packs that were just put, and uses it from now on.</summary>
    internal void AddIndex(byte[] bytes)
    {
        string name = $"{ObjectNames.Indexes}/{ChunkId.Of(bytes)}";
        Objects.PutIfAbsent(name, bytes);
        ChunkIndex index = ChunkIndex.Open(name, bytes, Key);
        lock (_changing)
        {
            _state = _state.With(
                [.. _state.Indexes.Where(old => old.Name != name), index],
                new HashSet<ChunkId>([.. _state.Packs, .. index.Packs]));
        }
    }

    /// <summary>Puts one index in place of several; the new one is there before the old ones go.</summary>
    /// <param name="without">Packs that are left out.</param>
    internal void Merge(IReadOnlyList<ChunkIndex> indexes, IReadOnlySet<ChunkId> without, ReadOnlySpan<byte> salt)
    {
        // What is gone already is of no use to anybody. A listing may be older than another host's index: only a look
        // at the pack itself tells.
        HashSet<ChunkId> leftOut = [.. without, .. indexes.SelectMany(index => index.Packs).Distinct()
            .Where(pack => !_state.Packs.Contains(pack) && !IsThere(pack))];
        if (ChunkIndexBuilder.Merge(indexes, leftOut, Key, salt) is { } merged)
        {
            AddIndex(merged);
        }

        foreach (ChunkIndex index in indexes)
        {
            Objects.Delete(index.Name);
        }

        lock (_changing)
        {
            _state = _state.With([.. _state.Indexes.Where(index => !indexes.Contains(index))], _state.Packs);
        }
    }

    private static void Find(
        State state, ChunkId id, List<(ChunkIndex, int)>? lasting, List<(ChunkIndex, int)>? leaving)
    {
        for (int i = 0; i < state.All.Count; i++)
        {
            ChunkIndex index = state.All[i];
            index.TryFind(id, out int entry);
            for (; entry < index.Count && index.IdAt(entry) == id; entry++)
            {
                int pack = index.PackOf(entry);
                if ((uint)pack < (uint)index.Packs.Length && state.Packs.Contains(index.Packs[pack]))
                {
                    (state.MayBuildOn[i][pack] ? lasting : leaving)?.Add((index, entry));
                }
            }
        }
    }

    // What is mounted may come and go beneath a process.
    private void RequireSame()
    {
        StoreDescriptor there = Find(Objects) ?? throw new StorageException(
            StorageFailure.Unreachable, "there is no store (is the file system mounted?)");
        if (there != Descriptor)
        {
            throw new StorageException(StorageFailure.Changed, there.Id == Descriptor.Id
                ? $"store {there.Id} has another key now"
                : $"store {there.Id} lies there now, and it was {Descriptor.Id}");
        }
    }

    private bool IsThere(ChunkId pack) =>
        Objects.TryRead(ObjectNames.Pack(pack), 0, stackalloc byte[ObjectHeader.Size]);

    private static bool TryFindLasting(State state, ChunkId id, out ChunkIndex? index, out int entry)
    {
        for (int i = 0; i < state.Indexes.Count; i++)
        {
            index = state.Indexes[i];
            if (!index.TryFind(id, out entry))
            {
                continue;
            }

            bool[] mayBuildOn = state.MayBuildOn[i];
            for (; entry < index.Count && index.IdAt(entry) == id; entry++)
            {
                int number = index.PackOf(entry);
                if ((uint)number < (uint)mayBuildOn.Length && mayBuildOn[number])
                {
                    return true;
                }
            }
        }

        (index, entry) = (null, 0);
        return false;
    }

    private void TryOpen(
        string name, ReadOnlyMemory<byte> bytes, List<ChunkIndex> indexes, List<StoreFormatException> broken)
    {
        try
        {
            indexes.Add(ChunkIndex.Open(name, bytes, Key));
        }
        catch (StoreFormatException e) when (!e.IsNewer)
        {
            broken.Add(e);
        }
    }

    // With their lengths.
    private Dictionary<ChunkId, long> ListPacks()
    {
        Dictionary<ChunkId, long> packs = [];
        foreach (StoredObject listed in Objects.List(ObjectNames.Packs))
        {
            if (ObjectNames.TryId(listed.Name, out ChunkId pack))
            {
                packs[pack] = listed.Bytes;
            }
        }

        return packs;
    }

    private HashSet<ChunkId> ReadCondemned(List<StoreFormatException> broken)
    {
        HashSet<ChunkId> packs = [];
        foreach (StoredObject listed in Objects.List(ObjectNames.Condemned))
        {
            try
            {
                packs.UnionWith(StoreCollector.ReadCondemned(this, listed.Name));
            }
            catch (StoreFormatException e) when (!e.IsNewer)
            {
                broken.Add(e);
            }
        }

        return packs;
    }
}
