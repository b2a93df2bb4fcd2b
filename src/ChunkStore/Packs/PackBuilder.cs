using System.Buffers.Binary;
using System.Security.Cryptography;
using Godwit.ChunkStore.Storage;

namespace Godwit.ChunkStore.Packs;

/// <summary>Where a chunk lies in its pack.</summary>
/// <param name="Offset">Of its segment.</param>
/// <param name="Length">Of its segment, header included.</param>
/// <param name="Slot">Which of the segment's chunks it is.</param>
internal readonly record struct ChunkPlace(uint Offset, int Length, byte Slot);

/// <summary>
/// A pack in the making: segments, then a trailer that names every chunk; docs/formats/chunk-store.md.
/// </summary>
internal sealed class PackBuilder : IDisposable
{
    /// <summary>A segment in a trailer: offset, length, slots.</summary>
    public const int EntryBytes = 12;

    /// <summary>Length of the trailer, segments, chunks, magic.</summary>
    public const int FooterBytes = 16;

    /// <summary>The trailer's number among the parts of a sealed pack; a segment's is its offset.</summary>
    public const long TrailerPart = -1;

    private readonly StoreKey? _key;
    private readonly List<byte> _entries = [];
    private readonly List<(ChunkId Id, ChunkPlace Place)> _chunks = [];
    private readonly byte[] _bytes;
    private ObjectCipher? _cipher;
    private int _used;
    private int _segments;

    /// <param name="bytes">Size after which it is full.</param>
    public PackBuilder(int bytes, StoreKey? key)
    {
        _key = key;
        // Room for the last segment, and for a trailer of the smallest chunks there are.
        _bytes = new byte[bytes + Segment.StoredBytesMax];
        Capacity = bytes;
    }

    internal static ReadOnlySpan<byte> Magic => "GDWP"u8;

    public int Capacity { get; }

    public bool IsEmpty => _chunks.Count == 0;

    public bool IsFull => _used >= Capacity;

    public IReadOnlyList<(ChunkId Id, ChunkPlace Place)> Chunks => _chunks;

    /// <param name="salt">16 random bytes.</param>
    public void Begin(ReadOnlySpan<byte> salt)
    {
        _cipher?.Dispose();
        _cipher = _key?.ForObject(salt);
        ObjectHeader.Write(_bytes, Magic, salt, _key is not null);
        _used = ObjectHeader.Size;
        _segments = 0;
        _entries.Clear();
        _chunks.Clear();
    }

    /// <summary>Adds a segment; the builder is empty afterwards.</summary>
    /// <param name="work">Twice <see cref="Segment.StoredBytesMax"/> bytes.</param>
    public void Add(SegmentBuilder segment, SegmentCoding coding, ISegmentCoder coder, Span<byte> work)
    {
        int length = segment.Write(coding, coder, _cipher, _used, _bytes.AsSpan(_used), work);
        Span<byte> entry = stackalloc byte[EntryBytes];
        entry.Clear();
        BinaryPrimitives.WriteInt32LittleEndian(entry, _used);
        BinaryPrimitives.WriteInt32LittleEndian(entry[4..], length);
        entry[8] = (byte)segment.Chunks.Count;
        foreach (byte value in entry)
        {
            _entries.Add(value);
        }

        for (int slot = 0; slot < segment.Chunks.Count; slot++)
        {
            _chunks.Add((segment.Chunks[slot].Id, new ChunkPlace((uint)_used, length, (byte)slot)));
        }

        _used += length;
        _segments++;
        segment.Clear();
    }

    /// <summary>Reads a segment that was added, as it lies in the pack.</summary>
    public ReadOnlySpan<byte> Stored(ChunkPlace place) => _bytes.AsSpan((int)place.Offset, place.Length);

    /// <summary>The cipher of the pack in the making.</summary>
    public ObjectCipher? Cipher => _cipher;

    /// <summary>Finishes the pack.</summary>
    /// <param name="id">Its name: the hash of its header, its trailer and its footer.</param>
    public byte[] Seal(out ChunkId id)
    {
        byte[] trailer = new byte[_entries.Count + (_chunks.Count * ChunkId.Size)];
        _entries.CopyTo(trailer);
        for (int i = 0; i < _chunks.Count; i++)
        {
            _chunks[i].Id.Write(trailer.AsSpan(_entries.Count + (i * ChunkId.Size)));
        }

        int stored = trailer.Length + (_cipher is null ? 0 : StoreKey.TagBytes);
        byte[] pack = new byte[_used + stored + FooterBytes];
        _bytes.AsSpan(0, _used).CopyTo(pack);
        Span<byte> footer = pack.AsSpan(_used + stored);
        BinaryPrimitives.WriteInt32LittleEndian(footer, stored);
        BinaryPrimitives.WriteInt32LittleEndian(footer[4..], _segments);
        BinaryPrimitives.WriteInt32LittleEndian(footer[8..], _chunks.Count);
        Magic.CopyTo(footer[12..]);
        if (_cipher is null)
        {
            trailer.CopyTo(pack, _used);
        }
        else
        {
            _cipher.Seal(TrailerPart, trailer, footer, pack.AsSpan(_used, stored));
        }

        id = PackTrailer.IdOf(pack.AsSpan(0, ObjectHeader.Size), pack.AsSpan(_used));
        return pack;
    }

    public void Dispose() => _cipher?.Dispose();
}
