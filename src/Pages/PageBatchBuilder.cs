namespace Godwit.Pages;

/// <summary>Builds page batches, one after the other, in buffers of its own.</summary>
/// <remarks>
/// <para>
/// A lane makes one builder and keeps it; a batch allocates nothing. The order is <see cref="Begin"/>, then
/// <see cref="AddZero"/> and <see cref="AddContents"/> with ascending pages of that region, then, page by page where
/// something cheaper than the content is known, <see cref="Drop"/>, <see cref="SetKnown"/>, <see cref="TrySetDelta"/>
/// or <see cref="TrySetChanged"/>, then <see cref="Encode"/>.
/// </para>
/// <para>
/// Contents are copied into private staging before they are looked at or coded, because the guest keeps writing.
/// Coding straight from guest memory could record a match against bytes that have changed since, and so corrupt a
/// different page of the batch, one that is clean and will not be sent again. A page that tears while it is copied
/// harms only itself, and the dirty feed brings it back.
/// </para>
/// </remarks>
/// <param name="version">
/// The agreed version. <see cref="PageBatch.Version1"/> knows neither words nor deltas nor names nor Zstandard.
/// </param>
public sealed partial class PageBatchBuilder(int version) : IDisposable
{
    // Kinds by page of the region, plus one, so that zero stands for a page that is not in the batch.
    private const byte Absent = 0;
    private readonly byte[] _staging = GC.AllocateUninitializedArray<byte>(PageBatch.RawBytesMax);
    private readonly byte[] _kinds = new byte[Page.RegionPages];
    private readonly short[] _slots = new short[PageBatch.ContentPagesMax];
    private readonly PageClass[] _classes = new PageClass[PageBatch.ContentPagesMax];
    private readonly byte[] _names = new byte[PageBatch.ContentPagesMax * PageBatch.NameBytes];
    private readonly byte[] _deltas = GC.AllocateUninitializedArray<byte>(PageBatch.RawBytesMax);
    private readonly (int At, int Length)[] _deltaOf = new (int, int)[PageBatch.ContentPagesMax];
    private ZstdEncoder? _zstd;

    private int _blockIndex = -1;
    private long _region;
    private int _last;
    private int _slotCount;
    private int _examined;
    private int _deltaBytes;

    /// <summary>Pages in the batch; dropped ones no longer count.</summary>
    public int Pages { get; private set; }

    /// <summary>Pages of one kind, as things stand.</summary>
    public int Count(PageKind kind)
    {
        Examine();
        return _kinds.AsSpan().Count(Kind(kind));
    }

    /// <summary>Slots handed out by <see cref="AddContents"/>, whatever has become of their pages.</summary>
    public int Slots => _slotCount;

    /// <summary>Whether another page with content has a slot; zero pages fit as long as the region has pages.</summary>
    public bool HasRoom => _slotCount < PageBatch.ContentPagesMax;

