using System.Buffers.Binary;

namespace Godwit.Pages;

/// <summary>The limits and layout of a page batch; docs/formats/wire-protocol.md, section "Page batch".</summary>
public static class PageBatch
{
    /// <summary>The first layout: zero pages, and content through one coder.</summary>
    public const int Version1 = 1;

    /// <summary>The layout in which each page has a <see cref="PageKind"/>.</summary>
    public const int Version2 = 2;

    /// <summary>The version from which on a page may be <see cref="PageKind.Changed"/>; the layout is the same.
    /// </summary>
    public const int Version4 = 4;

    /// <summary>The most pages in one batch whose content or delta travels with it.</summary>
    public const int ContentPagesMax = 64;

    /// <summary>The most content bytes in one batch before coding.</summary>
    public const int RawBytesMax = ContentPagesMax * Page.Size;

    /// <summary>Bytes of a known page's name.</summary>
    public const int NameBytes = 16;

    /// <summary>Bytes of the word that fills a page.</summary>
    public const int WordBytes = 8;

    /// <summary>Bytes before the bitmaps, version 1.</summary>
    public const int HeaderBytesVersion1 = 19;

    /// <summary>Bytes before presence bitmap and kinds.</summary>
    public const int HeaderBytes = 15;

    /// <summary>The longest encoded batch, in bytes.</summary>
    public const int EncodedBytesMax = HeaderBytes + BitmapBytesMax + KindBytesMax
        + (Page.RegionPages * NameBytes) + RawBytesMax + BlockOverheadMax;

    internal const int BitmapBytesMax = Page.RegionPages / 8;
    internal const int KindBytesMax = Page.RegionPages / 2;
    internal const int DeltaLengthBytes = 2;

    // What Zstandard may add to content that it cannot make smaller.
    internal const int BlockOverheadMax = (RawBytesMax / 256) + 128;

    internal const byte AllPresent = 0x01;
    internal const byte CoderMask = 0xF0;

    // Version 1.
    internal const byte AllZero = 0x02;
    internal const byte NoneZero = 0x04;

    // Version 2.
    internal const byte OneKind = 0x02;

    internal static void WriteHeader(Span<byte> to, in PageBatchHeader header)
    {
        BinaryPrimitives.WriteUInt16LittleEndian(to, (ushort)header.BlockIndex);
        BinaryPrimitives.WriteUInt32LittleEndian(to[2..], (uint)header.Region);
        BinaryPrimitives.WriteUInt16LittleEndian(to[6..], (ushort)header.First);
        BinaryPrimitives.WriteUInt16LittleEndian(to[8..], (ushort)header.Span);
        to[10] = header.Flags;
        BinaryPrimitives.WriteUInt32LittleEndian(to[11..], header.RawLength);
    }

    internal static PageBatchHeader ReadHeader(ReadOnlySpan<byte> from) => new(
        BinaryPrimitives.ReadUInt16LittleEndian(from),
        BinaryPrimitives.ReadUInt32LittleEndian(from[2..]),
        BinaryPrimitives.ReadUInt16LittleEndian(from[6..]),
        BinaryPrimitives.ReadUInt16LittleEndian(from[8..]),
        from[10],
        BinaryPrimitives.ReadUInt32LittleEndian(from[11..]));
}

/// <summary>The fixed part of a batch, as it stands in the bytes; nothing in it has been checked.</summary>
/// <param name="RawLength">Bytes of the block before coding.</param>
internal readonly record struct PageBatchHeader(
    int BlockIndex, long Region, int First, int Span, byte Flags, uint RawLength);
