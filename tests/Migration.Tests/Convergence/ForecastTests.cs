using Godwit.Migration.Convergence;
using Godwit.Pages;

namespace Godwit.Migration.Tests.Convergence;

public class ForecastTests
{
    private static readonly MigrationPolicy _policy = new() { Steps = Ladder.Shipped[0].Steps };
    private static readonly ForecastFacts _server = new()
    {
        UsedPages = 100_000, WireBytesPerPage = 100, DirtyPagesPerSecond = 100, WorkingSetPages = 1000,
        LinkBytesPerSecond = 100e6, Postcopy = false, TotalPages = 262_144,
    };

    private static readonly SampledCoder _lz4 = new(BlockCoding.Lz4, 2000, 4e-6);
    private static readonly SampledCoder _slow = new(new BlockCoding(BlockCoder.Zstd, 3, 23), 1400, 20e-6);

    // What the destination holds costs nothing to send and is read all the same.
    [Fact]
    public void A_move_of_little_takes_as_long_as_its_memory_takes_to_be_read()
    {
        Forecast quick = Forecast.Of(_server, _policy);
        Forecast read = Forecast.Of(_server with { FirstRoundLeast = TimeSpan.FromSeconds(5) }, _policy);
        Assert.True(quick.Report.Slowest < TimeSpan.FromSeconds(1));
        Assert.InRange(5, read.Report.Fastest.TotalSeconds, read.Report.Slowest.TotalSeconds);
        Assert.InRange(read.Report.BytesLow, quick.Report.BytesLow, 2 * quick.Report.BytesLow);
    }

    // Counters: pages that change by a few bytes go as deltas when they are sent again.
    [Fact]
    public void What_is_sent_again_counts_as_what_it_takes_then()
    {
        ForecastFacts writer = _server with
        {
            WireBytesPerPage = 4000, DirtyPagesPerSecond = 20_000, WorkingSetPages = 20_000, LinkBytesPerSecond = 50e6,
        };
        MigrationPolicy rounds = new();
        Assert.Equal("", Forecast.Of(writer, rounds).Method);
        Assert.Equal("precopy", Forecast.Of(writer with { AgainBytesPerPage = 200 }, rounds).Method);
    }

    // A page that is written before its turn goes once: after a long round half of what was written is left.
    [Fact]
    public void A_round_leaves_what_was_written_behind_it()
    {
        ForecastFacts slow = _server with
        {
            WireBytesPerPage = 1000, DirtyPagesPerSecond = 1000, WorkingSetPages = 100_000, LinkBytesPerSecond = 10e6,
        };
        Forecast forecast = Forecast.Of(slow, new MigrationPolicy());
        // 10 s of 1000 pages, halved, and the round after that, a tenth as long.
        double middle = (forecast.Report.BytesLow + forecast.Report.BytesHigh) / 2.0;
        Assert.InRange(middle, 104e6, 112e6);
    }

    [Fact]
    public void The_mix_of_coders_follows_link_and_processors()
    {
        (double fast, _) = SampledCoder.Mix([_lz4, _slow], 1e9, cores: 1, besides: 1e-6);
        (double thin, _) = SampledCoder.Mix([_lz4, _slow], 5e6, cores: 1, besides: 1e-6);
        (double between, double seconds) = SampledCoder.Mix([_lz4, _slow], 150e6, cores: 1, besides: 1e-6);
        Assert.Equal(2000, fast, 1.0);
        Assert.Equal(1400, thin, 1.0);
        Assert.InRange(between, 1401, 1999);
        // Neither waits for the other.
        Assert.Equal(150e6 / between, 1 / seconds, 150e6 / between * 0.01);
    }

    // A fifth left free of 30 ms would be less than the hand-over takes: rounds would go on to their bound in vain.
    [Theory]
    [InlineData(29)]
    [InlineData(30)]
    [InlineData(33)]
    [InlineData(300)]
    public void A_budget_that_can_be_kept_is_planned_for(int milliseconds)
    {
        var budget = TimeSpan.FromMilliseconds(milliseconds);
        Assert.True(budget >= SourceEngine.DowntimeLeast);
        Assert.InRange(SourceEngine.DowntimePlanned(budget), SourceEngine.DowntimeOfHandOver, budget);
        var rig = new SourceRig(new MigrationPolicy { DowntimeMax = budget }, dirtyPagesPerSecond: 0);
        Assert.Equal(MigrationOutcome.Completed, rig.Run(TimeSpan.FromMinutes(1)).Outcome);
        Assert.InRange(rig.PausedFor, TimeSpan.Zero, budget);
    }
}
