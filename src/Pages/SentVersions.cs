namespace Godwit.Pages;

/// <summary>The last versions that a lane sent of pages that keep changing, for deltas against them.</summary>
/// <remarks>
/// Bounded: once it is full, a page gets room only where another has not been sent for two rounds. A guest that writes
/// round and round over more pages than fit thus gets deltas for those that do; keeping the newest ones would give none
/// to any. One lane owns it, and sends every version of its pages, so what is here is what the destination holds.
/// </remarks>
/// <param name="bytesMax">The most memory for contents.</param>
public sealed class SentVersions(long bytesMax)
{
    private const int ChunkPages = 256;
    private const int RoundsKept = 2;
    private readonly int _slotsMax = (int)Math.Min(bytesMax / Page.Size, 1 << 20);
    private readonly List<byte[]> _chunks = [];
    private readonly Dictionary<(int Block, long Page), int> _slotOf = [];
    private readonly List<(int Block, long Page, int Round)> _owners = [];
    private readonly Stack<int> _free = new();
    private int _hand;

    /// <summary>Pages whose version is here.</summary>
    public int Count => _slotOf.Count;

    /// <summary>The version sent last; empty if it is not here. It may be overwritten with the next one.</summary>
    public Span<byte> Find(int blockIndex, PageNumber page) =>
        _slotOf.TryGetValue((blockIndex, page.Value), out int slot) ? Slot(slot) : default;

    /// <summary>Keeps what has just been sent, if there is room.</summary>
    /// <param name="blockIndex">The page's block.</param>
    /// <param name="page">The page.</param>
    /// <param name="content">What was sent: 4096 bytes.</param>
    /// <param name="round">The round it was sent in; never falls.</param>
    public void Keep(int blockIndex, PageNumber page, ReadOnlySpan<byte> content, int round)
    {
        if (!_slotOf.TryGetValue((blockIndex, page.Value), out int slot))
        {
            slot = Room(round);
            if (slot < 0)
            {
                return;
            }

            _slotOf.Add((blockIndex, page.Value), slot);
        }

        _owners[slot] = (blockIndex, page.Value, round);
        content.CopyTo(Slot(slot));
    }

    /// <summary>What was sent was not this page's whole content, or the destination may not have it.</summary>
    public void Forget(int blockIndex, PageNumber page)
    {
        if (_slotOf.Remove((blockIndex, page.Value), out int slot))
        {
            _free.Push(slot);
        }
    }

    private Span<byte> Slot(int slot) =>
        _chunks[slot / ChunkPages].AsSpan(slot % ChunkPages * Page.Size, Page.Size);

    private int Room(int round)
    {
        if (_free.TryPop(out int free))
        {
            return free;
        }

        if (_owners.Count < _slotsMax)
        {
            if (_owners.Count % ChunkPages == 0)
            {
                _chunks.Add(GC.AllocateUninitializedArray<byte>(ChunkPages * Page.Size));
            }

            _owners.Add(default);
            return _owners.Count - 1;
        }

        // A few at a time: a full store of pages that are all in use must not cost a walk over all of them.
        for (int i = 0; i < Math.Min(8, _owners.Count); i++)
        {
            int slot = _hand;
            _hand = (_hand + 1) % _owners.Count;
            (int block, long page, int last) = _owners[slot];
            if (last + RoundsKept < round)
            {
                _slotOf.Remove((block, page));
                return slot;
            }
        }

        return -1;
    }
}
