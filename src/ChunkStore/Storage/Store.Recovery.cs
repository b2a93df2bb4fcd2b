using Godwit.ChunkStore.Packs;

namespace Godwit.ChunkStore.Storage;

// What a damaged index or note said, had from elsewhere.
public sealed partial class Store
{
    // Chunks in one index of what packs say.
    private const int RebuiltChunks = 1 << 20;
    private readonly HashSet<ChunkId> _unreadable = [];

    /// <summary>
    /// Puts indexes of the packs that no index names, and removes the indexes and notes that are damaged.
    /// </summary>
    /// <returns>What was wrong and is no more, and what still is, each in one line.</returns>
    internal (IReadOnlyList<string> Repaired, IReadOnlyList<string> Broken) Recover(Action<Span<byte>> random)
    {
        var repaired = new List<string>();
        var broken = new List<string>();
        lock (_changing)
        {
            Refresh();
            _unreadable.Clear();
            Dictionary<ChunkId, long> packs = ListPacks();
            byte[] salt = new byte[StoreKey.SaltBytes];
            foreach (var trailers in ReadTrailers(Unnamed(packs, _state.Indexes), packs))
            {
                random(salt);
                AddIndex(ChunkIndexBuilder.Build(trailers, Key, salt));
            }

            broken.AddRange(_unreadable.Select(pack =>
                $"{ObjectNames.Pack(pack)}: no index names it, and it does not say itself what it holds."));
            foreach (StoreFormatException e in _state.Broken.Concat(BrokenWaits()))
            {
                // Nobody builds on anything while a condemnation cannot be read, and no collection begins; but one that
                // has read it may still remove what it names.
                if (IsCondemnation(e) && Objects.List(ObjectNames.Sessions).Any(
                    one => StoreCollector.IsCollection(ObjectNames.Last(one.Name))))
                {
                    broken.Add($"{e.Message} It can go when no collection is under way.");
                    continue;
                }

                Objects.Delete(e.What);
                repaired.Add($"{e.Message} It was made again, or is not needed any more.");
            }

            Refresh();
        }

        return (repaired, broken);
    }

    private List<StoreFormatException> BrokenWaits()
    {
        var broken = new List<StoreFormatException>();
        foreach (StoredObject listed in Objects.List(ObjectNames.Waits))
        {
            try
            {
                StoreCollector.ReadWait(this, listed.Name);
            }
            catch (StoreFormatException e) when (!e.IsNewer)
            {
                // The next collection waits for all that are at work then.
                broken.Add(e);
            }
        }

        return broken;
    }

    private static bool IsIndex(StoreFormatException e) =>
        e.What.StartsWith(ObjectNames.Indexes + "/", StringComparison.Ordinal);

    private static bool IsCondemnation(StoreFormatException e) =>
        e.What.StartsWith(ObjectNames.Condemned + "/", StringComparison.Ordinal);

    private static IEnumerable<ChunkId> Unnamed(
        IReadOnlyDictionary<ChunkId, long> packs, IReadOnlyList<ChunkIndex> indexes)
    {
        HashSet<ChunkId> named = [.. indexes.SelectMany(index => index.Packs)];
        return packs.Keys.Where(pack => !named.Contains(pack));
    }

    // Of packs that were looked at before only what is new is read.
    private List<ChunkIndex> Rebuild(
        IReadOnlyList<ChunkIndex> indexes, IReadOnlyDictionary<ChunkId, long> packs)
    {
        List<ChunkIndex> rebuilt = [.. _state.Rebuilt];
        IEnumerable<ChunkId> unnamed = Unnamed(packs, [.. indexes, .. rebuilt]);
        foreach (var trailers in ReadTrailers(unnamed.Where(pack => !_unreadable.Contains(pack)), packs))
        {
            rebuilt.Add(ChunkIndex.Open(
                "rebuilt index", ChunkIndexBuilder.Build(trailers, key: null, new byte[StoreKey.SaltBytes]), null));
        }

        return rebuilt;
    }

    // In portions for one index each.
    private IEnumerable<List<(ChunkId Pack, IReadOnlyList<(ChunkId Id, ChunkPlace Place)> Chunks)>> ReadTrailers(
        IEnumerable<ChunkId> wanted, IReadOnlyDictionary<ChunkId, long> packs)
    {
        var portion = new List<(ChunkId, IReadOnlyList<(ChunkId, ChunkPlace)>)>();
        int chunks = 0;
        foreach (ChunkId pack in wanted)
        {
            if (TryReadTrailer(pack, packs[pack]) is not { } trailer)
            {
                _unreadable.Add(pack);
                continue;
            }

            portion.Add((pack, trailer.Chunks));
            chunks += trailer.Chunks.Count;
            if (chunks >= RebuiltChunks)
            {
                yield return portion;
                (portion, chunks) = ([], 0);
            }
        }

        if (portion.Count > 0)
        {
            yield return portion;
        }
    }

    private PackTrailer? TryReadTrailer(ChunkId pack, long bytes)
    {
        string name = ObjectNames.Pack(pack);
        byte[] header = new byte[ObjectHeader.Size];
        byte[] footer = new byte[PackBuilder.FooterBytes];
        if (bytes < header.Length + footer.Length || !Objects.TryRead(name, bytes - footer.Length, footer)
            || PackTrailer.Start(footer, bytes) is var start && start < 0)
        {
            return null;
        }

        byte[] trailer = new byte[bytes - start];
        try
        {
            return Objects.TryRead(name, 0, header) && Objects.TryRead(name, start, trailer)
                && PackTrailer.IdOf(header, trailer) == pack
                ? PackTrailer.Parse(name, header, trailer, start, Key) : null;
        }
        catch (StoreFormatException)
        {
            return null;
        }
    }
}
