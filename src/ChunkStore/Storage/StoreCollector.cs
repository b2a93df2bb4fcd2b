using Godwit.ChunkStore.Parcels;

namespace Godwit.ChunkStore.Storage;

/// <summary>What a collection did.</summary>
/// <param name="ChunksLive">Chunks that parcels name.</param>
/// <param name="PacksCondemned">Packs that go as soon as nobody can be using them.</param>
/// <param name="PacksRemoved">Packs that went.</param>
/// <param name="BytesFreed">What they took.</param>
/// <param name="BytesMoved">Chunks that were written again, out of packs that were mostly waste.</param>
/// <param name="Waiting">Sessions that the removal of condemned packs waits for.</param>
public sealed record CollectionReport(
    long ChunksLive, int PacksCondemned, int PacksRemoved, long BytesFreed, long BytesMoved, int Waiting);

/// <summary>Removes what no parcel names, while others go on working; docs/formats/chunk-store.md.</summary>
/// <remarks>
/// A pack is condemned first: from then on nobody builds on it. It goes when every session that was under way then has
/// ended, and only if no parcel names it after all. A crash at any point leaves a store in which everything that
/// parcels name is there; the next run goes on.
/// </remarks>
public sealed class StoreCollector(Store store, IParcelJudge judge, StoreWriterOptions options)
{
    /// <summary>A session that is older is one whose host never came back.</summary>
    public static readonly TimeSpan SessionAgeMax = TimeSpan.FromHours(24);

    private const string SessionPrefix = "gc-";
    private const string SeenSuffix = ".seen";

    // A pack with less than half of it in use is worth moving the rest.
    private const double LiveShareMin = 0.5;

    /// <summary>Runs once.</summary>
    /// <param name="runId">Unique: lower-case letters, digits, hyphens.</param>
    /// <exception cref="ParcelRefusedException">A manifest cannot be read: nothing is removed.</exception>
    /// <exception cref="ChunkLostException">A tree is damaged: nothing is removed.</exception>
    /// <exception cref="StoreFormatException">An index or a note is damaged: nothing is removed.</exception>
    /// <exception cref="OperationCanceledException">The next run goes on from what this one has done.</exception>
    public CollectionReport Run(
        string runId, string host, long nowUnixMs, CancellationToken cancellation = default)
    {
        string own = SessionPrefix + runId;
        using StoreSession session = StoreSession.Begin(store, own, host, nowUnixMs, options.Random);
        // Before the parcels: a session that has ended by now has put its parcel before the look at them.
        (List<string> ripe, int waiting) = FindRipe(own, nowUnixMs);
        if (store.Broken is [var broken, ..])
        {
            // What it said is not known: nothing is waste for certain.
            throw new StoreFormatException(broken.What, broken.Why);
        }

        IReadOnlyList<(string Guest, string Id)> parcels = ParcelShelf.List(store);
        using StoreReader reader = store.OpenReader(cancellation);
        LiveChunks live = LiveChunks.Mark(store, parcels, judge, reader);
        Dictionary<ChunkId, (int Live, int All)> packs = live.ByPack();
        HashSet<ChunkId> removable = [];
        foreach (string name in ripe)
        {
            // What somebody built on in time stays, and is not condemned any more.
            removable.UnionWith(ReadCondemned(store, name).Where(pack => packs.TryGetValue(pack, out var count)
                && count.Live == 0));
        }

        cancellation.ThrowIfCancellationRequested();
        (int removed, long freed) = Remove(removable, ripe);
        HashSet<ChunkId> waste = [.. packs.Where(pack => !store.Condemned.Contains(pack.Key)
            && pack.Value.Live < pack.Value.All * LiveShareMin).Select(pack => pack.Key)];
        waste.UnionWith(packs.Where(pack => pack.Value.All == 0 && !store.Condemned.Contains(pack.Key))
            .Select(pack => pack.Key));
        long moved = MoveOut(live, waste, reader);
        int condemned = 0;
        if (waste.Count > 0)
        {
            string name = Condemn(store, runId, waste, options.Random);
            int others = Wait(name, own, nowUnixMs);
            if (others == 0 && live.Parcels.IsSupersetOf(ParcelShelf.List(store)))
            {
                // Nobody is at work, and nobody has finished meanwhile: there is nothing to wait for.
                (int more, long bytes) = Remove(waste, [name]);
                (removed, freed) = (removed + more, freed + bytes);
            }
            else
            {
                condemned = waste.Count;
                waiting += others;
            }
        }

        return new CollectionReport(live.Count, condemned, removed, freed, moved, waiting);
    }

    /// <summary>Says that nobody may build on packs any more.</summary>
    internal static string Condemn(
        Store store, string runId, IReadOnlySet<ChunkId> packs, Action<Span<byte>> random)
    {
        string name = $"{ObjectNames.Condemned}/{runId}";
        store.Objects.PutIfAbsent(name, SealedText.Write(
            new CondemnedNote([.. packs.Select(pack => pack.ToString())]), StoreJson.Default.CondemnedNote, store.Key,
            random));
        return name;
    }

    /// <summary>Whether a session is a collector's, by its id.</summary>
    internal static bool IsCollection(string session) => session.StartsWith(SessionPrefix, StringComparison.Ordinal);

