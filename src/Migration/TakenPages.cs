using Godwit.Pages;

namespace Godwit.Migration;

/// <summary>The pages of one batch, taken out of the queue for a lane. Allocated once per lane and reused.</summary>
public sealed class TakenPages
{
    private readonly PageNumber[] _pages = new PageNumber[Page.RegionPages];
    private readonly bool[] _zero = new bool[Page.RegionPages];
    private readonly bool[] _plain = new bool[Page.RegionPages];

    /// <summary>The block all pages belong to.</summary>
    public RamBlock Block { get; private set; } = null!;

    /// <summary>The 2 MiB region all pages lie in.</summary>
    public long Region { get; private set; }

    public int Count { get; private set; }

    /// <summary>Pages whose content has to be sent.</summary>
    public int Contents { get; private set; }

    public PageNumber this[int index] => _pages[index];

    /// <summary>True if QEMU's newest record of the page said that it is zero.</summary>
    public bool IsZero(int index) => _zero[index];

    /// <summary>
    /// True if the page has to go with its whole content: the destination has asked for it, so it holds no version of
    /// it that anything could build on.
    /// </summary>
    public bool IsPlain(int index) => _plain[index];

    internal void Begin(RamBlock block, long region)
    {
        Block = block;
        Region = region;
        Count = 0;
        Contents = 0;
    }

    internal bool TryAdd(PageNumber page, bool zero, bool plain)
    {
        if (!zero && Contents == PageBatch.ContentPagesMax)
        {
            return false;
        }

        _pages[Count] = page;
        _zero[Count] = zero;
        _plain[Count] = plain;
        Count++;
        Contents += zero ? 0 : 1;
        return true;
    }
}
