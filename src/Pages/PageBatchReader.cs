using System.Buffers.Binary;
using System.Numerics;

namespace Godwit.Pages;

/// <summary>Consecutive pages of a batch, all with content or all zero.</summary>
public readonly ref struct PageRun
{
    internal PageRun(PageNumber first, int count, ReadOnlySpan<byte> content)
    {
        First = first;
        Count = count;
        Content = content;
    }

    /// <summary>The first of the pages, in the batch's block.</summary>
    public PageNumber First { get; }

    /// <summary>Pages in the run, at least one.</summary>
    public int Count { get; }

    /// <summary>Whether the pages are all zero and so have no content here.</summary>
    public bool IsZero => Content.IsEmpty;

    /// <summary>4096 bytes per page, or empty for zero pages.</summary>
    public ReadOnlySpan<byte> Content { get; }
}

/// <summary>A checked page batch; enumerate it for runs of its pages, ascending.</summary>
/// <remarks>
/// Batches come from a peer and are hostile until <see cref="Parse"/> has returned. It checks every length, count and
/// address against the block table and the limits before it decodes or touches anything, and allocates nothing. What
/// it returns points into the body and the scratch: use it up before either is reused.
/// </remarks>
public readonly ref struct PageBatchReader
{
    private readonly ReadOnlySpan<byte> _presence;
    private readonly ReadOnlySpan<byte> _zeros;
    private readonly ReadOnlySpan<byte> _content;
    private readonly long _firstPage;
    private readonly int _span;
    private readonly bool _allZero;

    private PageBatchReader(
        int blockIndex,
        long firstPage,
        int span,
        int pages,
        bool allZero,
        ReadOnlySpan<byte> presence,
        ReadOnlySpan<byte> zeros,
        ReadOnlySpan<byte> content)
    {
        BlockIndex = blockIndex;
        Pages = pages;
        _firstPage = firstPage;
        _span = span;
        _allZero = allZero;
        _presence = presence;
        _zeros = zeros;
        _content = content;
    }

    /// <summary>The RAM block all pages belong to; an index into the table given to <see cref="Parse"/>.</summary>
    public int BlockIndex { get; }

    /// <summary>Pages in the batch.</summary>
    public int Pages { get; }

    /// <summary>Pages that carry content; the others are zero.</summary>
    public int ContentPages => _content.Length / Page.Size;

    /// <summary>Checks a batch and decodes its content.</summary>
    /// <param name="body">Exactly one batch.</param>
    /// <param name="blocks">The guest's block table, by index.</param>
    /// <param name="scratch">At least <see cref="PageBatch.RawBytesMax"/> bytes; holds decoded content.</param>
    /// <exception cref="StreamFormatException">Never valid; the offset counts from the batch's start.</exception>
    public static PageBatchReader Parse(
        ReadOnlySpan<byte> body, ReadOnlySpan<RamBlock> blocks, Span<byte> scratch)
    {
        if (scratch.Length < PageBatch.RawBytesMax)
        {
            throw new ArgumentException(
                $"The scratch has {scratch.Length} bytes; a batch may need {PageBatch.RawBytesMax}.", nameof(scratch));
        }

        Require(
            body.Length >= PageBatch.HeaderBytes && body.Length <= PageBatch.EncodedBytesMax,
            0, "page batch length", body.Length, PageBatch.EncodedBytesMax);
        PageBatchHeader header = PageBatch.ReadHeader(body);
        Require(header.BlockIndex < blocks.Length, 0, "RAM block index", header.BlockIndex, blocks.Length - 1);
        RamBlock block = blocks[header.BlockIndex];
        long regions = Page.RegionsFor(block.PageCount);
        Require(header.Region < regions, 2, "region", header.Region, regions - 1);
        Require(header.First < Page.RegionPages, 6, "first page in region", header.First, Page.RegionPages - 1);
        long firstPage = (header.Region * Page.RegionPages) + header.First;
        long spanMax = Math.Min(Page.RegionPages - header.First, block.PageCount - firstPage);
        Require(header.Span >= 1 && header.Span <= spanMax, 8, "span of pages", header.Span, spanMax);
        bool allZero = CheckFlags(header.Flags);

        int at = PageBatch.HeaderBytes;
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

        ReadOnlySpan<byte> zeros = default;
        int contentPages = allZero ? 0 : pages;
        if (!allZero && (header.Flags & PageBatch.NoneZero) == 0)
        {
            zeros = Bitmap(body, ref at, pages, "bytes of zero bitmap");
            contentPages = pages - CountBits(zeros);
        }

        Require(
            contentPages <= PageBatch.ContentPagesMax, at, "content pages", contentPages, PageBatch.ContentPagesMax);
        int rawLength = contentPages * Page.Size;
        Require(header.RawLength == rawLength, 11, "raw length", header.RawLength, rawLength);
        Require(header.CodedLength == body.Length - at, 15, "coded length", header.CodedLength, body.Length - at);
        ReadOnlySpan<byte> payload = body[at..];
        if ((header.Flags & PageBatch.CoderMask) == PageBatch.CoderRaw)
        {
            Require(payload.Length == rawLength, 15, "length of raw content", payload.Length, rawLength);
            return new(header.BlockIndex, firstPage, header.Span, pages, allZero, presence, zeros, payload);
        }

        Require(payload.Length < rawLength, 15, "length of coded content", payload.Length, rawLength - 1);
        Span<byte> raw = scratch[..rawLength];
        int decoded = Lz4.Decompress(payload, raw);
        Require(decoded == rawLength, at, "length of decoded LZ4 content", decoded, rawLength);
        return new(header.BlockIndex, firstPage, header.Span, pages, allZero, presence, zeros, raw);
    }

    public Enumerator GetEnumerator() => new(this);

    private static bool CheckFlags(byte flags)
    {
        const byte known = PageBatch.AllPresent | PageBatch.AllZero | PageBatch.NoneZero | PageBatch.CoderMask;
        const byte both = PageBatch.AllZero | PageBatch.NoneZero;
        int coder = flags & PageBatch.CoderMask;
        bool allZero = (flags & PageBatch.AllZero) != 0;
        if ((flags & ~known) != 0 || (flags & both) == both
            || coder is not (PageBatch.CoderRaw or PageBatch.CoderLz4)
            || (allZero && coder != PageBatch.CoderRaw))
        {
            throw new StreamFormatException(
                10, $"page batch flags 0x{flags:x2} are unknown or contradict each other; "
                + "a peer that speaks a newer protocol must agree on the older one first.");
        }

        return allZero;
    }

    private static ReadOnlySpan<byte> Bitmap(ReadOnlySpan<byte> body, scoped ref int at, int bits, string what)
    {
        int length = (bits + 7) / 8;
        Require(body.Length - at >= length, at, what, body.Length - at, length);
        ReadOnlySpan<byte> bitmap = body.Slice(at, length);
        // Bits past the end must be clear, or counting them would promise pages that do not exist.
        Require(
            bits % 8 == 0 || bitmap[^1] >> (bits % 8) == 0, at + length - 1, what, bitmap[^1],
            (1 << (bits % 8)) - 1);
        at += length;
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

    private bool IsPresent(int index) =>
        index < _span && (_presence.IsEmpty || (_presence[index / 8] & (1 << (index % 8))) != 0);

    private bool IsZero(int page) =>
        _allZero || (!_zeros.IsEmpty && (_zeros[page / 8] & (1 << (page % 8))) != 0);

    /// <summary>Walks the pages of a batch in runs as long as they get, ascending.</summary>
    public ref struct Enumerator
    {
        private readonly PageBatchReader _batch;
        // The next page: its place in the span, among the present pages and among those with content.
        private int _index;
        private int _page;
        private int _content;

        internal Enumerator(PageBatchReader batch)
        {
            _batch = batch;
        }

        public PageRun Current { get; private set; }

        public bool MoveNext()
        {
            while (!_batch.IsPresent(_index))
            {
                if (++_index >= _batch._span)
                {
                    return false;
                }
            }

            var first = new PageNumber(_batch._firstPage + _index);
            bool zero = _batch.IsZero(_page);
            int count = 0;
            do
            {
                count++;
                _index++;
                _page++;
            }
            while (_batch.IsPresent(_index) && _batch.IsZero(_page) == zero);

            Current = zero
                ? new PageRun(first, count, default)
                : new PageRun(first, count, _batch._content.Slice(_content * Page.Size, count * Page.Size));
            _content += zero ? 0 : count;
            return true;
        }
    }
}
