using Godwit.ChunkStore.Packs;

namespace Godwit.ChunkStore.Storage;

/// <summary>A chunk that is wanted, and what the caller calls it.</summary>
public readonly record struct WantedChunk(ChunkId Id, int Tag);

/// <summary>Takes a chunk; the bytes are valid during the call only.</summary>
public delegate void ChunkSink(int tag, ReadOnlySpan<byte> chunk);

/// <summary>Reads chunks, and gives none that does not have its name.</summary>
/// <remarks>One thread at a time.</remarks>
public sealed class StoreReader : IDisposable
{
    private const int RangeBytes = 1 << 20;

    // What is read in vain to save a request.
    private const int GapBytes = 32 << 10;

    // As much is on its way at a time: at 100 ms to the store and back it makes 80 MiB/s.
    private const int RangesAtOnce = 32;
    private const int RangesBytes = 8 << 20;
    private const int CiphersMax = 64;
    private readonly Store _store;
    private readonly ISegmentCoder _coder;
    private readonly IPartReader _parts;
    private byte[]? _ranges;
    private readonly byte[] _plain = new byte[Segment.PlainBytesMax];
    private readonly byte[] _work = new byte[Segment.PlainBytesMax];
    private readonly Dictionary<ChunkId, ObjectCipher> _ciphers = [];

    private readonly CancellationToken _cancellation;

    internal StoreReader(Store store, CancellationToken cancellation)
    {
        _store = store;
        _cancellation = cancellation;
        _coder = store.Coders();
        _parts = store.Objects.OpenParts();
    }

    /// <summary>A place whose bytes turned out to be wrong while another copy was found, or none.</summary>
    public event Action<ChunkDamage>? Damaged;

    public Store Store => _store;

    /// <summary>Asked before the store, if there is one.</summary>
    public IChunksAtHand? AtHand { get; init; }

    /// <summary>Bytes of packs read so far.</summary>
    public long BytesRead { get; private set; }

    private readonly record struct Located(ChunkId Pack, ChunkPlace Place, WantedChunk Wanted) : IComparable<Located>
    {
        public int CompareTo(Located other) => Pack.CompareTo(other.Pack) is not 0 and var pack ? pack
            : Place.Offset.CompareTo(other.Place.Offset) is not 0 and var offset ? offset
            : Place.Slot.CompareTo(other.Place.Slot);
    }

    /// <summary>Reads chunks in the order in which they lie, neighbours together.</summary>
    /// <param name="wanted">Any order, also the same chunk several times; none of zeros.</param>
    /// <param name="sink">Told each wanted chunk once.</param>
    /// <exception cref="ChunkLostException">One cannot be had; others may have been given out.</exception>
    /// <exception cref="OperationCanceledException">Whoever opened it wants no more.</exception>
    public void Read(IReadOnlyList<WantedChunk> wanted, ChunkSink sink)
    {
        _cancellation.ThrowIfCancellationRequested();
        wanted = AtHand is null ? wanted : GiveAtHand(AtHand, wanted, sink);
        var located = new Located[wanted.Count];
        bool refreshed = false;
        for (int i = 0; i < located.Length; i++)
        {
            if (!_store.TryFindFirst(wanted[i].Id, out ChunkIndex? index, out int entry) && !refreshed)
            {
                _store.Refresh();
                refreshed = true;
                _store.TryFindFirst(wanted[i].Id, out index, out entry);
            }

            if (index is null)
            {
                // The pack itself says whether it is there.
                _store.TryFindUnlisted(wanted[i].Id, out index, out entry);
            }

            located[i] = index is null ? throw new ChunkLostException(wanted[i].Id, "no index knows it")
                : new Located(index.Packs[index.PackOf(entry)], index.PlaceOf(entry), wanted[i]);
        }

        Array.Sort(located);
        for (int from = 0; from < located.Length;)
        {
            from = ReadRanges(located, from, sink);
        }
    }

