using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization;
using Godwit.Lab.Scenarios;

namespace Godwit.Lab.Bench;

/// <summary>Medians over the runs of one mode, in one scenario, over one link.</summary>
/// <param name="WireBytes">What left the source host by its uplink, counted by the kernel for every mode alike.</param>
/// <param name="GuestThroughput">The guest's writer during the move, relative to the second before; 1 is
/// undisturbed.</param>
/// <param name="CpuSecondsPerGiB">CPU of both daemons per GiB of guest memory; absent for plain QEMU, where the mover
/// and the emulated CPU are one process.</param>
internal sealed record BenchRow(
    string Scenario, string Link, string Mode, int Runs, double TotalSeconds, double WireBytes, double DowntimeMs,
    double BlackoutMs, double? GuestThroughput, double? CpuSecondsPerGiB, int Failed)
{
    /// <summary>Bytes sent after the first round, by the mover's own account.</summary>
    public double? LaterBytes { get; init; }

    /// <summary>Of a guest that walks through its memory: how long it waited for a page that had not come.</summary>
    public double? LateMeanMs { get; init; }

    public double? LateP99Ms { get; init; }

    /// <summary>By how much the forecast of what crosses the wire was off, in percent; the time's likewise.</summary>
    public double? BytesErrorPercent { get; init; }

    public double? SecondsErrorPercent { get; init; }

    /// <summary>
    /// The guest's writer in the five seconds after the switch, relative to the second before the move.
    /// </summary>
    public double? ThroughputAfter { get; init; }
}

/// <summary>One mode's figure divided by that of another; below 1 is better, save for throughput.</summary>
internal sealed record BenchRatio(
    string Scenario, string Link, string Mode, string Against, double TotalSeconds, double WireBytes, double DowntimeMs,
    double BlackoutMs, double? GuestThroughput);

/// <summary>What <c>bench -o json</c> prints.</summary>
internal sealed record BenchReport(IReadOnlyList<BenchRow> Rows, IReadOnlyList<BenchRatio> Ratios)
{
    internal string ToJson() => JsonSerializer.Serialize(this, BenchContext.Default.BenchReport);
}

[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, WriteIndented = true,
    NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull)]
[JsonSerializable(typeof(BenchReport))]
internal sealed partial class BenchContext : JsonSerializerContext;

/// <summary>From runs to rows and ratios. Pure.</summary>
internal static class BenchTable
{
    internal const string Baseline = "stock-default";
    private const string Chosen = "godwit";

    /// <summary>The medians of one cell; runs that failed are counted, not averaged in.</summary>
    internal static BenchRow Row(
        string scenario, string link, string mode, IReadOnlyList<LabResult> runs, double memoryGiB)
    {
        MoveResult[] good = [.. runs.Where(run => run.Failures.Count == 0).SelectMany(run => run.Moves)];
        double[] throughput =
        [
            .. good.Where(move => move.GuestPagesPerSecond is { Before: > 0 })
                .Select(move => move.GuestPagesPerSecond!.During / move.GuestPagesPerSecond.Before),
        ];
        double[] cpu =
            [.. good.Where(move => move.DaemonCpuSeconds is > 0).Select(move => move.DaemonCpuSeconds!.Value)];
        return new BenchRow(
            scenario, link, mode, runs.Count,
            Median(good.Select(move => move.TotalSeconds)),
            Median(good.Select(move => (double)(move.UplinkBytes ?? move.WireBytes))),
            Median(good.Select(move => move.DowntimeMs)),
            Median(good.Select(move => move.BlackoutMs)),
            throughput.Length > 0 ? Median(throughput) : null,
            cpu.Length > 0 ? Median(cpu) / memoryGiB : null,
            runs.Count(run => run.Failures.Count > 0))
        {
            LaterBytes = Median(good.Select(move => (double)(move.LaterWireBytes ?? 0))),
            LateMeanMs = OfWalks(walk => walk.Walk!.LateMeanMs),
            LateP99Ms = OfWalks(walk => walk.Walk!.LateP99Ms),
            BytesErrorPercent = OfForecasts(forecast => forecast.BytesErrorPercent),
            SecondsErrorPercent = OfForecasts(forecast => forecast.SecondsErrorPercent),
            ThroughputAfter = OfWalks(walk =>
                walk.Walk!.PagesPerSecondAfter / Math.Max(1, walk.GuestPagesPerSecond!.Before)),
        };

        double? OfForecasts(Func<ForecastResult, double> figure) =>
            good.Any(move => move.Forecast is not null)
                ? Median(good.Where(move => move.Forecast is not null).Select(move => figure(move.Forecast!)))
                : null;

        double? OfWalks(Func<MoveResult, double> figure) =>
            good.Any(move => move.Walk is not null)
                ? Median(good.Where(move => move.Walk is not null).Select(figure)) : null;
    }

