using Godwit.ChunkStore;
using Godwit.Migration.Convergence;
using Godwit.Pages;

namespace Godwit.Migration;

/// <summary>Which pages wait for their turn: this round's set and the next one's.</summary>
/// <remarks>
/// QEMU's records come in as <see cref="Report"/>, lanes take pages out with <see cref="Take"/>. A page that is dirtied
/// again before its turn is sent once: in the first round after all that the guest leaves alone, later where it is. One
/// that was dirtied after it was taken goes to the next round, or is held back for the last one while it is written in
/// nearly every round. A region of 2 MiB belongs to one lane for all of precopy, so two versions of a page can never
/// overtake each other on different connections. There is no locking here: the engine's owner serialises.
/// </remarks>
internal sealed partial class PageQueue
{
    private sealed class Block(RamBlock ram)
    {
        public readonly RamBlock Ram = ram;
        public readonly DirtySet Current = new(ram.PageCount);
        public readonly DirtySet Next = new(ram.PageCount);
        // Pages of the writable working set: sent early they would only be sent again.
        public readonly DirtySet Held = new(ram.PageCount);
        // Pages the destination's guest waits for, asked for and not sent yet.
        public DirtySet? Asked;
        public readonly WriteHistory Writes = new(ram.PageCount);
        // Pages named since the look in progress began.
        public readonly DirtySet Looked = new(ram.PageCount);
        // Round 0 only: pages the feed has named. A page not yet named belongs to round 0 whenever it comes.
        public readonly DirtySet Named = new(ram.PageCount);
        // Pages whose newest record said zero: they need no look at memory, which would fill holes in it.
        public readonly DirtySet Zero = new(ram.PageCount);
        // By origin, pages last sent by their names. Made when the first one is.
        public readonly DirtySet?[] Known = new DirtySet?[FingerprintSet.Origins];
        // Pages that the destination could not rebuild by name: from then on they go with their contents.
        public DirtySet? Plain;

        public bool Waits(PageNumber page) => Current.Contains(page) || Next.Contains(page) || Held.Contains(page);
    }

    // A round of only the pages that are not hot is worth its while if there are enough of them.
    private const int ColdPagesMin = 64;
    private const int ColdShareMin = 8;

    private readonly Block[] _blocks;
    private readonly int _lanes;
    private readonly (int Block, long Region)[] _cursors;
    private bool _firstRound = true;
    private bool _everythingIsCurrent;
    private bool _writtenReleased;

    /// <param name="streaming">Everything reported belongs to the round in progress; the feed's owner keeps it
    /// short.</param>
    public PageQueue(IReadOnlyList<RamBlock> blocks, int lanes, bool streaming)
    {
        _everythingIsCurrent = streaming;
        _blocks = [.. blocks.Select(b => new Block(b))];
        _lanes = lanes;
        _cursors = new (int, long)[lanes];
        TotalPages = blocks.Sum(b => b.PageCount);
    }

    public IEnumerable<RamBlock> Blocks => _blocks.Select(b => b.Ram);

    public long TotalPages { get; }

    /// <summary>Pages of this round still to send.</summary>
    public long Current { get; private set; }

    /// <summary>Pages dirtied since they were taken.</summary>
    public long Next { get; private set; }

    /// <summary>
    /// Pages held back: the guest writes them in nearly every round, or wrote them in the first before their turn.
    /// </summary>
    public long Held { get; private set; }

    /// <summary>Those of them that the guest has written in this round.</summary>
    public long HeldWritten { get; private set; }

    /// <summary>Everything that is still to be sent.</summary>
    public long Waiting => Current + Next + Held;

    /// <summary>Pages of all sets that are zero by their newest record: they cost next to nothing to send.</summary>
    public long ZeroWaiting { get; private set; }

    /// <summary>Writes that changed nothing because their page was waiting already.</summary>
    /// <remarks>
    /// A page counts once in a look, however often QEMU names it: every guest has a few pages that it writes all the
    /// time, and a hundred sections a second name each of them.
    /// </remarks>
    public long Superseded { get; private set; }

    /// <summary>Pages that the guest has written in this round, whether they have been sent since or not.</summary>
    public long Written { get; private set; }

