using System.Buffers.Binary;

namespace Godwit.Pages;

/// <summary>The limits and layout of a page batch; docs/formats/wire-protocol.md, section "Page batch".</summary>
public static class PageBatch
{
    /// <summary>The most content (non-zero) pages in one batch.</summary>
    public const int ContentPagesMax = 64;

    /// <summary>The most content bytes in one batch before coding: the size of a decoder's scratch.</summary>
    public const int RawBytesMax = ContentPagesMax * Page.Size;

    /// <summary>Bytes before the bitmaps.</summary>
    public const int HeaderBytes = 19;

    /// <summary>The longest encoded batch, in bytes: header, both bitmaps, and content that did not shrink.</summary>
    public const int EncodedBytesMax = HeaderBytes + (2 * BitmapBytesMax) + RawBytesMax;

    internal const int BitmapBytesMax = Page.RegionPages / 8;

    internal const byte AllPresent = 0x01;
    internal const byte AllZero = 0x02;
    internal const byte NoneZero = 0x04;
    internal const byte CoderMask = 0xF0;
    internal const byte CoderRaw = 0x00;
    internal const byte CoderLz4 = 0x10;

    internal static void WriteHeader(Span<byte> to, in PageBatchHeader header)
    {
        BinaryPrimitives.WriteUInt16LittleEndian(to, (ushort)header.BlockIndex);
        BinaryPrimitives.WriteUInt32LittleEndian(to[2..], (uint)header.Region);
        BinaryPrimitives.WriteUInt16LittleEndian(to[6..], (ushort)header.First);
        BinaryPrimitives.WriteUInt16LittleEndian(to[8..], (ushort)header.Span);
        to[10] = header.Flags;
        BinaryPrimitives.WriteUInt32LittleEndian(to[11..], header.RawLength);
        BinaryPrimitives.WriteUInt32LittleEndian(to[15..], header.CodedLength);
    }

    internal static PageBatchHeader ReadHeader(ReadOnlySpan<byte> from) => new(
        BinaryPrimitives.ReadUInt16LittleEndian(from),
        BinaryPrimitives.ReadUInt32LittleEndian(from[2..]),
        BinaryPrimitives.ReadUInt16LittleEndian(from[6..]),
        BinaryPrimitives.ReadUInt16LittleEndian(from[8..]),
        from[10],
        BinaryPrimitives.ReadUInt32LittleEndian(from[11..]),
        BinaryPrimitives.ReadUInt32LittleEndian(from[15..]));
}

/// <summary>The fixed part of a batch, as it stands in the bytes; nothing in it has been checked.</summary>
internal readonly record struct PageBatchHeader(
    int BlockIndex, long Region, int First, int Span, byte Flags, uint RawLength, uint CodedLength);