    /// <summary>Godwit's rows against the baseline of the same scenario and link.</summary>
    internal static IReadOnlyList<BenchRatio> Ratios(IReadOnlyList<BenchRow> rows) =>
    [
        .. from row in rows
           where row.Mode.StartsWith("godwit", StringComparison.Ordinal) && row.Failed < row.Runs
           from baseline in rows
           where baseline.Mode == Baseline && baseline.Scenario == row.Scenario && baseline.Link == row.Link
               && baseline.Failed < baseline.Runs
           select Ratio(row, baseline),
    ];

    /// <summary>
    /// What Godwit chose against the method that sent least of those that brought the guest over, in each scenario.
    /// </summary>
    internal static IReadOnlyList<BenchRatio> AgainstBest(IReadOnlyList<BenchRow> rows) =>
    [
        .. from chosen in rows
           where chosen.Mode == Chosen && chosen.Failed < chosen.Runs
           let best = rows
               .Where(row => row.Mode != Chosen && row.Scenario == chosen.Scenario && row.Link == chosen.Link
                   && row.Failed < row.Runs)
               .MinBy(row => row.WireBytes)
           where best is not null
           select Ratio(chosen, best),
    ];

    private static BenchRatio Ratio(BenchRow row, BenchRow other) => new(
        row.Scenario, row.Link, row.Mode, other.Mode, row.TotalSeconds / other.TotalSeconds,
        row.WireBytes / other.WireBytes, row.DowntimeMs / other.DowntimeMs, row.BlackoutMs / other.BlackoutMs,
        row.GuestThroughput / other.GuestThroughput);

    internal static double Median(IEnumerable<double> values)
    {
        double[] sorted = [.. values.Order()];
        return sorted.Length == 0 ? double.NaN
            : sorted.Length % 2 == 1 ? sorted[sorted.Length / 2]
            : (sorted[(sorted.Length / 2) - 1] + sorted[sorted.Length / 2]) / 2;
    }

    internal static string Write(BenchReport report)
    {
        StringBuilder text = new();
        text.AppendLine(
            $"{"scenario",-16}{"link",-14}{"mode",-20}{"total s",9}{"wire MiB",10}{"later",8}"
            + $"{"pause ms",10}{"blackout",10}{"guest",8}{"cpu s/GiB",11}{"late ms",9}{"late p99",10}{"after",8}"
            + $"{"err B %",9}{"err s %",9}");
        foreach (BenchRow row in report.Rows)
        {
            text.AppendLine(string.Create(
                CultureInfo.InvariantCulture,
                $"{row.Scenario,-16}{row.Link,-14}{row.Mode,-20}"
                + $"{row.TotalSeconds,9:0.00}{row.WireBytes / (1 << 20),10:0.0}{row.LaterBytes / (1 << 20),8:0.0}"
                + $"{row.DowntimeMs,10:0}{row.BlackoutMs,10:0}"
                + $"{row.GuestThroughput,8:0.00}{row.CpuSecondsPerGiB,11:0.00}"
                + $"{row.LateMeanMs,9:0.00}{row.LateP99Ms,10:0.00}{row.ThroughputAfter,8:0.00}"
                + $"{row.BytesErrorPercent,9:0}{row.SecondsErrorPercent,9:0}").TrimEnd()
                + (row.Failed > 0 ? $"  {row.Failed} of {row.Runs} runs failed" : ""));
        }

        if (report.Ratios.Count > 0)
        {
            text.AppendLine().AppendLine("Relative to another mode (below 1 is better; guest throughput: above 1)");
            foreach (BenchRatio ratio in report.Ratios)
            {
                text.AppendLine(string.Create(
                    CultureInfo.InvariantCulture,
                    $"{ratio.Scenario,-16}{ratio.Link,-14}{ratio.Mode,-20}"
                    + $"{ratio.TotalSeconds,9:0.00}{ratio.WireBytes,10:0.00}"
                    + $"{ratio.DowntimeMs,10:0.00}{ratio.BlackoutMs,10:0.00}{ratio.GuestThroughput,8:0.00}"
                    + $"  to {ratio.Against}"));
            }
        }

        return text.ToString().TrimEnd();
    }
}
