namespace Godwit.Pages;

/// <summary>The index of a page inside its RAM block: byte offset divided by <see cref="Page.Size"/>.</summary>
/// <param name="Value">Zero for the first page of the block.</param>
public readonly record struct PageNumber(long Value) : IComparable<PageNumber>
{
    /// <summary>The page's first byte, counted from the start of its RAM block.</summary>
    public long ByteOffset => Value * Page.Size;

    /// <summary>The region the page lies in.</summary>
    public long Region => Value / Page.RegionPages;

    public int CompareTo(PageNumber other) => Value.CompareTo(other.Value);

    public static bool operator <(PageNumber left, PageNumber right) => left.Value < right.Value;

    public static bool operator >(PageNumber left, PageNumber right) => left.Value > right.Value;

    public static bool operator <=(PageNumber left, PageNumber right) => left.Value <= right.Value;

    public static bool operator >=(PageNumber left, PageNumber right) => left.Value >= right.Value;

    public override string ToString() => Value.ToString(System.Globalization.CultureInfo.InvariantCulture);
}

/// <summary>The sizes every part of Godwit agrees on.</summary>
public static class Page
{
    /// <summary>Bytes in a page. QEMU's stream moves x86 memory in this unit whatever backs it.</summary>
    public const int Size = 4096;

    /// <summary>Pages in a region: 2 MiB, so that a region is what one huge page of the host covers.</summary>
    public const int RegionPages = 512;

    /// <summary>Bytes in a region.</summary>
    public const int RegionBytes = RegionPages * Size;

    /// <summary>Regions that hold <paramref name="pageCount"/> pages, the last one perhaps partly.</summary>
    public static long RegionsFor(long pageCount) => (pageCount + RegionPages - 1) / RegionPages;
}
