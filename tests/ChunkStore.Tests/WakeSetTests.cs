using Godwit.ChunkStore.Parcels;

namespace Godwit.ChunkStore.Tests;

public class WakeSetTests
{
    [Fact]
    public void Guesses_come_in_their_order_each_page_once()
    {
        Assert.Equal([7, 3, 9, 1], WakeSet.Merge([7, 3, 7], [3, 9], [], [1]));
        Assert.Equal(WakeSet.PagesMax, WakeSet.Merge(Enumerable.Range(0, 10_000).Select(page => (long)page)).Count);
    }

    [Fact]
    public void What_was_written_is_read()
    {
        IReadOnlyList<long> pages = [5, 0, uint.MaxValue, 70_000];
        Assert.Equal(pages, WakeSet.Decode(WakeSet.Encode(pages), 1L << 32));
    }

    // What a store says of pages that no memory of this size has is nobody's harm.
    [Fact]
    public void Nonsense_is_left_out()
    {
        Assert.Equal([5, 6], WakeSet.Decode(WakeSet.Encode([5, 7, uint.MaxValue, 6]), 7));
        Assert.Equal([1], WakeSet.Decode([1, 0, 0, 0, 2, 0, 0], 7));
        Assert.Equal(WakeSet.PagesMax, WakeSet.Decode(new byte[100_000], 7).Count);
        Assert.Throws<OverflowException>(() => WakeSet.Encode([1L << 32]));
    }
}
