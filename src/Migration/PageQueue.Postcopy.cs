using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Migration;

// Which page goes next while the guest runs at the destination: what it waits for, then what it is likely to touch.
internal sealed partial class PageQueue
{
    // As a kernel reads ahead: a guest that walks through memory asks for ever more at once, one that jumps for little.
    private const int AheadMin = 4;
    private const int AheadMax = 64;
    private const int PivotsMax = 8;
    private const int PivotReach = 8;

    private readonly Queue<(int Block, PageNumber Page)> _requests = new();
    // The newest first.
    private readonly List<(int Block, long Page)> _pivots = [];
    private (int Block, long Region)[] _byHeat = [];
    private int[] _heatCursors = [];
    private int _ahead = AheadMin;
    private (int Block, long Page) _expected = (-1, 0);

    /// <summary>Requests that no lane has taken yet.</summary>
    public int Requested => _requests.Count;

    /// <summary>The block's pages that wait, as they are told to the destination.</summary>
    public IEnumerable<ControlMessage.PagesMissing> Missing(int blockIndex) =>
        ControlMessage.PagesMissing.Of(blockIndex, _blocks[blockIndex].Current);

    /// <summary>The destination says what it lacks.</summary>
    public void AddMissing(ControlMessage.PagesMissing missing)
    {
        missing.AddTo(_blocks[missing.BlockIndex].Current);
        Current = _blocks.Sum(b => b.Current.Count);
    }

    /// <summary>The guest waits for pages. Those that are on their way already are no news.</summary>
    /// <returns>False if they are not in the block.</returns>
    public bool Request(int blockIndex, PageNumber first, int count)
    {
        Block block = _blocks[blockIndex];
        if (first.Value + count > block.Ram.PageCount)
        {
            return false;
        }

        for (int i = 0; i < count; i++)
        {
            var page = new PageNumber(first.Value + i);
            // Once: a destination that asks again and again costs nothing.
            if (block.Current.Contains(page) && (block.Asked ??= new DirtySet(block.Ram.PageCount)).Add(page))
            {
                _requests.Enqueue((blockIndex, page));
            }
        }

        _pivots.Insert(0, (blockIndex, first.Value));
        if (_pivots.Count > PivotsMax)
        {
            _pivots.RemoveAt(PivotsMax);
        }

        return true;
    }

    /// <summary>Takes the page that the guest has waited for longest, and those behind it.</summary>
    public bool TakeRequested(TakenPages taken)
    {
        while (_requests.TryDequeue(out (int Block, PageNumber Page) request))
        {
            Block block = _blocks[request.Block];
            block.Asked!.Remove(request.Page);
            if (!block.Current.Contains(request.Page))
            {
                continue;
            }

            bool follows = _expected.Block == request.Block
                && request.Page.Value >= _expected.Page && request.Page.Value < _expected.Page + AheadMin;
            // With others waiting, what is only likely to be wanted may not stand before what is.
            _ahead = follows ? Math.Min(2 * _ahead, AheadMax) : AheadMin;
            int most = _requests.Count > 0 ? 1 : _ahead;
            TakeRegion(
                block, request.Page.Region, taken, (int)(request.Page.Value % Page.RegionPages), most);
            _expected = (request.Block, taken[taken.Count - 1].Value + 1);
            return true;
        }

        return false;
    }

    /// <summary>Takes pages of blocks that are not among those named; the others wait.</summary>
    public bool TakeExcept(ReadOnlySpan<bool> blocks, int lane, TakenPages taken)
    {
        for (int i = 0; i < _blocks.Length; i++)
        {
            long region = blocks[i] ? -1 : NextRegionOf(lane, i, _blocks[i].Current, 0);
            if (region >= 0)
            {
                TakeRegion(_blocks[i], region, taken);
                return true;
            }
        }

        return false;
    }

    /// <summary>
    /// Orders what waits by how often it was written lately: the guest's working set first. Source: Svärd et al. 2011.
    /// </summary>
    public void OrderByHeat()
    {
        var regions = new List<(int Block, long Region, double Heat)>();
        for (int i = 0; i < _blocks.Length; i++)
        {
            Block block = _blocks[i];
            for (long region = block.Current.NextRegion(0); region >= 0;
                region = block.Current.NextRegion(region + 1))
            {
                int heat = 0;
                int count = 0;
                long end = Math.Min((region + 1) * Page.RegionPages, block.Ram.PageCount);
                for (long page = region * Page.RegionPages; page < end; page++)
                {
                    if (block.Current.Contains(new PageNumber(page)))
                    {
                        heat += block.Writes.Heat(new PageNumber(page));
                        count++;
                    }
                }

                regions.Add((i, region, (double)heat / count));
            }
        }

        _byHeat = [.. regions.OrderByDescending(r => r.Heat).Select(r => (r.Block, r.Region))];
        _heatCursors = new int[_lanes];
    }

    /// <summary>Takes the lane's pages that the guest is most likely to touch soon.</summary>
    /// <remarks>
    /// Around the last faults, outwards from each: Hines and Gopalan 2009, "bubbling". Then by heat.
    /// </remarks>
    public bool TakePredicted(int lane, TakenPages taken)
    {
        for (int distance = 0; distance <= PivotReach; distance++)
        {
            foreach ((int block, long page) in _pivots)
            {
                long region = page / Page.RegionPages;
                if (distance == 0
                    ? TakeOf(lane, block, region, taken, (int)(page % Page.RegionPages))
                        || TakeOf(lane, block, region, taken, 0)
                    : TakeOf(lane, block, region + distance, taken, 0)
                        || TakeOf(lane, block, region - distance, taken, 0))
                {
                    return true;
                }
            }
        }

        for (ref int cursor = ref _heatCursors[lane]; cursor < _byHeat.Length; cursor++)
        {
            (int block, long region) = _byHeat[cursor];
            if (TakeOf(lane, block, region, taken, 0))
            {
                return true;
            }
        }

        // Pages that the destination could not rebuild by their names come back behind the cursor.
        return Take(lane, taken);
    }

    private bool TakeOf(int lane, int blockIndex, long region, TakenPages taken, int from)
    {
        Block block = _blocks[blockIndex];
        if (region < 0 || region >= block.Current.RegionCount || LaneOf(blockIndex, region) != lane
            || block.Current.CountInRegion(region) == 0)
        {
            return false;
        }

        TakeRegion(block, region, taken, from);
        return taken.Count > 0;
    }
}
