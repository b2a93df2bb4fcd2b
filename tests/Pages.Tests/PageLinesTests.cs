using CsCheck;

namespace Godwit.Pages.Tests;

public class PageLinesTests
{
    // Goal: the old page and the lines that seem to have changed make the new page.
    // Method: pages with up to eight bytes changed anywhere; lines whose sum has stayed keep what they had.
    [Fact]
    public void The_old_page_and_its_changed_lines_make_the_new_one() =>
        Gen.Select(Gen.Int[0, 4], Gen.UInt, Gen.Int[0, Page.Size - 1].Array[0, 8]).Sample(
            (content, seed, places) =>
            {
                byte[] old = PageBatchVersion1Tests.Content(content, seed);
                byte[] now = [.. old];
                Array.ForEach(places, place => now[place] ^= 0x5A);
                byte[] sums = new byte[PageLines.SumsBytes];
                PageLines.Sum(old, sums);
                byte[] delta = new byte[PageDelta.BytesMax];
                int length = PageDelta.EncodeLines(sums, now, delta);
                byte[] seen = AsFarAsSeen(old, now);
                int lines = Enumerable.Range(0, Page.Size).Where(at => old[at] != seen[at])
                    .Select(at => at / PageLines.LineBytes).Distinct().Count();
                Assert.InRange(length, lines * PageLines.LineBytes, lines * (PageLines.LineBytes + 4));
                Assert.True(PageDelta.TryApply(delta.AsSpan(0, length), old));
                Assert.Equal(seen, old);
            },
            iter: 2000);

    /// <summary>What becomes of the old page: one line in 65,536 changes and keeps its sum, which only the page's name
    /// tells.</summary>
    internal static byte[] AsFarAsSeen(byte[] old, byte[] now)
    {
        byte[] sumsOld = new byte[PageLines.SumsBytes];
        byte[] sumsNow = new byte[PageLines.SumsBytes];
        PageLines.Sum(old, sumsOld);
        PageLines.Sum(now, sumsNow);
        byte[] page = [.. now];
        for (int line = 0; line < Page.Size / PageLines.LineBytes; line++)
        {
            if (sumsOld.AsSpan(line * 2, 2).SequenceEqual(sumsNow.AsSpan(line * 2, 2)))
            {
                int at = line * PageLines.LineBytes;
                old.AsSpan(at, PageLines.LineBytes).CopyTo(page.AsSpan(at));
            }
        }

        return page;
    }

    // Holes of a file of sums stand for pages that were never written.
    [Fact]
    public void The_sums_of_zeros_are_zeros()
    {
        byte[] sums = new byte[PageLines.SumsBytes];
        sums.AsSpan().Fill(7);
        PageLines.Sum(new byte[Page.Size], sums);
        Assert.All(sums, sum => Assert.Equal(0, sum));
    }

    [Fact]
    public void A_page_that_has_changed_everywhere_does_not_fit()
    {
        byte[] sums = new byte[PageLines.SumsBytes];
        PageLines.Sum(PageBatchVersion1Tests.Content(3, 1), sums);
        Assert.Equal(-1, PageDelta.EncodeLines(sums, PageBatchVersion1Tests.Content(3, 2), new byte[2048]));
    }

    [Fact]
    public void The_layout_of_sums_stays()
    {
        byte[] page = new byte[Page.Size];
        page[PageLines.LineBytes] = 1;
        byte[] sums = new byte[PageLines.SumsBytes];
        PageLines.Sum(page, sums);
        Assert.Equal("0000", Convert.ToHexString(sums[..2]));
        Assert.Equal("6EF0", Convert.ToHexString(sums[2..4]));
        Assert.All(sums[4..], sum => Assert.Equal(0, sum));
    }
}
