using Godwit.ChunkStore.Packs;

namespace Godwit.ChunkStore.Storage;

/// <summary>Which chunks are laid side by side: those of one kind are wanted together, or not at all.</summary>
public enum ChunkGroup
{
    /// <summary>Nodes of trees.</summary>
    Nodes,
    /// <summary>What a base image holds too: a host that has the image never asks for it.</summary>
    Base,
    /// <summary>Blocks of a guest's own disks.</summary>
    Disk,
    /// <summary>Pages of memory that no disk holds.</summary>
    Memory,
    /// <summary>Pages that the guest was writing when it was put to sleep, and the state of the machine.</summary>
    WorkingSet,
}

/// <summary>How a writer works.</summary>
/// <param name="Random">Fills bytes at random, as good as a key has to be.</param>
/// <param name="Coding">Of chunks that it makes smaller.</param>
/// <param name="QuotaBytes">What the store may take; 0 for as much as there is room for.</param>
/// <param name="PackBytes">Size after which a pack is put.</param>
public sealed record StoreWriterOptions(
    Action<Span<byte>> Random, SegmentCoding Coding = SegmentCoding.Lz4, long QuotaBytes = 0, int PackBytes = 8 << 20);

/// <summary>Puts chunks into a store, each once.</summary>
/// <remarks>
/// What was put is safe, and found by others, after <see cref="Flush"/>; a manifest may name it then. One thread at a
/// time; a session has to be open meanwhile (<see cref="StoreSession"/>).
/// </remarks>
public sealed class StoreWriter : IDisposable
{
    // An index is written at the latest after so many chunks: what a crash then leaves unknown is bounded, and so is
    // the memory of this.
    private const int IndexChunks = 1 << 20;
    private const int IndexesMax = 6;
    private readonly Store _store;
    private readonly StoreWriterOptions _options;
    private readonly ISegmentCoder _coder;
    private readonly SegmentBuilder[] _segments =
        [.. Enum.GetValues<ChunkGroup>().Select(_ => new SegmentBuilder())];
    private readonly PackBuilder _pack;
    private readonly HashSet<ChunkId> _new = [];
    private readonly List<(ChunkId, IReadOnlyList<(ChunkId, ChunkPlace)>)> _sealed = [];
    private readonly byte[] _work = new byte[2 * Segment.StoredBytesMax];
    private long _usedBytes = -1;
    private bool _begun;

    public StoreWriter(Store store, StoreWriterOptions options)
    {
        _store = store;
        _options = options;
        _coder = store.Coders();
        _pack = new PackBuilder(options.PackBytes, store.Key);
    }

    /// <summary>Bytes that went into packs and indexes.</summary>
    public long BytesWritten { get; private set; }

    /// <summary>Bytes of chunks that were put and not there yet.</summary>
    public long BytesNew { get; private set; }

    /// <summary>Bytes of chunks that were there already.</summary>
    public long BytesKnown { get; private set; }

    /// <summary>Chunks that were put and not there yet.</summary>
    public long ChunksNew { get; private set; }

    /// <summary>Puts a chunk, if it is not there yet.</summary>
    /// <param name="chunk">A page, or a node of a tree; not only zeros.</param>
    /// <returns>Its id.</returns>
    /// <exception cref="StorageException">Storage has failed, or is full.</exception>
    public ChunkId Put(ReadOnlySpan<byte> chunk, ChunkGroup group)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(chunk.Length, Segment.ChunkBytesMax);
        ChunkId id = ChunkId.Of(chunk);
        Put(id, chunk, group);
        return id;
    }

    /// <summary>Puts a chunk that has been named.</summary>
    public void Put(ChunkId id, ReadOnlySpan<byte> chunk, ChunkGroup group)
    {
        if (Contains(id))
        {
            BytesKnown += chunk.Length;
            return;
        }

        Add(id, chunk, group);
    }

    /// <summary>Whether a chunk need not be put.</summary>
    public bool Contains(ChunkId id) => _new.Contains(id) || _store.Contains(id);

    /// <summary>Puts a chunk even if it is there: what holds it is to go.</summary>
    internal void Add(ChunkId id, ReadOnlySpan<byte> chunk, ChunkGroup group)
    {
        if (!_new.Add(id))
        {
            return;
        }

        SegmentBuilder segment = _segments[(int)group];
        if (!segment.TryAdd(id, chunk))
        {
            Close(segment);
            segment.TryAdd(id, chunk);
        }

        BytesNew += chunk.Length;
        ChunksNew++;
    }

    /// <summary>Makes everything that was put durable and known to the store.</summary>
    public void Flush()
    {
        foreach (SegmentBuilder segment in _segments)
        {
            if (!segment.IsEmpty)
            {
                Close(segment);
            }
        }

        if (!_pack.IsEmpty)
        {
            SealPack();
        }

        WriteIndex();
        MergeIndexes();
    }

    public void Dispose()
    {
        _coder.Dispose();
        _pack.Dispose();
    }

    private void Close(SegmentBuilder segment)
    {
        if (!_begun || _pack.IsFull)
        {
            if (!_pack.IsEmpty)
            {
                SealPack();
            }

            _pack.Begin(Salt());
            _begun = true;
        }

        _pack.Add(segment, _options.Coding, _coder, _work);
        if (_new.Count >= IndexChunks)
        {
            SealPack();
            // Chunks that wait in other segments are not in any index yet.
            HashSet<ChunkId> waiting = [.. _segments.SelectMany(one => one.Chunks).Select(chunk => chunk.Id)];
            WriteIndex();
            _new.IntersectWith(waiting);
        }
    }

    private void SealPack()
    {
        byte[] pack = _pack.Seal(out ChunkId id);
        RequireRoom(pack.Length);
        _store.Objects.PutIfAbsent(ObjectNames.Pack(id), pack);
        BytesWritten += pack.Length;
        _sealed.Add((id, [.. _pack.Chunks]));
        _pack.Begin(Salt());
    }

    private void WriteIndex()
    {
        if (_sealed.Count == 0)
        {
            return;
        }

        byte[] index = ChunkIndexBuilder.Build(_sealed, _store.Key, Salt());
        _store.AddIndex(index);
        BytesWritten += index.Length;
        _sealed.Clear();
    }

    // The small ones into one, and with a larger one only when they have grown to a quarter of it: each entry is then
    // written again a few times in the life of a store.
    private void MergeIndexes()
    {
        ChunkIndex[] indexes = [.. _store.Indexes.OrderBy(index => index.Count)];
        if (indexes.Length <= IndexesMax)
        {
            return;
        }

        long sum = 0;
        int take = 0;
        while (take < indexes.Length && (take < 2 || indexes[take].Count <= sum * 4)
            && sum + indexes[take].Count <= ChunkIndexBuilder.CountMax)
        {
            sum += indexes[take++].Count;
        }

        if (take > 1)
        {
            _store.Merge(indexes[..take], new HashSet<ChunkId>(), Salt());
        }
    }

    private void RequireRoom(long bytes)
    {
        if (_options.QuotaBytes <= 0)
        {
            return;
        }

        if (_usedBytes < 0)
        {
            _usedBytes = StoreUse.Of(_store.Objects).Bytes;
        }

        if (_usedBytes + bytes > _options.QuotaBytes)
        {
            throw new StorageException(StorageFailure.Full,
                $"the store holds {_usedBytes} bytes and its quota is {_options.QuotaBytes}");
        }

        _usedBytes += bytes;
    }

    private byte[] Salt()
    {
        byte[] salt = new byte[StoreKey.SaltBytes];
        _options.Random(salt);
        return salt;
    }
}
