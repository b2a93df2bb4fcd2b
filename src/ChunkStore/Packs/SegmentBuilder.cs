using System.Buffers.Binary;
using Godwit.ChunkStore.Storage;

namespace Godwit.ChunkStore.Packs;

/// <summary>Collects chunks until there are enough for a segment.</summary>
internal sealed class SegmentBuilder
{
    private readonly byte[] _content = new byte[Segment.ContentBytes];
    private readonly List<(ChunkId Id, ushort Length)> _chunks = [];
    private int _used;

    public bool IsEmpty => _chunks.Count == 0;

    public IReadOnlyList<(ChunkId Id, ushort Length)> Chunks => _chunks;

    /// <summary>False if the chunk has to wait for the next segment.</summary>
    public bool TryAdd(ChunkId id, ReadOnlySpan<byte> chunk)
    {
        if (_used + chunk.Length > _content.Length || _chunks.Count == Segment.SlotsMax)
        {
            return false;
        }

        chunk.CopyTo(_content.AsSpan(_used));
        _used += chunk.Length;
        _chunks.Add((id, (ushort)chunk.Length));
        return true;
    }

    /// <summary>Finds a chunk that waits here.</summary>
    public ReadOnlySpan<byte> Content(int slot)
    {
        int at = 0;
        for (int i = 0; i < slot; i++)
        {
            at += _chunks[i].Length;
        }

        return _content.AsSpan(at, _chunks[slot].Length);
    }

    /// <summary>Writes the segment as it lies in a pack.</summary>
    /// <param name="to">At least <see cref="Segment.StoredBytesMax"/> bytes.</param>
    /// <param name="work">As many again, twice.</param>
    /// <returns>Bytes written.</returns>
    public int Write(
        SegmentCoding coding, ISegmentCoder coder, ObjectCipher? cipher, long offset, Span<byte> to, Span<byte> work)
    {
        int lengths = _chunks.Count * sizeof(ushort);
        Span<byte> plain = work[..(lengths + _used)];
        for (int i = 0; i < _chunks.Count; i++)
        {
            BinaryPrimitives.WriteUInt16LittleEndian(plain[(i * sizeof(ushort))..], _chunks[i].Length);
        }

        _content.AsSpan(0, _used).CopyTo(plain[lengths..]);
        Span<byte> coded = work.Slice(Segment.StoredBytesMax, Segment.StoredBytesMax);
        // A coding that saves less than a sixteenth costs more time at each read than it is worth.
        int bytes = coding == SegmentCoding.None ? 0 : coder.Encode(coding, plain, coded[..(plain.Length * 15 / 16)]);
        ReadOnlySpan<byte> payload = bytes > 0 ? coded[..bytes] : plain;
        int stored = payload.Length + (cipher is null ? 0 : StoreKey.TagBytes);
        Span<byte> header = to[..Segment.HeaderBytes];
        header.Clear();
        header[0] = (byte)(bytes > 0 ? coding : SegmentCoding.None);
        header[1] = (byte)_chunks.Count;
        BinaryPrimitives.WriteInt32LittleEndian(header[4..], plain.Length);
        BinaryPrimitives.WriteInt32LittleEndian(header[8..], stored);
        if (cipher is null)
        {
            payload.CopyTo(to[Segment.HeaderBytes..]);
        }
        else
        {
            cipher.Seal(offset, payload, header, to.Slice(Segment.HeaderBytes, stored));
        }

        return Segment.HeaderBytes + stored;
    }

    public void Clear()
    {
        _chunks.Clear();
        _used = 0;
    }
}
