using Godwit.Pages;

namespace Godwit.Migration.Tests;

// Goal: whatever link, processors and pages there are, the chooser ends with the mix that moves pages soonest, and
// moves on when they change. Method: lanes in virtual time, which work as fast as their cores allow and wait when the
// link is full; what the chooser is told is what real lanes would measure.
public class CodingChooserTests
{
    /// <summary>Seconds of one core per GB of pages, and bytes sent per byte, on pages that code well.</summary>
    private static (double Seconds, double Share) Truth(BlockCoding coding, double noise) => coding.Coder switch
    {
        BlockCoder.None => (0.08, 1),
        BlockCoder.Lz4 => (1.1, 0.45 + (0.55 * noise)),
        _ when coding.Level < 0 => (2, 0.37 + (0.63 * noise)),
        _ when coding.Level == 1 => (2.6, 0.33 + (0.67 * noise)),
        _ when coding.Level == 3 => (5, 0.315 + (0.685 * noise)),
        _ when coding.Level == 6 => (8, 0.31 + (0.69 * noise)),
        _ when coding.Level == 9 => (11, 0.305 + (0.695 * noise)),
        _ => (30, 0.295 + (0.705 * noise)),
    };

    private sealed class Lanes(CodingChooser chooser, double link, double cores = 2, double noise = 0)
    {
        private const double Reading = 0.2;
        private const double Writing = 1.0;

        public double Link { get; set; } = link;
        public double Cores { get; set; } = cores;
        public double Noise { get; set; } = noise;
        /// <summary>Bytes of pages that there are to send, a second.</summary>
        public double Pages { get; set; } = double.MaxValue;
        /// <summary>Share of the time in which the connections have bytes underway.</summary>
        public double Carrying { get; init; } = 1;
        public double Now { get; private set; }
        public double PagesPerSecond { get; private set; }
        public double WirePerByte { get; private set; }

        // One slice is a quarter of a second of both lanes, in batches of 256 KiB.
        public Lanes Run(double seconds)
        {
            double end = Now + seconds;
            while (Now < end)
            {
                Now += 0.25;
                double work = 0;
                double wire = 0;
                double bytes = 0;
                var batches = new List<(BlockCoding Coding, double Wire, double Coding_)>();
                while (work < 0.25 * Cores && wire < 0.25 * Link && bytes < 0.25 * Pages)
                {
                    BlockCoding coding = chooser.Next();
                    (double cost, double share) = Truth(coding, Noise);
                    double gigabytes = PageBatch.RawBytesMax / 1e9;
                    work += gigabytes * (cost + Reading + (share * Writing));
                    wire += PageBatch.RawBytesMax * share;
                    bytes += PageBatch.RawBytesMax;
                    batches.Add((coding, PageBatch.RawBytesMax * share, gigabytes * cost));
                }

                // Lanes that were stopped by the link had time to spare, unless there were no pages; work on a shared
                // core takes longer.
                double slower = Math.Max(1, 2 / Cores);
                double spare = bytes >= 0.25 * Pages ? 0 : Math.Max(0, 0.5 - (work * slower)) / batches.Count;
                double elapsed = 0.5 / batches.Count;
                foreach ((BlockCoding coding, double sent, double cpu) in batches)
                {
                    chooser.Learn(
                        new SentBatch
                        {
                            Pages = 64, Content = 64, BlockBytes = PageBatch.RawBytesMax, CodedBytes = (int)sent,
                            FrameBytes = (long)sent, Coding = coding, CodingCpu = TimeSpan.FromSeconds(cpu),
                            ReadingCpu = TimeSpan.FromSeconds(Reading * PageBatch.RawBytesMax / 1e9),
                            WritingCpu = TimeSpan.FromSeconds(Writing * sent / 1e9),
                            Working = TimeSpan.FromSeconds(
                                slower * (cpu + (Reading * PageBatch.RawBytesMax / 1e9))),
                            Writing = TimeSpan.FromSeconds(slower * Writing * sent / 1e9),
                            LinkWait = TimeSpan.FromSeconds(spare), Elapsed = TimeSpan.FromSeconds(elapsed),
                            Carrying = TimeSpan.FromSeconds(elapsed * Carrying),
                        },
                        TimeSpan.FromSeconds(Now));
                }

                chooser.Decide(wire / 0.25, roundBegins: false, TimeSpan.FromSeconds(Now));
                (PagesPerSecond, WirePerByte) = (bytes / 0.25, wire / bytes);
            }

            return this;
        }
    }