    /// <summary>Reads one chunk.</summary>
    /// <exception cref="ChunkLostException">It cannot be had.</exception>
    public byte[] Read(ChunkId id)
    {
        byte[] content = [];
        Read([new WantedChunk(id, 0)], (_, chunk) => content = chunk.ToArray());
        return content;
    }

    public void Dispose()
    {
        _coder.Dispose();
        _parts.Dispose();
        foreach (ObjectCipher cipher in _ciphers.Values)
        {
            cipher.Dispose();
        }

        _ciphers.Clear();
    }

    // Gives out what is at hand; the rest is left.
    private List<WantedChunk> GiveAtHand(IChunksAtHand atHand, IReadOnlyList<WantedChunk> wanted, ChunkSink sink)
    {
        var rest = new List<WantedChunk>();
        foreach (WantedChunk one in wanted)
        {
            if (atHand.TryRead(one.Id, _plain, out int length))
            {
                sink(one.Tag, _plain.AsSpan(0, length));
            }
            else
            {
                rest.Add(one);
            }
        }

        return rest;
    }

    private static int RangeEnd(Located[] located, int from)
    {
        long start = located[from].Place.Offset;
        long end = start + located[from].Place.Length;
        int to = from + 1;
        for (; to < located.Length && located[to].Pack == located[from].Pack; to++)
        {
            long nextEnd = located[to].Place.Offset + (long)located[to].Place.Length;
            if (located[to].Place.Offset > end + GapBytes || nextEnd - start > RangeBytes)
            {
                break;
            }

            end = Math.Max(end, nextEnd);
        }

        return to;
    }

    // As many ranges as are read at a time; where the next ones begin.
    private int ReadRanges(Located[] located, int from, ChunkSink sink)
    {
        var ranges = new List<(int From, int To, ObjectPart? Part)>(RangesAtOnce);
        int used = 0;
        _ranges ??= GC.AllocateUninitializedArray<byte>(RangesBytes + RangeBytes + Segment.StoredBytesMax);
        for (int at = from; at < located.Length && ranges.Count < RangesAtOnce && used < RangesBytes;)
        {
            int to = RangeEnd(located, at);
            long start = located[at].Place.Offset;
            long end = 0;
            foreach (Located one in located.AsSpan(at, to - at))
            {
                end = Math.Max(end, one.Place.Offset + (long)one.Place.Length);
            }

            // What is longer than any that was ever written is not there.
            ObjectPart? part = end - start > RangeBytes + Segment.StoredBytesMax ? null : new ObjectPart(
                ObjectNames.Pack(located[at].Pack), start, _ranges.AsMemory(used, (int)(end - start)));
            ranges.Add((at, to, part));
            used += part?.Into.Length ?? 0;
            at = to;
        }

        ReadParts([.. ranges.Select(range => range.Part).OfType<ObjectPart>()]);
        foreach ((int first, int to, ObjectPart? part) in ranges)
        {
            _cancellation.ThrowIfCancellationRequested();
            Open(located.AsSpan(first, to - first), part, sink);
        }

        return ranges[^1].To;
    }

    private void Open(ReadOnlySpan<Located> located, ObjectPart? part, ChunkSink sink)
    {
        for (int i = 0; i < located.Length;)
        {
            ChunkPlace place = located[i].Place;
            int length = 0;
            int slots = 0;
            string? wrong = part is not { IsThere: true } ? "its pack does not hold it"
                : TryCipher(located[i].Pack, out ObjectCipher? cipher) is { } refused ? refused
                : Segment.Open(
                    part.Into.Span.Slice((int)(place.Offset - part.Offset), place.Length), place.Offset, cipher, _coder,
                    _plain, _work, out length, out slots);
            for (; i < located.Length && located[i].Place.Offset == place.Offset; i++)
            {
                Give(located[i], wrong, slots, _plain.AsSpan(0, length), sink);
            }
        }
    }

