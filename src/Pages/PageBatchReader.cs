using System.Buffers.Binary;
using System.Numerics;

namespace Godwit.Pages;

/// <summary>A checked page batch; enumerate it for runs of its pages, ascending.</summary>
/// <remarks>
/// Batches come from a peer and are hostile until <see cref="Parse"/> has returned. It checks every length, count and
/// address against the block table and the limits before it decodes or touches anything, and allocates nothing. What
/// it returns points into the body and the decoder: use it up before either is reused. Deltas and names are handed out
/// as they came; whoever applies or resolves them checks them.
/// </remarks>
public readonly ref partial struct PageBatchReader
{
    private readonly ReadOnlySpan<byte> _presence;
    private readonly ReadOnlySpan<PageKind> _kinds;
    private readonly ReadOnlySpan<byte> _words;
    private readonly ReadOnlySpan<byte> _names;
    private readonly ReadOnlySpan<byte> _raw;
    private readonly ReadOnlySpan<byte> _block;
    private readonly long _firstPage;
    private readonly int _span;
    private readonly int _contentPages;
    private readonly int _deltaPages;

    private PageBatchReader(
        Place place, ReadOnlySpan<byte> presence, ReadOnlySpan<PageKind> kinds, KindCounts counts,
        ReadOnlySpan<byte> words, ReadOnlySpan<byte> names, ReadOnlySpan<byte> raw, ReadOnlySpan<byte> block)
    {
        BlockIndex = place.BlockIndex;
        _firstPage = place.FirstPage;
        _span = place.Span;
        _presence = presence;
        _kinds = kinds;
        _contentPages = counts.Content;
        _deltaPages = counts.Deltas;
        _words = words;
        _names = names;
        _raw = raw;
        _block = block;
    }

    /// <summary>The RAM block all pages belong to; an index into the table given to <see cref="Parse"/>.</summary>
    public int BlockIndex { get; }

    /// <summary>Pages in the batch.</summary>
    public int Pages => _kinds.Length;

    /// <summary>Checks a batch and decodes its content.</summary>
    /// <param name="body">Exactly one batch, of the decoder's version.</param>
    /// <param name="blocks">The guest's block table, by index.</param>
    /// <param name="decoder">The lane's; it has seen every batch of the lane before this one.</param>
    /// <exception cref="StreamFormatException">Never valid; the offset counts from the batch's start.</exception>
    public static PageBatchReader Parse(
        ReadOnlySpan<byte> body, ReadOnlySpan<RamBlock> blocks, PageBatchDecoder decoder)
    {
        int headerBytes = decoder.Version < PageBatch.Version2 ? PageBatch.HeaderBytesVersion1 : PageBatch.HeaderBytes;
        Require(
            body.Length >= headerBytes && body.Length <= PageBatch.EncodedBytesMax,
            0, "page batch length", body.Length, PageBatch.EncodedBytesMax);
        PageBatchHeader header = PageBatch.ReadHeader(body);
        Place place = CheckPlace(header, blocks);
        int at = headerBytes;
        ReadOnlySpan<byte> presence = default;
        int pages = header.Span;
        if ((header.Flags & PageBatch.AllPresent) == 0)
        {
            presence = Bitmap(body, ref at, header.Span, "bytes of presence bitmap");
            pages = CountBits(presence);
            int last = header.Span - 1;
            Require((presence[0] & 1) != 0, at, "first bit of the presence bitmap", 0, 1);
            Require((presence[last / 8] & (1 << (last % 8))) != 0, at, "last bit of the presence bitmap", 0, 1);
        }

        ReadOnlySpan<PageKind> kinds = decoder.Version < PageBatch.Version2
            ? ReadZeros(body, ref at, header.Flags, pages, decoder)
            : ReadKinds(body, ref at, header.Flags, pages, decoder);
        KindCounts counts = KindCounts.Of(kinds);
        Require(
            counts.Sent <= PageBatch.ContentPagesMax, at, "content pages", counts.Sent, PageBatch.ContentPagesMax);
        ReadOnlySpan<byte> words = Section(body, ref at, counts.Word * PageBatch.WordBytes, "bytes of words");
        ReadOnlySpan<byte> names = Section(body, ref at, counts.Names * PageBatch.NameBytes, "bytes of names");
        ReadOnlySpan<byte> raw = Section(body, ref at, counts.Raw * Page.Size, "bytes of raw pages");

        // A delta has at least one run of one byte: three bytes, and two for its length.
        long least = ((long)counts.Content * Page.Size) + (counts.Deltas * (PageBatch.DeltaLengthBytes + 3));
        long most = (long)(counts.Content + counts.Deltas) * Page.Size;
        Require(header.RawLength >= least, 11, "length of the block before coding", header.RawLength, least);
        Require(header.RawLength <= most, 11, "length of the block before coding", header.RawLength, most);
        if (decoder.Version < PageBatch.Version2)
        {
            long stated = BinaryPrimitives.ReadUInt32LittleEndian(body[15..]);
            Require(stated == body.Length - at, 15, "coded length", stated, body.Length - at);
        }

        ReadOnlySpan<byte> block = Decode(body[at..], at, header, decoder);
        CheckDeltas(block[(counts.Content * Page.Size)..], at, counts.Deltas);
        return new(place, presence, kinds, counts, words, names, raw, block);
    }

    public Enumerator GetEnumerator() => new(this);

    private static Place CheckPlace(in PageBatchHeader header, ReadOnlySpan<RamBlock> blocks)
    {
        Require(header.BlockIndex < blocks.Length, 0, "RAM block index", header.BlockIndex, blocks.Length - 1);
        RamBlock block = blocks[header.BlockIndex];
        long regions = Page.RegionsFor(block.PageCount);
        Require(header.Region < regions, 2, "region", header.Region, regions - 1);
        Require(header.First < Page.RegionPages, 6, "first page in region", header.First, Page.RegionPages - 1);
        long firstPage = (header.Region * Page.RegionPages) + header.First;
        long spanMax = Math.Min(Page.RegionPages - header.First, block.PageCount - firstPage);
        Require(header.Span >= 1 && header.Span <= spanMax, 8, "span of pages", header.Span, spanMax);
        return new Place(header.BlockIndex, firstPage, header.Span);
    }

    // Version 1: one bit per page says zero or content, unless all are the same.
    private static ReadOnlySpan<PageKind> ReadZeros(
        ReadOnlySpan<byte> body, scoped ref int at, byte flags, int pages, PageBatchDecoder decoder)
    {
        const byte known = PageBatch.AllPresent | PageBatch.AllZero | PageBatch.NoneZero | PageBatch.CoderMask;
        const byte both = PageBatch.AllZero | PageBatch.NoneZero;
        bool allZero = (flags & PageBatch.AllZero) != 0;
        var coder = (BlockCoder)(flags & PageBatch.CoderMask);
        CheckFlags(
            (flags & ~known) == 0 && (flags & both) != both && coder is BlockCoder.None or BlockCoder.Lz4
            && !(allZero && coder != BlockCoder.None),
            flags);
        Span<PageKind> kinds = decoder.Kinds.AsSpan(0, pages);
        if ((flags & both) != 0)
        {
            kinds.Fill(allZero ? PageKind.Zero : PageKind.Content);
            return kinds;
        }

        ReadOnlySpan<byte> zeros = Bitmap(body, ref at, pages, "bytes of zero bitmap");
        for (int i = 0; i < kinds.Length; i++)
        {
            kinds[i] = (zeros[i / 8] & (1 << (i % 8))) != 0 ? PageKind.Zero : PageKind.Content;
        }

        return kinds;
    }

    private static ReadOnlySpan<PageKind> ReadKinds(
        ReadOnlySpan<byte> body, scoped ref int at, byte flags, int pages, PageBatchDecoder decoder)
    {
        const byte known = PageBatch.AllPresent | PageBatch.OneKind | PageBatch.CoderMask;
        CheckFlags(
            (flags & ~known) == 0
            && (BlockCoder)(flags & PageBatch.CoderMask) is BlockCoder.None or BlockCoder.Lz4 or BlockCoder.Zstd,
            flags);
        Span<PageKind> kinds = decoder.Kinds.AsSpan(0, pages);
        PageKind last = decoder.Version < PageBatch.Version4 ? PageKind.Known : PageKind.Changed;
        if ((flags & PageBatch.OneKind) != 0)
        {
            kinds.Fill(Checked((PageKind)Section(body, ref at, 1, "bytes of kinds")[0], at - 1));
            return kinds;
        }

        int begin = at;
        ReadOnlySpan<byte> nibbles = Section(body, ref at, (pages + 1) / 2, "bytes of kinds");
        for (int i = 0; i < kinds.Length; i++)
        {
            kinds[i] = Checked((PageKind)((nibbles[i / 2] >> (i % 2 * 4)) & 0xF), begin + (i / 2));
        }

        Require(pages % 2 == 0 || nibbles[^1] >> 4 == 0, at - 1, "kind past the last page", nibbles[^1] >> 4, 0);
        return kinds;

        PageKind Checked(PageKind kind, int offset)
        {
            Require(kind <= last, offset, "page kind", (long)kind, (long)last);
            return kind;
        }
    }

    private static void CheckFlags(bool hold, byte flags)
    {
        if (!hold)
        {
            throw new StreamFormatException(
                10, $"page batch flags 0x{flags:x2} are unknown or contradict each other; "
                + "a peer that speaks a newer protocol must agree on the older one first.");
        }
    }

    private static ReadOnlySpan<byte> Decode(
        ReadOnlySpan<byte> coded, int at, PageBatchHeader header, PageBatchDecoder decoder)
    {
        int length = (int)header.RawLength;
        Span<byte> raw = decoder.Block.AsSpan(0, length);
        switch ((BlockCoder)(header.Flags & PageBatch.CoderMask))
        {
            case BlockCoder.None:
                Require(coded.Length == length, at, "length of a plain block", coded.Length, length);
                return coded;
            case BlockCoder.Lz4:
                Require(coded.Length < length, at, "length of an LZ4 block", coded.Length, length - 1);
                int decoded = Lz4.Decompress(coded, raw);
                Require(decoded == length, at, "length of decoded LZ4 content", decoded, length);
                return raw;
            default:
                int codedMax = ZstdEncoder.CodedBytesMax(length);
                Require(length > 0, at, "length of a Zstandard block before coding", length, 1);
                Require(coded.Length <= codedMax, at, "length of a Zstandard block", coded.Length, codedMax);
                if (!decoder.Zstd.TryDecompress(coded, decoder.Block.AsSpan(0, length + 1)))
                {
                    throw new StreamFormatException(
                        at, $"page batch has a Zstandard block of {coded.Length} bytes that does not decode to the "
                        + $"{length} bytes announced.");
                }

                return raw;
        }
    }

    // The lengths stand first, then the deltas themselves, to the end of the block.
    private static void CheckDeltas(ReadOnlySpan<byte> deltas, int at, int count)
    {
        int total = count * PageBatch.DeltaLengthBytes;
        for (int i = 0; i < count; i++)
        {
            int length = BinaryPrimitives.ReadUInt16LittleEndian(deltas[(i * PageBatch.DeltaLengthBytes)..]);
            Require(length is >= 3 and <= PageDelta.BytesMax, at, "length of a delta", length, PageDelta.BytesMax);
            total += length;
        }

        Require(total == deltas.Length, at, "bytes of deltas", total, deltas.Length);
    }

    private static ReadOnlySpan<byte> Section(ReadOnlySpan<byte> body, scoped ref int at, int length, string what)
    {
        Require(body.Length - at >= length, at, what, body.Length - at, length);
        ReadOnlySpan<byte> section = body.Slice(at, length);
        at += length;
        return section;
    }

    private static ReadOnlySpan<byte> Bitmap(ReadOnlySpan<byte> body, scoped ref int at, int bits, string what)
    {
        ReadOnlySpan<byte> bitmap = Section(body, ref at, (bits + 7) / 8, what);
        // Bits past the end must be clear, or counting them would promise pages that do not exist.
        Require(
            bits % 8 == 0 || bitmap[^1] >> (bits % 8) == 0, at - 1, what, bitmap[^1], (1 << (bits % 8)) - 1);
        return bitmap;
    }

    private static int CountBits(ReadOnlySpan<byte> bitmap)
    {
        int count = 0;
        while (bitmap.Length >= 8)
        {
            count += BitOperations.PopCount(BinaryPrimitives.ReadUInt64LittleEndian(bitmap));
            bitmap = bitmap[8..];
        }

        foreach (byte bits in bitmap)
        {
            count += BitOperations.PopCount(bits);
        }

        return count;
    }

    private static void Require(bool holds, long offset, string what, long value, long limit)
    {
        if (!holds)
        {
            throw new StreamFormatException(offset, $"page batch has {what} {value}; the limit is {limit}.");
        }
    }

    private readonly record struct Place(int BlockIndex, long FirstPage, int Span);

    private readonly record struct KindCounts(int Word, int Raw, int Content, int Delta, int Known, int Changed)
    {
        public int Names => Known + Changed;

        public int Deltas => Delta + Changed;

        /// <summary>Pages whose content or delta came with the batch.</summary>
        public int Sent => Raw + Content + Deltas;

        public static KindCounts Of(ReadOnlySpan<PageKind> kinds) => new(
            kinds.Count(PageKind.Word), kinds.Count(PageKind.Raw), kinds.Count(PageKind.Content),
            kinds.Count(PageKind.Delta), kinds.Count(PageKind.Known), kinds.Count(PageKind.Changed));
    }
}
