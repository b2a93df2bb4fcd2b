using Godwit.Lab.Bench;

namespace Godwit.Lab.Tests;

public class SleepTableTests
{
    [Fact]
    public void A_ratio_is_of_two_figures_of_the_same_run()
    {
        IReadOnlyList<SleepRow> rows = SleepTable.Rows(
        [
            Of("resume", 10, 100), Of("suspend", 3, 4), Of("resume", 30, 100), Of("resume", 8, 40),
        ]);

        Assert.Equal(["resume", "suspend"], rows.Select(row => row.What));
        Assert.Equal((3, 10, 100, 0.2, true), (rows[0].Runs, rows[0].Figure, rows[0].Base, rows[0].Ratio, rows[0].Met));
        Assert.False(rows[1].Met);
        Assert.Contains("missed", SleepTable.Write(rows), StringComparison.Ordinal);
        Assert.Contains("\"ratio\": 0.75", SleepTable.ToJson(rows), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(3, 0.2, true)]
    [InlineData(3.1, 0.2, false)]
    [InlineData(3, 0.21, false)]
    [InlineData(double.NaN, 0.1, false)]
    public void A_limit_of_the_figure_itself_holds_beside_the_ratios(double figure, double ratio, bool met) =>
        Assert.Equal(met, SleepTable.Rows([Of("lazy", figure, figure / ratio) with { FigureMax = 3 }])[0].Met);

    private static SleepFigure Of(string what, double figure, double against) =>
        new(what, "bytes", "the first's", figure, against, 0.2 + 1e-9);
}