    /// <summary>Forgets the last batch and starts one for a region of a block.</summary>
    public void Begin(int blockIndex, long region)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(blockIndex);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(blockIndex, RamBlock.CountMax);
        ArgumentOutOfRangeException.ThrowIfNegative(region);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(region, RamBlock.LengthMax / Page.RegionBytes);
        _blockIndex = blockIndex;
        _region = region;
        _last = -1;
        Pages = 0;
        _slotCount = 0;
        _examined = 0;
        _deltaBytes = 0;
        Array.Clear(_kinds);
    }

    /// <summary>Adds a page known to be all zero.</summary>
    public void AddZero(PageNumber page) => _kinds[Add(page)] = Kind(PageKind.Zero);

    /// <summary>Adds consecutive pages and gives their slots, which the caller fills before the next call.</summary>
    /// <param name="first">The first of the pages.</param>
    /// <param name="count">At least one; at most as many as have room.</param>
    /// <returns>4096 bytes per page.</returns>
    public Span<byte> AddContents(PageNumber first, int count)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(count);
        if (count > PageBatch.ContentPagesMax - _slotCount)
        {
            throw new InvalidOperationException(
                $"A batch holds at most {PageBatch.ContentPagesMax} content pages; encode it and begin another.");
        }

        int slot = _slotCount;
        for (int i = 0; i < count; i++)
        {
            int index = Add(new PageNumber(first.Value + i));
            _kinds[index] = Kind(PageKind.Content);
            _slots[_slotCount++] = (short)index;
        }

        return _staging.AsSpan(slot * Page.Size, count * Page.Size);
    }

    /// <summary>The page a slot was handed out for.</summary>
    public PageNumber PageOf(int slot) => new((_region * Page.RegionPages) + _slots[Checked(slot)]);

    /// <summary>The content copied into a slot: 4096 bytes.</summary>
    public ReadOnlySpan<byte> ContentOf(int slot) => _staging.AsSpan(Checked(slot) * Page.Size, Page.Size);

    /// <summary>What the slot's page is as things stand; null once it was dropped.</summary>
    public PageKind? KindOf(int slot)
    {
        Examine();
        byte kind = _kinds[_slots[Checked(slot)]];
        return kind == Absent ? null : (PageKind)(kind - 1);
    }

    /// <summary>What the content in a slot looks like.</summary>
    public PageClass ClassOf(int slot)
    {
        Examine();
        return _classes[Checked(slot)];
    }

    /// <summary>Bytes of the last batch's block, before coding.</summary>
    public int BlockBytes { get; private set; }

    /// <summary>Bytes of the last batch's block as it travels.</summary>
    public int CodedBytes { get; private set; }

    /// <summary>Takes the slot's page out of the batch: the destination has it.</summary>
    public void Drop(int slot)
    {
        Examine();
        Pages -= _kinds[_slots[Checked(slot)]] == Absent ? 0 : 1;
        _kinds[_slots[slot]] = Absent;
    }

    /// <summary>Sends the slot's page as it is, whatever the coder: it does not get smaller.</summary>
    public void SetRaw(int slot) => Set(slot, PageKind.Raw);

    /// <summary>Sends a name instead of the slot's content.</summary>
    /// <param name="slot">The slot.</param>
    /// <param name="name">
    /// <see cref="PageBatch.NameBytes"/> bytes of a cryptographic hash of the content in the slot, not of what the
    /// guest's memory holds by now.
    /// </param>
    public void SetKnown(int slot, ReadOnlySpan<byte> name)
    {
        if (name.Length != PageBatch.NameBytes)
        {
            throw new ArgumentException($"A name has {PageBatch.NameBytes} bytes, not {name.Length}.", nameof(name));
        }

        Set(slot, PageKind.Known);
        name.CopyTo(_names.AsSpan(slot * PageBatch.NameBytes));
    }

    /// <summary>
    /// Sends a name, and what seems to have changed since the destination kept the page, if that is short enough.
    /// </summary>
    /// <param name="slot">The slot.</param>
    /// <param name="sums">Those of the page that the destination kept: see <see cref="PageLines.Sum"/>.</param>
    /// <param name="bytesMax">What the delta may cost, at most <see cref="PageDelta.BytesMax"/>.</param>
    /// <param name="name">Room for the 16 bytes of the name of the content in the slot, which the caller fills.</param>
    /// <returns>False if too much has changed, or nothing seems to have; nothing has been done then.</returns>
    public bool TrySetChanged(int slot, ReadOnlySpan<byte> sums, int bytesMax, out Span<byte> name)
    {
        name = default;
        ArgumentOutOfRangeException.ThrowIfGreaterThan(bytesMax, PageDelta.BytesMax);
        int length = PageDelta.EncodeLines(sums, ContentOf(slot), _deltas.AsSpan(_deltaBytes, bytesMax));
        if (length <= 0)
        {
            return false;
        }

        SetDelta(slot, PageKind.Changed, length);
        name = _names.AsSpan(slot * PageBatch.NameBytes, PageBatch.NameBytes);
        return true;
    }

    /// <summary>Sends what changed instead of the slot's content, if that is short enough.</summary>
    /// <param name="slot">The slot.</param>
    /// <param name="old">The version that this lane sent last: the one the destination holds.</param>
    /// <param name="bytesMax">What the delta may cost, at most <see cref="PageDelta.BytesMax"/>.</param>
    /// <returns>False if it is longer, or the page has not changed at all; nothing has been done then.</returns>
    public bool TrySetDelta(int slot, ReadOnlySpan<byte> old, int bytesMax)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(bytesMax, PageDelta.BytesMax);
        int length = PageDelta.Encode(old, ContentOf(slot), _deltas.AsSpan(_deltaBytes, bytesMax));
        if (length <= 0)
        {
            return false;
        }

        SetDelta(slot, PageKind.Delta, length);
        return true;
    }

    public void Dispose() => _zstd?.Dispose();

    private static byte Kind(PageKind kind) => (byte)((byte)kind + 1);

    private void SetDelta(int slot, PageKind kind, int length)
    {
        Set(slot, kind);
        _deltaOf[slot] = (_deltaBytes, length);
        _deltaBytes += length;
    }

    private bool IsNamed(int slot) =>
        _kinds[_slots[slot]] is var kind && (kind == Kind(PageKind.Known) || kind == Kind(PageKind.Changed));

    private bool HasDelta(int slot) =>
        _kinds[_slots[slot]] is var kind && (kind == Kind(PageKind.Delta) || kind == Kind(PageKind.Changed));

    private void Set(int slot, PageKind kind)
    {
        Examine();
        if (version < (kind == PageKind.Changed ? PageBatch.Version4 : PageBatch.Version2))
        {
            throw new InvalidOperationException($"Batches of version {version} have no pages of kind {kind}.");
        }

        if (_kinds[_slots[Checked(slot)]] != Kind(PageKind.Content))
        {
            throw new InvalidOperationException($"The page of slot {slot} has a cheaper kind than {kind} already.");
        }

        _kinds[_slots[slot]] = Kind(kind);
    }

    private int Checked(int slot) => slot < _slotCount
        ? slot
        : throw new ArgumentOutOfRangeException(nameof(slot), $"Slot {slot} was not handed out; {_slotCount} were.");

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
        Pages++;
        return _last;
    }

    // Slots are handed out empty: only at the next call that asks about them has the caller filled them.
    private void Examine()
    {
        for (; _examined < _slotCount; _examined++)
        {
            PageClass looks = PageClassifier.Classify(_staging.AsSpan(_examined * Page.Size, Page.Size));
            _classes[_examined] = looks;
            if (looks == PageClass.Zero)
            {
                _kinds[_slots[_examined]] = Kind(PageKind.Zero);
            }
            else if (version >= PageBatch.Version2 && looks == PageClass.Word)
            {
                _kinds[_slots[_examined]] = Kind(PageKind.Word);
            }
        }
    }
}
