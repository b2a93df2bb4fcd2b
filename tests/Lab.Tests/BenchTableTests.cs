using Godwit.Lab.Bench;
using Godwit.Lab.Scenarios;

namespace Godwit.Lab.Tests;

public class BenchTableTests
{
    [Theory]
    [InlineData(new double[] { 3 }, 3)]
    [InlineData(new double[] { 9, 1, 3 }, 3)]
    [InlineData(new double[] { 4, 1, 3, 2 }, 2.5)]
    public void The_median_is_the_middle(double[] values, double median) =>
        Assert.Equal(median, BenchTable.Median(values));

    [Fact]
    public void A_row_counts_failed_runs_and_leaves_their_figures_out()
    {
        BenchRow row = BenchTable.Row(
            "text", "1Gbit", "godwit", [Run(2, 100), Run(4, 300), Run(99, 9999, "lost")], 0.25);

        Assert.Equal(3, row.Runs);
        Assert.Equal(1, row.Failed);
        Assert.Equal(3, row.TotalSeconds);
        Assert.Equal(200, row.WireBytes);
        Assert.Equal(0.5, row.GuestThroughput);
        Assert.Equal(4, row.CpuSecondsPerGiB);
    }

    [Fact]
    public void A_ratio_compares_with_the_same_scenario_over_the_same_link_only()
    {
        BenchRow godwit = BenchTable.Row("text", "1Gbit", "godwit", [Run(1, 50)], 0.25);
        BenchRow[] rows =
        [
            BenchTable.Row("text", "1Gbit", "stock-default", [Run(2, 100)], 0.25),
            BenchTable.Row("text", "unshaped", "stock-default", [Run(7, 700)], 0.25),
            BenchTable.Row("idle", "1Gbit", "stock-default", [Run(8, 800)], 0.25),
            godwit,
        ];

        BenchRatio ratio = Assert.Single(BenchTable.Ratios(rows));

        Assert.Equal(0.5, ratio.TotalSeconds);
        Assert.Equal(0.5, ratio.WireBytes);
    }

    [Fact]
    public void There_is_no_ratio_to_a_baseline_that_never_succeeded()
    {
        BenchRow[] rows =
        [
            BenchTable.Row("text", "1Gbit", "stock-default", [Run(2, 100, "failed")], 0.25),
            BenchTable.Row("text", "1Gbit", "godwit", [Run(1, 50)], 0.25),
        ];

        Assert.Empty(BenchTable.Ratios(rows));
        Assert.Contains("1 of 1 runs failed", BenchTable.Write(new BenchReport(rows, [])), StringComparison.Ordinal);
        Assert.Contains("\"failed\": 1", new BenchReport(rows, []).ToJson(), StringComparison.Ordinal);
    }

    [Fact]
    public void What_was_chosen_is_held_against_the_method_that_sent_least_and_arrived()
    {
        BenchRow[] rows =
        [
            BenchTable.Row("text", "1Gbit", "godwit", [Run(3, 120)], 0.25),
            BenchTable.Row("text", "1Gbit", "godwit-precopy", [Run(1, 10, "not converged")], 0.25),
            BenchTable.Row("text", "1Gbit", "godwit-hybrid", [Run(2, 100)], 0.25),
            BenchTable.Row("text", "1Gbit", "godwit-postcopy", [Run(1, 150)], 0.25),
            BenchTable.Row("idle", "1Gbit", "godwit-hybrid", [Run(1, 1)], 0.25),
        ];

        BenchRatio ratio = Assert.Single(BenchTable.AgainstBest(rows));

        Assert.Equal("godwit-hybrid", ratio.Against);
        Assert.Equal(1.2, ratio.WireBytes);
        Assert.Equal(1.5, ratio.TotalSeconds);
    }

    private static LabResult Run(double seconds, long bytes, params string[] failures) => new(
        "x", "1Gbit",
        [
            new MoveResult(
                "g", "a", "b", "m", "completed", seconds, 1, 1, 1, new Dictionary<string, double>(),
                new Dictionary<string, long>(), [])
            {
                UplinkBytes = bytes,
                GuestPagesPerSecond = new PaceResult(1000, 500, 1000),
                DaemonCpuSeconds = 1,
            },
        ],
        new ClientResult(1, 0, 0), new CheckResult(1, 0), new CheckResult(1, 0), failures);
}
