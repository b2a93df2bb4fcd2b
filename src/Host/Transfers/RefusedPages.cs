using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Host.Transfers;

/// <summary>One lane's pages that came by names and could not be rebuilt, until their contents have come.</summary>
/// <remarks>
/// The source takes a page that it has sent for one that is here: until it hears otherwise it may send what has
/// changed since. Such a change has nothing to be applied to and is passed over; the content that was asked for is
/// newer. One thread, the lane's, uses it.
/// </remarks>
internal sealed class RefusedPages
{
    private readonly HashSet<(int Block, long Page)> _outstanding = [];
    private readonly byte[] _news = new byte[ControlMessage.PagesWanted.BitsBytes];
    private int _block;
    private long _region;
    private bool _any;

    /// <summary>A batch begins: all its pages are of one region of one block.</summary>
    public void Begin(int blockIndex) => _block = blockIndex;

    /// <summary>A page of the batch could not be rebuilt.</summary>
    public void Add(PageNumber page)
    {
        _outstanding.Add((_block, page.Value));
        _region = page.Region;
        int index = (int)(page.Value % Page.RegionPages);
        _news[index / 8] |= (byte)(1 << (index % 8));
        _any = true;
    }

    /// <summary>Whether the page still lacks the version that the source believes is here.</summary>
    public bool Contains(PageNumber page) => _outstanding.Count > 0 && _outstanding.Contains((_block, page.Value));

    /// <summary>These pages have whole contents now.</summary>
    public void Remove(PageNumber first, int count)
    {
        for (int i = 0; _outstanding.Count > 0 && i < count; i++)
        {
            _outstanding.Remove((_block, first.Value + i));
        }
    }

    /// <summary>Takes all of them out: they will come another way.</summary>
    public IReadOnlyList<(int Block, PageNumber Page)> TakeAll()
    {
        (int Block, PageNumber Page)[] all = [.. _outstanding.Select(page => (page.Block, new PageNumber(page.Page)))];
        _outstanding.Clear();
        return all;
    }

    /// <summary>What to ask for after a batch; null if all its pages are there.</summary>
    public ControlMessage.PagesWanted? TakeNews(int blockIndex)
    {
        if (!_any)
        {
            return null;
        }

        var wanted = new ControlMessage.PagesWanted(blockIndex, _region, _news.ToArray());
        Array.Clear(_news);
        _any = false;
        return wanted;
    }
}