    private void Give(Located located, string? wrong, int slots, ReadOnlySpan<byte> plain, ChunkSink sink)
    {
        if (wrong is null)
        {
            if (Segment.TryFind(plain, slots, located.Place.Slot, out ReadOnlySpan<byte> chunk)
                && ChunkId.Of(chunk) == located.Wanted.Id)
            {
                sink(located.Wanted.Tag, chunk);
                return;
            }

            wrong = "what lies there has another name";
        }

        sink(located.Wanted.Tag, ReadElsewhere(located.Wanted.Id, located.Pack, located.Place, wrong));
    }

    // A pack may have been emptied into another one since the index was read, and a damaged chunk may have a twin.
    private byte[] ReadElsewhere(ChunkId id, ChunkId pack, ChunkPlace place, string wrong)
    {
        var tried = new HashSet<ChunkId> { pack };
        for (int round = 0; round < 2; round++)
        {
            foreach ((ChunkIndex index, int entry) in _store.Find(id))
            {
                ChunkId otherPack = index.Packs[index.PackOf(entry)];
                if (tried.Add(otherPack) && TryReadAlone(id, otherPack, index.PlaceOf(entry)) is { } chunk)
                {
                    Damaged?.Invoke(new ChunkDamage(id, pack, place.Offset, wrong, HasTwin: true));
                    return chunk;
                }
            }

            if (round == 0)
            {
                _store.Refresh();
            }
        }

        Damaged?.Invoke(new ChunkDamage(id, pack, place.Offset, wrong, HasTwin: false));
        throw new ChunkLostException(id, $"at byte {place.Offset} of {ObjectNames.Pack(pack)} {wrong}");
    }

    private byte[]? TryReadAlone(ChunkId id, ChunkId pack, ChunkPlace place)
    {
        // Buffers of its own: the caller's are in use.
        byte[] stored = new byte[place.Length];
        byte[] plain = new byte[Segment.PlainBytesMax];
        byte[] work = new byte[Segment.PlainBytesMax];
        return TryReadPart(pack, place.Offset, stored) && TryCipher(pack, out ObjectCipher? cipher) is null
            && Segment.Open(
                stored, place.Offset, cipher, _coder, plain, work, out int length, out int slots) is null
            && Segment.TryFind(plain.AsSpan(0, length), slots, place.Slot, out ReadOnlySpan<byte> chunk)
            && ChunkId.Of(chunk) == id ? chunk.ToArray() : null;
    }

    private bool TryReadPart(ChunkId pack, long offset, byte[] into)
    {
        var part = new ObjectPart(ObjectNames.Pack(pack), offset, into);
        ReadParts([part]);
        return part.IsThere;
    }

    private void ReadParts(IReadOnlyList<ObjectPart> parts)
    {
        _parts.Read(parts);
        BytesRead += parts.Sum(part => part.Into.Length);
    }

    private string? TryCipher(ChunkId pack, out ObjectCipher? cipher)
    {
        cipher = null;
        if (_store.Key is null || _ciphers.TryGetValue(pack, out cipher))
        {
            return null;
        }

        byte[] header = new byte[ObjectHeader.Size];
        if (!TryReadPart(pack, 0, header))
        {
            return "its pack is not there";
        }

        try
        {
            cipher = ObjectHeader.Read(ObjectNames.Pack(pack), header, PackBuilder.Magic)
                .Cipher(ObjectNames.Pack(pack), _store.Key);
        }
        catch (StoreFormatException e)
        {
            return e.Why;
        }

        if (_ciphers.Count == CiphersMax)
        {
            foreach (ObjectCipher old in _ciphers.Values)
            {
                old.Dispose();
            }

            _ciphers.Clear();
        }

        _ciphers[pack] = cipher!;
        return null;
    }
}

/// <summary>A chunk that is not what it has to be where it lies.</summary>
/// <param name="Pack">The pack, by its name.</param>
/// <param name="Offset">Of the chunk's segment in it.</param>
/// <param name="HasTwin">Another copy of it was found and is good.</param>
public sealed record ChunkDamage(ChunkId Id, ChunkId Pack, long Offset, string Why, bool HasTwin);