    internal static HashSet<ChunkId> ReadCondemned(Store store, string name)
    {
        HashSet<ChunkId> packs = [];
        if (store.Objects.TryReadAll(name) is { } bytes)
        {
            foreach (string text in SealedText.Read(
                name, bytes.Span, StoreJson.Default.CondemnedNote, store.Key).Packs ?? [])
            {
                packs.Add(ChunkId.TryParse(text, out ChunkId pack)
                    ? pack : throw new StoreFormatException(name, "it names something that is no pack"));
            }
        }

        return packs;
    }

    /// <summary>Sessions that a removal waits for; null if that has not been noted.</summary>
    internal static IReadOnlyList<string>? ReadWait(Store store, string name) =>
        store.Objects.TryReadAll(name) is { } bytes
            ? SealedText.Read(name, bytes.Span, StoreJson.Default.WaitNote, store.Key).Sessions ?? [] : null;

    // Condemnations that nobody has to be waited for any more.
    private (List<string> Ripe, int Waiting) FindRipe(string own, long nowUnixMs)
    {
        HashSet<string> sessions = CurrentSessions(own, nowUnixMs);
        var ripe = new List<string>();
        int waiting = 0;
        foreach (StoredObject listed in store.Objects.List(ObjectNames.Condemned))
        {
            // Without a note whoever condemned them was interrupted: those that work now may have begun before.
            int still = ReadWait(store, WaitOf(listed.Name)) is { } waited
                ? waited.Count(sessions.Contains) : Wait(listed.Name, own, nowUnixMs);
            if (still == 0)
            {
                ripe.Add(listed.Name);
            }

            waiting += still;
        }

        // What another collector has found to be needed may lie in what this one would remove. It has put its session
        // before it looked, as this one has: of two at work at most one sees none.
        int collectors = sessions.Count(IsCollection);
        return ripe.Count == 0 || collectors == 0 ? (ripe, waiting) : ([], waiting + collectors);
    }

    // Notes who is at work now that the packs are condemned.
    private int Wait(string condemned, string own, long nowUnixMs)
    {
        HashSet<string> sessions = CurrentSessions(own, nowUnixMs);
        store.Objects.PutIfAbsent(WaitOf(condemned), SealedText.Write(
            new WaitNote([.. sessions]), StoreJson.Default.WaitNote, store.Key, options.Random));
        return sessions.Count;
    }

    private HashSet<string> CurrentSessions(string own, long nowUnixMs)
    {
        HashSet<string> current = [];
        HashSet<string> names = [.. store.Objects.List(ObjectNames.Sessions).Select(listed => listed.Name)];
        foreach (string name in names)
        {
            if (name.EndsWith(SeenSuffix, StringComparison.Ordinal))
            {
                if (!names.Contains(name[..^SeenSuffix.Length]))
                {
                    store.Objects.Delete(name);
                }

                continue;
            }

            string id = ObjectNames.Last(name);
            if (id == own || StartedUnixMs(name, nowUnixMs) is not { } started)
            {
                continue;
            }

            if (nowUnixMs - started > SessionAgeMax.TotalMilliseconds)
            {
                store.Objects.Delete(name);
                store.Objects.Delete(name + SeenSuffix);
            }
            else
            {
                current.Add(id);
            }
        }

        return current;
    }

    // A session whose note cannot be read counts from when that was first seen.
    private long? StartedUnixMs(string name, long nowUnixMs)
    {
        try
        {
            return StoreSession.TryRead(store, name)?.StartedUnixMs;
        }
        catch (StoreFormatException)
        {
            string seen = name + SeenSuffix;
            store.Objects.PutIfAbsent(seen, SealedText.Write(
                new SessionNote("", nowUnixMs), StoreJson.Default.SessionNote, store.Key, options.Random));
            return StoreSession.TryRead(store, seen)?.StartedUnixMs ?? nowUnixMs;
        }
    }

    private long MoveOut(LiveChunks live, HashSet<ChunkId> waste, StoreReader reader)
    {
        const int chunksAtOnce = 4096;
        using var writer = new StoreWriter(store, options);
        foreach (ChunkId[] ids in live.In(waste).Chunk(chunksAtOnce))
        {
            reader.Read([.. ids.Select((id, i) => new WantedChunk(id, i))], (i, chunk) => writer.Add(
                ids[i], chunk, Packs.Segment.GroupOf(chunk.Length)));
        }

        writer.Flush();
        return writer.BytesNew;
    }

    // The indexes forget them first: what is named is there, at any point. A note goes last, so that an interrupted
    // removal is taken up again.
    private (int Packs, long Bytes) Remove(HashSet<ChunkId> packs, IReadOnlyList<string> notes)
    {
        long bytes = 0;
        int count = 0;
        if (packs.Count > 0)
        {
            // Each by itself: one for all that there is might not fit.
            byte[] salt = new byte[StoreKey.SaltBytes];
            foreach (Packs.ChunkIndex index in store.Indexes.Where(index => index.Packs.Any(packs.Contains)))
            {
                options.Random(salt);
                store.Merge([index], packs, salt);
            }

            foreach (StoredObject listed in store.Objects.List(ObjectNames.Packs))
            {
                if (ObjectNames.TryId(listed.Name, out ChunkId pack) && packs.Contains(pack))
                {
                    store.Objects.Delete(listed.Name);
                    bytes += listed.Bytes;
                    count++;
                }
            }
        }

        foreach (string name in notes)
        {
            store.Objects.Delete(name);
            store.Objects.Delete(WaitOf(name));
        }

        return (count, bytes);
    }

    private static string WaitOf(string condemned) =>
        $"{ObjectNames.Waits}/{condemned[(ObjectNames.Condemned.Length + 1)..]}";
}
