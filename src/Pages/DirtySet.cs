using System.Collections;
using System.Numerics;

namespace Godwit.Pages;

/// <summary>The pages of one RAM block written since they were last put on the wire, one bit per page.</summary>
/// <remarks>
/// A page may be dirtied again while it is being sent, so a round never works on the set that is still being filled:
/// <see cref="Swap"/> hands the whole set over and leaves an empty one behind, and the second write lands in the next
/// round, never between two. One loop owns a set; there is no locking here and none is wanted.
/// </remarks>
public sealed class DirtySet : IEnumerable<PageNumber>
{
    private const int RegionWords = Page.RegionPages / 64;

    private ulong[] _words;
    private long _count;

    /// <summary>An empty set over pages 0 to <paramref name="pageCount"/> - 1; one bit of memory for each.</summary>
    public DirtySet(long pageCount)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(pageCount);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(pageCount, RamBlock.LengthMax / Page.Size);
        PageCount = pageCount;
        // Whole regions, so that Region() is always eight words; bits past the last page stay clear.
        _words = new ulong[checked((int)(Page.RegionsFor(pageCount) * RegionWords))];
    }

    /// <summary>Pages the set ranges over.</summary>
    public long PageCount { get; }

    /// <summary>Regions the set ranges over; the last one may be partly outside the block.</summary>
    public long RegionCount => _words.Length / RegionWords;

    /// <summary>Pages in the set.</summary>
    public long Count => _count;

    /// <summary>Puts a page in the set.</summary>
    /// <returns>True when it was not in it before.</returns>
    public bool Add(PageNumber page)
    {
        ref ulong word = ref Word(page, out ulong bit);
        if ((word & bit) != 0)
        {
            return false;
        }

        word |= bit;
        _count++;
        return true;
    }

    /// <summary>Puts every page in the set, as round 0 begins.</summary>
    public void AddAll()
    {
        long whole = PageCount / 64;
        _words.AsSpan(0, (int)whole).Fill(ulong.MaxValue);
        if (PageCount % 64 != 0)
        {
            _words[whole] = (1UL << (int)(PageCount % 64)) - 1;
        }

        _count = PageCount;
    }

    /// <summary>Puts the pages of another set of the same size in this one.</summary>
    public void UnionWith(DirtySet other)
    {
        ArgumentNullException.ThrowIfNull(other);
        ArgumentOutOfRangeException.ThrowIfNotEqual(other.PageCount, PageCount);
        long count = 0;
        for (int i = 0; i < _words.Length; i++)
        {
            _words[i] |= other._words[i];
            count += BitOperations.PopCount(_words[i]);
        }

        _count = count;
    }

    /// <summary>Takes a page out of the set.</summary>
    /// <returns>True when it was in it.</returns>
    public bool Remove(PageNumber page)
    {
        ref ulong word = ref Word(page, out ulong bit);
        if ((word & bit) == 0)
        {
            return false;
        }

        word &= ~bit;
        _count--;
        return true;
    }

    /// <summary>Whether the page is in the set.</summary>
    public bool Contains(PageNumber page) => (Word(page, out ulong bit) & bit) != 0;

    /// <summary>Takes every page out.</summary>
    public void Clear()
    {
        if (_count != 0)
        {
            Array.Clear(_words);
            _count = 0;
        }
    }

    /// <summary>Takes the pages of one region out.</summary>
    public void ClearRegion(long region)
    {
        Span<ulong> words = RegionWordsOf(region);
        foreach (ulong word in words)
        {
            _count -= BitOperations.PopCount(word);
        }

        words.Clear();
    }

    /// <summary>Exchanges contents with another set of the same size, in constant time.</summary>
    public void Swap(DirtySet other)
    {
        ArgumentNullException.ThrowIfNull(other);
        ArgumentOutOfRangeException.ThrowIfNotEqual(other.PageCount, PageCount);
        (_words, other._words) = (other._words, _words);
        (_count, other._count) = (other._count, _count);
    }

    /// <summary>The first region at or after <paramref name="fromRegion"/> with a page in the set, or -1.</summary>
    public long NextRegion(long fromRegion)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(fromRegion);
        if (_count == 0 || fromRegion >= RegionCount)
        {
            return -1;
        }

        int start = (int)fromRegion * RegionWords;
        int found = _words.AsSpan(start).IndexOfAnyExcept(0UL);
        return found < 0 ? -1 : (start + found) / RegionWords;
    }

    /// <summary>The first page at or after <paramref name="from"/> that is in the set, or null.</summary>
    public PageNumber? NextPage(PageNumber from)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(from.Value);
        if (_count == 0 || from.Value >= PageCount)
        {
            return null;
        }

        int index = (int)(from.Value / 64);
        ulong word = _words[index] & (ulong.MaxValue << (int)(from.Value % 64));
        if (word == 0)
        {
            int found = _words.AsSpan(index + 1).IndexOfAnyExcept(0UL);
            if (found < 0)
            {
                return null;
            }

            index += 1 + found;
            word = _words[index];
        }

        return new PageNumber((index * 64L) + BitOperations.TrailingZeroCount(word));
    }

    /// <summary>The eight words of a region, lowest page in the lowest bit of the first. Valid until a Swap.</summary>
    public ReadOnlySpan<ulong> Region(long region) => RegionWordsOf(region);

    /// <summary>Pages of one region that are in the set.</summary>
    public int CountInRegion(long region)
    {
        int count = 0;
        foreach (ulong word in RegionWordsOf(region))
        {
            count += BitOperations.PopCount(word);
        }

        return count;
    }

    /// <summary>The pages in the set, ascending. Pages removed while enumerating do no harm.</summary>
    public Enumerator GetEnumerator() => new(this);

    IEnumerator<PageNumber> IEnumerable<PageNumber>.GetEnumerator() => GetEnumerator();

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();

    private ref ulong Word(PageNumber page, out ulong bit)
    {
        if ((ulong)page.Value >= (ulong)PageCount)
        {
            throw new ArgumentOutOfRangeException(
                nameof(page), $"Page {page.Value} lies outside the set's {PageCount} pages.");
        }

        bit = 1UL << (int)(page.Value & 63);
        return ref _words[(int)(page.Value >> 6)];
    }

    private Span<ulong> RegionWordsOf(long region)
    {
        if ((ulong)region >= (ulong)RegionCount)
        {
            throw new ArgumentOutOfRangeException(
                nameof(region), $"Region {region} lies outside the set's {RegionCount} regions.");
        }

        return _words.AsSpan((int)region * RegionWords, RegionWords);
    }

    /// <summary>Walks a set without allocating.</summary>
    public struct Enumerator : IEnumerator<PageNumber>
    {
        private readonly DirtySet _set;
        private PageNumber _next;

        internal Enumerator(DirtySet set) => _set = set;

        public PageNumber Current { get; private set; }

        readonly object IEnumerator.Current => Current;

        public bool MoveNext()
        {
            if (_set.NextPage(_next) is not { } page)
            {
                return false;
            }

            Current = page;
            _next = new PageNumber(page.Value + 1);
            return true;
        }

        public void Reset() => _next = default;

        public readonly void Dispose()
        {
        }
    }
}
