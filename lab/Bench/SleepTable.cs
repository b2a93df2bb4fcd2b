using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace Godwit.Lab.Bench;

/// <summary>One measurement of one run.</summary>
/// <param name="What">What was done.</param>
/// <param name="Unit">What the figure counts.</param>
/// <param name="Against">What it is divided by.</param>
/// <param name="RatioMax">What the ratio may be at most.</param>
internal sealed record SleepFigure(
    string What, string Unit, string Against, double Figure, double Base, double RatioMax)
{
    /// <summary>What the figure itself may be at most; null for anything.</summary>
    public double? FigureMax { get; init; }
}

/// <summary>The medians of a measurement over the runs. The ratio is the median of each run's own.</summary>
internal sealed record SleepRow(
    string What, string Unit, string Against, int Runs, double Figure, double Base, double Ratio, double RatioMax,
    double? FigureMax, bool Met);

[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, WriteIndented = true,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull)]
[JsonSerializable(typeof(IReadOnlyList<SleepRow>))]
internal sealed partial class SleepContext : JsonSerializerContext;

/// <summary>From measurements to rows. Pure.</summary>
internal static class SleepTable
{
    internal static IReadOnlyList<SleepRow> Rows(IReadOnlyList<SleepFigure> figures) =>
    [
        .. figures.GroupBy(figure => figure.What).Select(runs =>
        {
            SleepFigure one = runs.First();
            double figure = BenchTable.Median(runs.Select(run => run.Figure));
            double ratio = BenchTable.Median(runs.Select(run => run.Figure / run.Base));
            return new SleepRow(
                one.What, one.Unit, one.Against, runs.Count(), figure, BenchTable.Median(runs.Select(run => run.Base)),
                ratio, one.RatioMax, one.FigureMax, ratio <= one.RatioMax && !(figure > one.FigureMax));
        }),
    ];

    internal static string ToJson(IReadOnlyList<SleepRow> rows) =>
        JsonSerializer.Serialize(rows, SleepContext.Default.IReadOnlyListSleepRow);

    internal static string Write(IReadOnlyList<SleepRow> rows)
    {
        StringBuilder text = new();
        text.AppendLine(
            $"{"what",-34}{"figure",-24}{"against",-20}{"runs",5}{"figure",16}{"against",16}{"ratio",9}{"limit",9}");
        foreach (SleepRow row in rows)
        {
            text.AppendLine(string.Create(
                CultureInfo.InvariantCulture,
                $"{row.What,-34}{row.Unit,-24}{row.Against,-20}{row.Runs,5}{row.Figure,16:#,0.##}{row.Base,16:#,0.##}"
                + $"{row.Ratio,9:0.0000}{row.RatioMax,9:0.00}  {(row.Met ? "met" : "missed")}")
                + (row.FigureMax is { } max ? string.Create(CultureInfo.InvariantCulture, $" (under {max})") : ""));
        }

        return text.ToString().TrimEnd();
    }
}
