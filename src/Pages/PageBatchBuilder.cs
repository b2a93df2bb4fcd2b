namespace Godwit.Pages;

/// <summary>Builds page batches, one after the other, in buffers of its own.</summary>
/// <remarks>
/// <para>
/// A lane makes one builder and keeps it; a batch allocates nothing. The order is <see cref="Begin"/>, then
/// <see cref="AddZero"/> and <see cref="AddContents"/> with ascending pages of that region, then <see cref="Encode"/>.
/// </para>
/// <para>
/// Contents are copied into private staging before they are tested for zero or coded, because the guest keeps writing.
/// Coding straight from guest memory could record a match against bytes that have changed since, and so corrupt a
/// different page of the batch, one that is clean and will not be sent again. A page that tears while it is copied
/// harms only itself, and the dirty feed brings it back.
/// </para>
/// </remarks>
public sealed class PageBatchBuilder
{
    private readonly byte[] _staging = GC.AllocateUninitializedArray<byte>(PageBatch.RawBytesMax);
    private readonly ulong[] _present = new ulong[Page.RegionPages / 64];
    private readonly ulong[] _zero = new ulong[Page.RegionPages / 64];

    private int _blockIndex = -1;
    private long _region;
    private int _first;
    private int _last;
    private int _pages;
    private int _contentPages;

    // The slots handed out last are examined when the next call arrives: only then has the caller filled them.
    private int _unexaminedFirst;
    private int _unexamined;

    /// <summary>Pages in the batch, zero pages included.</summary>
    public int Pages => _pages;

    /// <summary>Staging slots in use. Fewer are coded when pages in the slots given out last turn out zero.</summary>
    public int ContentPages => _contentPages;

    /// <summary>Whether another content page has a slot; zero pages fit as long as the region has pages.</summary>
    public bool HasRoom => _contentPages < PageBatch.ContentPagesMax;

