using System.Buffers.Binary;
using Godwit.ChunkStore.Storage;

namespace Godwit.ChunkStore.Packs;

/// <summary>
/// A segment: up to 64 KiB of chunks that are coded, sealed and read together; docs/formats/chunk-store.md.
/// </summary>
internal static class Segment
{
    /// <summary>Bytes of the header, which is never coded or sealed.</summary>
    public const int HeaderBytes = 12;

    /// <summary>Chunks in a segment.</summary>
    public const int SlotsMax = 255;

    /// <summary>Bytes of the longest chunk: a page.</summary>
    public const int ChunkBytesMax = 4096;

    /// <summary>Content after which a segment is full.</summary>
    public const int ContentBytes = 64 << 10;

    /// <summary>Content and the chunks' lengths, at most.</summary>
    public const int PlainBytesMax = ContentBytes + (SlotsMax * sizeof(ushort));

    /// <summary>The whole of a segment in its pack, at most.</summary>
    public const int StoredBytesMax = HeaderBytes + PlainBytesMax + StoreKey.TagBytes;

    /// <summary>Where a chunk goes of which nothing but its length is known.</summary>
    public static ChunkGroup GroupOf(int length) => length == ChunkBytesMax ? ChunkGroup.Memory : ChunkGroup.Nodes;

    /// <summary>Opens and decodes a segment.</summary>
    /// <param name="stored">The segment as it lies in its pack, whole.</param>
    /// <param name="offset">Where it lies there.</param>
    /// <param name="cipher">Null in a store that is not encrypted.</param>
    /// <param name="plain">At least <see cref="PlainBytesMax"/> bytes.</param>
    /// <param name="work">As many again.</param>
    /// <param name="length">Bytes of <paramref name="plain"/> that are in use.</param>
    /// <param name="slots">Chunks in it.</param>
    /// <returns>Null, or what is wrong with it.</returns>
    public static string? Open(
        ReadOnlySpan<byte> stored, long offset, ObjectCipher? cipher, ISegmentCoder coder, Span<byte> plain,
        Span<byte> work, out int length, out int slots)
    {
        (length, slots) = (0, 0);
        if (stored.Length < HeaderBytes)
        {
            return "it is shorter than a segment's header";
        }

        ReadOnlySpan<byte> header = stored[..HeaderBytes];
        ReadOnlySpan<byte> payload = stored[HeaderBytes..];
        var coding = (SegmentCoding)header[0];
        uint plainBytes = BinaryPrimitives.ReadUInt32LittleEndian(header[4..]);
        if (coding > SegmentCoding.Zstd || plainBytes > PlainBytesMax
            || BinaryPrimitives.ReadUInt32LittleEndian(header[8..]) != payload.Length)
        {
            return "its header is damaged";
        }

        if (cipher is not null)
        {
            int opened = payload.Length - StoreKey.TagBytes;
            if (opened < 0 || opened > PlainBytesMax || !cipher.TryOpen(offset, payload, header, work[..opened]))
            {
                return "it does not open with the store's key";
            }

            payload = work[..opened];
        }

        Span<byte> to = plain[..(int)plainBytes];
        if (coding == SegmentCoding.None)
        {
            if (payload.Length != to.Length)
            {
                return "its length is not what its header says";
            }

            payload.CopyTo(to);
        }
        else if (!coder.TryDecode(coding, payload, to))
        {
            return "it cannot be decoded";
        }

        (length, slots) = (to.Length, header[1]);
        return null;
    }

    /// <summary>Finds a chunk in an open segment; what is found has yet to be named.</summary>
    /// <returns>False if the segment has no such chunk.</returns>
    public static bool TryFind(ReadOnlySpan<byte> plain, int slots, int slot, out ReadOnlySpan<byte> chunk)
    {
        chunk = default;
        int at = slots * sizeof(ushort);
        if (slot >= slots || plain.Length < at)
        {
            return false;
        }

        for (int i = 0; i < slot; i++)
        {
            at += BinaryPrimitives.ReadUInt16LittleEndian(plain[(i * sizeof(ushort))..]);
        }

        int length = BinaryPrimitives.ReadUInt16LittleEndian(plain[(slot * sizeof(ushort))..]);
        if (at + length > plain.Length)
        {
            return false;
        }

        chunk = plain.Slice(at, length);
        return true;
    }
}