    /// <summary>Records since the last round began, superseded ones left out.</summary>
    public long ReportedThisRound { get; private set; }

    /// <summary>This is the first round, and it has not come to what the guest writes yet.</summary>
    public bool HoldsWritten => _firstRound && !_writtenReleased && !_everythingIsCurrent;

    /// <summary>This is the first round, and what is left of it the guest has written before its turn.</summary>
    public bool SendsWritten => _firstRound && _writtenReleased;

    /// <summary>True once the feed has named every page at least once.</summary>
    public bool AllNamed { get; private set; }

    private long _pagesNamed;

    /// <summary>One record of QEMU's stream.</summary>
    public void Report(int blockIndex, PageNumber page, bool zero)
    {
        Block block = _blocks[blockIndex];
        bool turned = zero ? block.Zero.Add(page) : block.Zero.Remove(page);
        bool first = _firstRound && block.Named.Add(page);
        if (first && ++_pagesNamed == TotalPages)
        {
            AllNamed = true;
        }

        bool news = !first && block.Writes.Mark(page);
        Written += news ? 1 : 0;
        bool isNew = !first && block.Looked.Add(page);

        if (block.Waits(page))
        {
            bool isHeld = block.Held.Contains(page);
            HeldWritten += news && isHeld ? 1 : 0;
            Superseded += !isNew || (news && isHeld) ? 0 : 1;
            if (HoldsWritten && block.Current.Remove(page))
            {
                block.Held.Add(page);
                Current--;
                Held++;
            }

            ZeroWaiting += !turned ? 0 : zero ? 1 : -1;
            return;
        }

        ReportedThisRound++;
        ZeroWaiting += zero ? 1 : 0;
        if (first || _everythingIsCurrent)
        {
            block.Current.Add(page);
            Current++;
        }
        else
        {
            block.Next.Add(page);
            Next++;
        }
    }

    /// <summary>What is named from here on counts anew.</summary>
    public void BeginLook()
    {
        foreach (Block block in _blocks)
        {
            block.Looked.Clear();
        }
    }

    /// <summary>The lane that a region's pages travel on.</summary>
    public int LaneOf(int blockIndex, long region) => (int)((region + blockIndex) % _lanes);

    /// <summary>Remembers that a page was sent by its name.</summary>
    public void SetKnown(int blockIndex, PageNumber page, int origin)
    {
        Block block = _blocks[blockIndex];
        (block.Known[origin] ??= new DirtySet(block.Ram.PageCount)).Add(page);
    }

    /// <summary>The page's name was not enough: it waits again, and goes with its content.</summary>
    /// <returns>The origin it was known by; -1 if it was not sent by its name.</returns>
    public int ReturnKnown(int blockIndex, PageNumber page)
    {
        Block block = _blocks[blockIndex];
        if (page.Value >= block.Ram.PageCount)
        {
            return -1;
        }

        int origin = Array.FindIndex(block.Known, known => known is not null && known.Remove(page));
        if (origin < 0)
        {
            return -1;
        }

        (block.Plain ??= new DirtySet(block.Ram.PageCount)).Add(page);
        if (!block.Waits(page))
        {
            // Whatever the round, at once: the destination holds its barrier for it.
            block.Current.Add(page);
            Current++;
            ZeroWaiting += block.Zero.Contains(page) ? 1 : 0;
        }

        return origin;
    }

    /// <summary>The first round goes on with the pages that the guest wrote before their turn.</summary>
    public void ReleaseWritten()
    {
        _writtenReleased = true;
        foreach (Block block in _blocks)
        {
            block.Current.UnionWith(block.Held);
            block.Held.Clear();
        }

        Current += Held;
        Held = 0;
    }