    /// <summary>Forgets the last batch and starts one for a region of a block.</summary>
    public void Begin(int blockIndex, long region)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(blockIndex);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(blockIndex, RamBlock.CountMax);
        ArgumentOutOfRangeException.ThrowIfNegative(region);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(region, RamBlock.LengthMax / Page.RegionBytes);
        _blockIndex = blockIndex;
        _region = region;
        _first = _last = -1;
        _pages = 0;
        _contentPages = 0;
        _unexamined = 0;
        Array.Clear(_present);
        Array.Clear(_zero);
    }

    /// <summary>Adds a page known to be all zero.</summary>
    public void AddZero(PageNumber page)
    {
        Examine();
        int index = Add(page);
        _zero[index / 64] |= 1UL << (index % 64);
    }

    /// <summary>Adds consecutive pages and gives their slots, which the caller fills before the next call.</summary>
    /// <param name="first">The first of the pages.</param>
    /// <param name="count">At least one; at most as many as have room.</param>
    /// <returns>4096 bytes per page.</returns>
    /// <remarks>A page that proves to be all zero is coded as a zero page and its slot is used again.</remarks>
    public Span<byte> AddContents(PageNumber first, int count)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(count);
        Examine();
        if (count > PageBatch.ContentPagesMax - _contentPages)
        {
            throw new InvalidOperationException(
                $"A batch holds at most {PageBatch.ContentPagesMax} content pages; encode it and begin another.");
        }

        _unexaminedFirst = Add(first);
        for (int i = 1; i < count; i++)
        {
            Add(new PageNumber(first.Value + i));
        }

        _unexamined = count;
        Span<byte> slots = _staging.AsSpan(_contentPages * Page.Size, count * Page.Size);
        _contentPages += count;
        return slots;
    }

    /// <summary>Encodes the whole batch.</summary>
    /// <param name="to">At least <see cref="PageBatch.EncodedBytesMax"/> bytes.</param>
    /// <param name="compress">Try LZ4; the content stays raw when that does not make it smaller.</param>
    /// <returns>The length of the encoded batch.</returns>
    public int Encode(Span<byte> to, bool compress)
    {
        if (to.Length < PageBatch.EncodedBytesMax)
        {
            throw new ArgumentException(
                $"The buffer has {to.Length} bytes; a batch may need {PageBatch.EncodedBytesMax}.", nameof(to));
        }

        Examine();
        if (_pages == 0)
        {
            throw new InvalidOperationException("A batch without a page cannot be encoded.");
        }

        int span = _last - _first + 1;
        byte flags = 0;
        int at = PageBatch.HeaderBytes;
        if (_pages == span)
        {
            flags |= PageBatch.AllPresent;
        }
        else
        {
            WritePresence(to.Slice(at, (span + 7) / 8), span);
            at += (span + 7) / 8;
        }

        if (_contentPages == 0)
        {
            flags |= PageBatch.AllZero;
        }
        else if (_contentPages == _pages)
        {
            flags |= PageBatch.NoneZero;
        }
        else
        {
            WriteZeros(to.Slice(at, (_pages + 7) / 8));
            at += (_pages + 7) / 8;
        }

        ReadOnlySpan<byte> raw = _staging.AsSpan(0, _contentPages * Page.Size);
        // One byte less than raw as capacity: what would not shrink is given up as soon as that shows.
        int coded = compress && raw.Length > 0 ? Lz4.Compress(raw, to.Slice(at, raw.Length - 1)) : 0;
        if (coded > 0)
        {
            flags |= PageBatch.CoderLz4;
        }
        else
        {
            raw.CopyTo(to[at..]);
            coded = raw.Length;
        }

        PageBatch.WriteHeader(
            to,
            new PageBatchHeader(_blockIndex, _region, _first, span, flags, (uint)raw.Length, (uint)coded));
        return at + coded;
    }

    private int Add(PageNumber page)
    {
        long index = page.Value - (_region * Page.RegionPages);
        if (_blockIndex < 0 || index <= _last || index >= Page.RegionPages)
        {
            throw new ArgumentOutOfRangeException(
                nameof(page),
                $"Page {page.Value} cannot join a batch of region {_region} (pages {_region * Page.RegionPages} to "
                + $"{((_region + 1) * Page.RegionPages) - 1}) whose last page is {_last}; pages must ascend.");
        }

        _last = (int)index;
        if (_pages++ == 0)
        {
            _first = _last;
        }

        _present[_last / 64] |= 1UL << (_last % 64);
        return _last;
    }

    private void Examine()
    {
        int slot = _contentPages - _unexamined;
        int kept = slot;
        for (int i = 0; i < _unexamined; i++, slot++)
        {
            Span<byte> content = _staging.AsSpan(slot * Page.Size, Page.Size);
            if (ZeroTest.IsZero(content))
            {
                int index = _unexaminedFirst + i;
                _zero[index / 64] |= 1UL << (index % 64);
                continue;
            }

            if (kept != slot)
            {
                content.CopyTo(_staging.AsSpan(kept * Page.Size, Page.Size));
            }

            kept++;
        }

        _contentPages = kept;
        _unexamined = 0;
    }

    private void WritePresence(Span<byte> to, int span)
    {
        to.Clear();
        for (int i = 0; i < span; i++)
        {
            if (IsSet(_present, _first + i))
            {
                to[i / 8] |= (byte)(1 << (i % 8));
            }
        }
    }

    private void WriteZeros(Span<byte> to)
    {
        to.Clear();
        int i = 0;
        for (int page = _first; page <= _last; page++)
        {
            if (!IsSet(_present, page))
            {
                continue;
            }

            if (IsSet(_zero, page))
            {
                to[i / 8] |= (byte)(1 << (i % 8));
            }

            i++;
        }
    }

    private static bool IsSet(ulong[] bits, int index) => (bits[index / 64] & (1UL << (index % 64))) != 0;
}