    private static CodingChooser Chooser(double coresMax = 0) => new(allowed: true, wireVersion: 2, lanes: 2, coresMax);

    private static double Mbit(double rate) => rate * 1e6 / 8;

    // The fastest that any mix of two coders could be, found by trying all of them in steps of a hundredth.
    private static double Best(double link, double cores, double noise)
    {
        BlockCoding[] codings =
        [
            BlockCoding.Plain, BlockCoding.Lz4, new(BlockCoder.Zstd, -1), new(BlockCoder.Zstd, 1),
            new(BlockCoder.Zstd, 3), new(BlockCoder.Zstd, 6), new(BlockCoder.Zstd, 9), new(BlockCoder.Zstd, 12),
        ];
        return (from a in codings
                from b in codings
                where a == b || a.Coder != BlockCoder.Zstd || b.Coder != BlockCoder.Zstd
                from part in Enumerable.Range(0, 101)
                let x = part / 100.0
                let ta = Truth(a, noise)
                let tb = Truth(b, noise)
                let share = (x * ta.Share) + ((1 - x) * tb.Share)
                let cost = (x * ta.Seconds) + ((1 - x) * tb.Seconds) + 0.2 + share
                select Math.Min(cores * 1e9 / cost, link / share)).Max();
    }

    [Theory]
    [InlineData(25, 2, 0)]
    [InlineData(100, 2, 0)]
    [InlineData(400, 2, 0)]
    [InlineData(400, 1, 0)]
    [InlineData(1000, 2, 0)]
    [InlineData(1000, 0.5, 0)]
    [InlineData(2500, 2, 0)]
    [InlineData(10_000, 2, 0)]
    [InlineData(40_000, 2, 0)]
    [InlineData(25, 2, 1)]
    [InlineData(1000, 2, 1)]
    [InlineData(10_000, 2, 1)]
    public void It_comes_near_the_best_there_is(double mbit, double cores, double noise)
    {
        Lanes lanes = new Lanes(Chooser(), Mbit(mbit), cores, noise).Run(15);
        double best = Best(Mbit(mbit), cores, noise);
        Assert.True(lanes.PagesPerSecond > 0.85 * best, $"{lanes.PagesPerSecond / 1e6:0} of {best / 1e6:0} MB/s");
    }

    [Fact]
    public void A_slow_link_gets_all_the_processors_have_and_a_fast_one_little()
    {
        CodingChooser slow = Chooser();
        new Lanes(slow, Mbit(25)).Run(10);
        Assert.Equal("zstd 12", slow.Choice);
        CodingChooser fast = Chooser();
        new Lanes(fast, Mbit(40_000)).Run(10);
        Assert.DoesNotContain("zstd", fast.Choice, StringComparison.Ordinal);
        Assert.Contains("MB/s", fast.Reason, StringComparison.Ordinal);
    }

    // Goal: lanes that are busy all the time do not take what they give for what the link carries: that would make them
    // code ever more. Method: one fifth of a core, on which LZ4 alone is slower than the link.
    [Fact]
    public void Lanes_without_a_rest_do_not_code_ever_more()
    {
        Lanes lanes = new Lanes(Chooser(), Mbit(4000), cores: 0.2).Run(20);
        double best = Best(Mbit(4000), 0.2, 0);
        Assert.True(lanes.PagesPerSecond > 0.8 * best, $"{lanes.PagesPerSecond / 1e6:0} of {best / 1e6:0} MB/s");
    }

    // Goal: a link that is not full because there are too few pages is not taken for a slow one: coding ever more would
    // take processors from what gives the pages. Method: a wide link, and pages that trickle.
    [Fact]
    public void Lanes_short_of_pages_do_not_code_ever_more()
    {
        CodingChooser chooser = Chooser();
        new Lanes(chooser, Mbit(10_000)) { Pages = 20e6 }.Run(20);
        Assert.DoesNotContain("zstd", chooser.Choice, StringComparison.Ordinal);
    }