    /// <summary>This round is over: what was dirtied meanwhile becomes the new round's set.</summary>
    /// <param name="mayHold">
    /// Pages written in nearly every round may be held back, as long as there is enough of others to send.
    /// </param>
    public void BeginRound(bool mayHold)
    {
        if (Current != 0)
        {
            throw new InvalidOperationException($"A round cannot end with {Current} of its pages unsent.");
        }

        _firstRound = false;
        long hot = mayHold ? CountHot() : 0;
        bool hold = hot > 0 && Waiting - hot >= Math.Max(hot / ColdShareMin, ColdPagesMin);
        foreach (Block block in _blocks)
        {
            block.Current.Swap(block.Next);
            block.Current.UnionWith(block.Held);
            block.Held.Clear();
            foreach (PageNumber page in hold ? block.Current : block.Held)
            {
                if (block.Writes.IsHot(page))
                {
                    block.Current.Remove(page);
                    block.Held.Add(page);
                }
            }

            block.Writes.BeginRound();
        }

        (Current, Next, Held) = (_blocks.Sum(b => b.Current.Count), 0, _blocks.Sum(b => b.Held.Count));
        ReportedThisRound = 0;
        HeldWritten = 0;
        Written = 0;
    }

    private long CountHot()
    {
        long hot = 0;
        foreach (Block block in _blocks)
        {
            foreach (DirtySet set in (ReadOnlySpan<DirtySet>)[block.Next, block.Held])
            {
                foreach (PageNumber page in set)
                {
                    hot += block.Writes.IsHot(page) ? 1 : 0;
                }
            }
        }

        return hot;
    }

    /// <summary>The guest is about to stop: from now on there is one set, and everything reported joins it.</summary>
    public void BeginLastRound()
    {
        _firstRound = false;
        _everythingIsCurrent = true;
        foreach (Block block in _blocks)
        {
            block.Current.UnionWith(block.Next);
            block.Current.UnionWith(block.Held);
            block.Next.Clear();
            block.Held.Clear();
        }

        // The sets share no page (one that waits in any is added to no other), so the sum is exact.
        (Current, Next, Held) = (Waiting, 0, 0);
    }

    /// <summary>Takes up to a batch of the lane's pages out of this round's set; false if it has none.</summary>
    public bool Take(int lane, TakenPages taken)
    {
        if (Current == 0)
        {
            return false;
        }

        (int index, long from) = _cursors[lane];
        // One pass over all blocks from the cursor, and once more over the first to reach what lies before it.
        for (int i = 0; i <= _blocks.Length; i++)
        {
            Block block = _blocks[index];
            long region = NextRegionOf(lane, index, block.Current, from);
            if (region >= 0)
            {
                bool emptied = TakeRegion(block, region, taken);
                _cursors[lane] = (index, emptied ? region + 1 : region);
                return true;
            }

            index = (index + 1) % _blocks.Length;
            from = 0;
        }

        _cursors[lane] = (index, 0);
        return false;
    }

    /// <summary>True if the lane has pages of this round left.</summary>
    public bool HasPagesFor(int lane)
    {
        if (Current == 0)
        {
            return false;
        }

        for (int i = 0; i < _blocks.Length; i++)
        {
            if (NextRegionOf(lane, i, _blocks[i].Current, 0) >= 0)
            {
                return true;
            }
        }

        return false;
    }

    private long NextRegionOf(int lane, int blockIndex, DirtySet set, long from)
    {
        long region = from;
        while (true)
        {
            region = set.NextRegion(region);
            if (region < 0 || LaneOf(blockIndex, region) == lane)
            {
                return region;
            }

            region++;
        }
    }

    private bool TakeRegion(Block block, long region, TakenPages taken, int from = 0, int most = Page.RegionPages)
    {
        taken.Begin(block.Ram, region);
        ReadOnlySpan<ulong> words = block.Current.Region(region);
        Span<ulong> copy = stackalloc ulong[words.Length];
        words.CopyTo(copy);
        long firstPage = region * Page.RegionPages;
        copy[..(from / 64)].Clear();
        copy[from / 64] &= ulong.MaxValue << (from % 64);
        for (int w = from / 64; w < copy.Length; w++)
        {
            ulong word = copy[w];
            while (word != 0)
            {
                if (taken.Count == most)
                {
                    return false;
                }

                var page = new PageNumber(firstPage + (w * 64) + System.Numerics.BitOperations.TrailingZeroCount(word));
                word &= word - 1;
                bool zero = block.Zero.Contains(page);
                if (!taken.TryAdd(page, zero, plain: block.Plain?.Contains(page) == true))
                {
                    return false;
                }

                block.Current.Remove(page);
                Current--;
                ZeroWaiting -= zero ? 1 : 0;
            }
        }

        return true;
    }
}
