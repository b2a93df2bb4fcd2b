namespace Godwit.Pages;

/// <summary>Builds page batches, one after the other, in buffers of its own.</summary>
/// <remarks>
/// <para>
/// A lane makes one builder and keeps it; a batch allocates nothing. The order is <see cref="Begin"/>, then
/// <see cref="AddZero"/> and <see cref="AddContent"/> with ascending pages of that region, then <see cref="Encode"/>.
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
    private readonly byte[] _encoded = GC.AllocateUninitializedArray<byte>(PageBatch.EncodedBytesMax);
    private readonly ulong[] _present = new ulong[Page.RegionPages / 64];
    private readonly ulong[] _zero = new ulong[Page.RegionPages / 64];

    private int _blockIndex = -1;
    private long _region;
    private int _first;
    private int _last;
    private int _pages;
    private int _contentPages;

    // The last slot handed out is examined when the next call arrives: only then has the caller filled it.
    private int _unexamined = -1;

    /// <summary>Pages in the batch, zero pages included.</summary>
    public int Pages => _pages;

    /// <summary>Staging slots in use. One fewer may be coded when the page in the last slot turns out zero.</summary>
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
        _unexamined = -1;
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

    /// <summary>Adds a page and returns the 4096-byte slot that the caller must fill before the next call.</summary>
    /// <remarks>A page that proves to be all zero is coded as a zero page and its slot is used again.</remarks>
    public Span<byte> AddContent(PageNumber page)
    {
        Examine();
        if (_contentPages == PageBatch.ContentPagesMax)
        {
            throw new InvalidOperationException(
                $"A batch holds at most {PageBatch.ContentPagesMax} content pages; encode it and begin another.");
        }

        _unexamined = Add(page);
        return _staging.AsSpan(_contentPages++ * Page.Size, Page.Size);
    }

    /// <summary>The whole encoded batch, in the builder's buffer: valid until the next Begin or Encode.</summary>
    /// <param name="compress">Try LZ4; the content stays raw when that does not make it smaller.</param>
    public ReadOnlyMemory<byte> Encode(bool compress)
    {
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
            WritePresence(_encoded.AsSpan(at, (span + 7) / 8), span);
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
            WriteZeros(_encoded.AsSpan(at, (_pages + 7) / 8));
            at += (_pages + 7) / 8;
        }

        ReadOnlySpan<byte> raw = _staging.AsSpan(0, _contentPages * Page.Size);
        // One byte less than raw as capacity: what would not shrink is given up as soon as that shows.
        int coded = compress && raw.Length > 0 ? Lz4.Compress(raw, _encoded.AsSpan(at, raw.Length - 1)) : 0;
        if (coded > 0)
        {
            flags |= PageBatch.CoderLz4;
        }
        else
        {
            raw.CopyTo(_encoded.AsSpan(at));
            coded = raw.Length;
        }

        PageBatch.WriteHeader(
            _encoded,
            new PageBatchHeader(_blockIndex, _region, _first, span, flags, (uint)raw.Length, (uint)coded));
        return _encoded.AsMemory(0, at + coded);
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
        if (_unexamined >= 0 && ZeroTest.IsZero(_staging.AsSpan((_contentPages - 1) * Page.Size, Page.Size)))
        {
            _zero[_unexamined / 64] |= 1UL << (_unexamined % 64);
            _contentPages--;
        }

        _unexamined = -1;
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
