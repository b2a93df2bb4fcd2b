using System.Numerics;

namespace Godwit.Pages;

/// <summary>A bounded pool of page contents, for guests whose memory is not shared.</summary>
/// <remarks>
/// There the hypervisor's stream is the only place a page's content appears, so it is kept here until the page's turn
/// on the wire; a newer version overwrites an older one in its slot. A page that was reported zero needs no slot:
/// <see cref="Drop"/> the old content, and read "dirty but not in the pool" as zero. Nothing is allocated after
/// construction except by <see cref="Grow"/>. One loop owns a pool; there is no locking.
/// </remarks>
public sealed class CarriedPages
{
    // Contents lie in pieces of 1 MiB: no limit of 2 GiB, and growing moves nothing.
    private const int PieceSlots = 256;

    private readonly List<byte[]> _pieces = [];
    private long[] _keys = [];
    private int[] _slots = [];
    private int[] _free = [];
    private int _freeCount;
    private int _count;
    private int _mask;

    /// <summary>A pool of <paramref name="slotsMax"/> pages, 4096 bytes and some 20 bytes of table each.</summary>
    public CarriedPages(int slotsMax)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(slotsMax);
        SizeTo(slotsMax);
    }

    /// <summary>Pages the pool can hold.</summary>
    public int SlotsMax { get; private set; }

    /// <summary>Pages held.</summary>
    public int Count => _count;

    /// <summary>Pages that still fit.</summary>
    public int Free => SlotsMax - _count;

    /// <summary>Keeps a page's content, replacing an older version of the same page.</summary>
    /// <returns>False when the page is new and the pool is full; nothing has changed then.</returns>
    public bool TryPut(int block, PageNumber page, ReadOnlySpan<byte> content)
    {
        if (content.Length != Page.Size)
        {
            throw new ArgumentException($"A page is {Page.Size} bytes, not {content.Length}.", nameof(content));
        }

        long key = Key(block, page);
        int at = Find(key);
        if (_keys[at] == 0)
        {
            if (_freeCount == 0)
            {
                return false;
            }

            _keys[at] = key;
            _slots[at] = _free[--_freeCount];
            _count++;
        }

        content.CopyTo(Slot(_slots[at]));
        return true;
    }

    /// <summary>Copies a page's content out and forgets it.</summary>
    /// <returns>False when the pool does not hold the page; the destination is untouched then.</returns>
    public bool TryTake(int block, PageNumber page, Span<byte> destination)
    {
        int at = Find(Key(block, page));
        if (_keys[at] == 0)
        {
            return false;
        }

        Slot(_slots[at]).CopyTo(destination);
        RemoveAt(at);
        return true;
    }

    /// <summary>Whether the pool holds the page.</summary>
    public bool Contains(int block, PageNumber page) => _keys[Find(Key(block, page))] != 0;

    /// <summary>Forgets a page's content.</summary>
    /// <returns>True when the pool held it.</returns>
    public bool Drop(int block, PageNumber page)
    {
        int at = Find(Key(block, page));
        if (_keys[at] == 0)
        {
            return false;
        }

        RemoveAt(at);
        return true;
    }

    /// <summary>Raises the limit to <paramref name="slotsMax"/>, which must not be lower than it is.</summary>
    public void Grow(int slotsMax)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(slotsMax, SlotsMax);
        SizeTo(slotsMax);
    }

    private void SizeTo(int slotsMax)
    {
        int[] free = new int[slotsMax];
        Array.Copy(_free, free, _freeCount);
        _free = free;
        // Last slots first, so that the low ones are used first and high memory stays untouched in a quiet guest.
        Array.Copy(_free, 0, _free, slotsMax - SlotsMax, _freeCount);
        for (int i = 0; i < slotsMax - SlotsMax; i++)
        {
            _free[i] = slotsMax - 1 - i;
        }

        _freeCount += slotsMax - SlotsMax;
        while ((long)_pieces.Count * PieceSlots < slotsMax)
        {
            _pieces.Add(GC.AllocateUninitializedArray<byte>(PieceSlots * Page.Size));
        }

        SlotsMax = slotsMax;
        long[] keys = _keys;
        int[] slots = _slots;
        // At most half full, so that every probe ends soon and at an empty place.
        int capacity = checked((int)BitOperations.RoundUpToPowerOf2((uint)slotsMax * 2));
        if (capacity == keys.Length)
        {
            return;
        }

        _keys = new long[capacity];
        _slots = new int[capacity];
        _mask = capacity - 1;
        for (int i = 0; i < keys.Length; i++)
        {
            if (keys[i] != 0)
            {
                int at = Find(keys[i]);
                _keys[at] = keys[i];
                _slots[at] = slots[i];
            }
        }
    }

    private static long Key(int block, PageNumber page)
    {
        if ((uint)block >= RamBlock.CountMax)
        {
            throw new ArgumentOutOfRangeException(
                nameof(block), $"RAM block {block} is outside 0..{RamBlock.CountMax - 1}.");
        }

        if ((ulong)page.Value >= RamBlock.LengthMax / Page.Size)
        {
            throw new ArgumentOutOfRangeException(
                nameof(page), $"Page {page.Value} is outside 0..{(RamBlock.LengthMax / Page.Size) - 1}.");
        }

        // One more than the index: a key is never 0, which marks an empty place.
        return ((long)(block + 1) << 40) | page.Value;
    }

    // The place of a key, or the empty place where it would go.
    private int Find(long key)
    {
        int at = Home(key);
        while (_keys[at] != 0 && _keys[at] != key)
        {
            at = (at + 1) & _mask;
        }

        return at;
    }

    private int Home(long key) => (int)(((ulong)key * 0x9E3779B97F4A7C15UL) >> 32) & _mask;

    private void RemoveAt(int at)
    {
        _free[_freeCount++] = _slots[at];
        _count--;
        // Close the gap: move back each follower whose home does not lie between the gap and itself.
        int gap = at;
        for (int next = (gap + 1) & _mask; _keys[next] != 0; next = (next + 1) & _mask)
        {
            int home = Home(_keys[next]);
            if (((next - home) & _mask) >= ((next - gap) & _mask))
            {
                _keys[gap] = _keys[next];
                _slots[gap] = _slots[next];
                gap = next;
            }
        }

        _keys[gap] = 0;
    }

    private Span<byte> Slot(int slot) =>
        _pieces[slot / PieceSlots].AsSpan(slot % PieceSlots * Page.Size, Page.Size);
}