    // Goal: a destination that takes its time is not a slow link: to code more would give it more to do. Method: lanes
    // that wait for acknowledgements most of the time while their connections are empty.
    [Fact]
    public void A_destination_that_is_slow_to_answer_is_not_a_full_link()
    {
        CodingChooser chooser = Chooser();
        new Lanes(chooser, Mbit(400)) { Carrying = 0.2 }.Run(10);
        Assert.DoesNotContain("zstd", chooser.Choice, StringComparison.Ordinal);
    }

    // Goal: what a handful of pages costs, most of which is the call's own, is not taken for what a page costs. Method:
    // a fast link, and after each second of full batches a few of one page that took a millisecond.
    [Fact]
    public void A_batch_of_one_page_says_little()
    {
        CodingChooser chooser = Chooser();
        var lanes = new Lanes(chooser, Mbit(10_000));
        for (int i = 0; i < 5; i++)
        {
            lanes.Run(1);
            for (int page = 0; page < 8; page++)
            {
                chooser.Learn(
                    new SentBatch
                    {
                        Pages = 1, Content = 1, BlockBytes = Page.Size, CodedBytes = Page.Size, FrameBytes = Page.Size,
                        ReadingCpu = TimeSpan.FromMilliseconds(1), WritingCpu = TimeSpan.FromMilliseconds(1),
                    },
                    TimeSpan.FromSeconds(lanes.Now));
            }

            chooser.Decide(Mbit(10_000), roundBegins: true, TimeSpan.FromSeconds(lanes.Now));
        }

        Assert.DoesNotContain("zstd", chooser.Choice, StringComparison.Ordinal);
    }

    [Fact]
    public void It_follows_the_link_and_the_pages()
    {
        CodingChooser chooser = Chooser();
        Lanes lanes = new Lanes(chooser, Mbit(40_000)).Run(5);
        lanes.Link = Mbit(50);
        lanes.Run(20);
        Assert.StartsWith("zstd", chooser.Choice, StringComparison.Ordinal);
        lanes.Noise = 1;
        lanes.Run(20);
        Assert.True(lanes.PagesPerSecond > 0.95 * Mbit(50));
        lanes.Noise = 0;
        lanes.Run(20);
        Assert.True(lanes.PagesPerSecond > 2.5 * Mbit(50), chooser.Reason);
    }

    [Fact]
    public void A_budget_of_cores_counts_as_all_there_are()
    {
        CodingChooser chooser = Chooser(coresMax: 0.5);
        Lanes lanes = new Lanes(chooser, Mbit(1000), cores: 0.5).Run(15);
        Assert.True(lanes.PagesPerSecond > 0.85 * Best(Mbit(1000), 0.5, 0), chooser.Reason);
    }

    [Fact]
    public void Nothing_is_coded_when_that_is_not_allowed_and_an_older_neighbour_gets_what_it_knows()
    {
        var plain = new CodingChooser(allowed: false, wireVersion: 2, lanes: 2, coresMax: 0);
        new Lanes(plain, Mbit(25)).Run(2);
        Assert.Equal(BlockCoding.Plain, plain.Next());
        var older = new CodingChooser(allowed: true, wireVersion: 1, lanes: 2, coresMax: 0);
        new Lanes(older, Mbit(25)).Run(5);
        Assert.Equal("lz4", older.Choice);
    }

    [Fact]
    public void A_budget_of_cores_is_kept_by_waiting()
    {
        var limit = new CoreLimit(0.5, TimeSpan.Zero);
        TimeSpan now = TimeSpan.Zero;
        TimeSpan worked = TimeSpan.Zero;
        var batch = TimeSpan.FromMilliseconds(3);
        while (now < TimeSpan.FromSeconds(10))
        {
            now += limit.Wait(now);
            limit.Pay(batch);
            worked += batch;
            now += batch / 2;
        }

        Assert.InRange(worked / now, 0.495, 0.505);
        Assert.Equal(TimeSpan.Zero, new CoreLimit(0, TimeSpan.Zero).Wait(now));
    }
}
