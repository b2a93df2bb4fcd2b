using System.Text.Json;
using System.Text.Json.Serialization;

namespace Godwit.Lab.Faults;

/// <summary>Where the guest is once everything is settled.</summary>
internal enum FaultOutcome
{
    [JsonStringEnumMemberName("unknown")]
    Unknown,
    [JsonStringEnumMemberName("runs-on-source")]
    RunsOnSource,
    [JsonStringEnumMemberName("runs-on-destination")]
    RunsOnDestination,

    /// <summary>The very QEMU that ran it was killed. It can be started again on one host only.</summary>
    [JsonStringEnumMemberName("died")]
    Died,
}

/// <summary>One cell played. Times are what the client outside saw unless said otherwise.</summary>
/// <param name="GuestRunsOn">The host's name; after a death, that on which it was started again.</param>
/// <param name="Acknowledged">Redis writes acknowledged in the cell.</param>
/// <param name="Missing">
/// Keys whose last acknowledged value was not there in the end. After a death, of those acknowledged three seconds and
/// more before the last: Redis writes to its disk once a second.
/// </param>
/// <param name="Verdict">right or wrong.</param>
internal sealed record FaultCellResult(
    string Victim, string Phase, string Strike, FaultOutcome Outcome, string GuestRunsOn, long Acknowledged,
    int Missing, string Verdict, IReadOnlyList<string> Failures)
{
    /// <summary>
    /// From the strike to the first answer to a probe that left after it. Behind a cut link nobody answers, so there
    /// it holds the cut's length. Null when the guest died.
    /// </summary>
    public double? StrikeToRunningMs { get; init; }

    /// <summary>From the strike to the first acknowledged write that was sent after it.</summary>
    public double? StrikeToWriteMs { get; init; }

    /// <summary>Longest time without an answer, from the strike on.</summary>
    public double? LongestSilenceMs { get; init; }

    /// <summary>
    /// By the source daemon's log: from the instant it gave the move up to its QEMU's word that the guest runs again.
    /// Null if the guest was not paused, or no daemon gave the move up.
    /// </summary>
    public double? NoticedToRunningMs { get; init; }

    /// <summary>From the strike to the state "failed" in the daemon's answer.</summary>
    public double? DeathReportedMs { get; init; }

    /// <summary>How the move ended, by its report.</summary>
    public string? Migration { get; init; }

    /// <summary>Exit codes of <c>migration watch</c> and <c>settle</c>, where an operator was needed.</summary>
    public string? Operator { get; init; }

    public double Seconds { get; init; }
}

/// <summary>Median and maximum of what was measured in <paramref name="Cells"/> cells.</summary>
internal sealed record Spread(int Cells, double Median, double Maximum)
{
    internal static Spread? Of(IEnumerable<double?> values)
    {
        double[] sorted = [.. values.OfType<double>().Order()];
        return sorted.Length == 0
            ? null
            : new Spread(
                sorted.Length,
                Math.Round((sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2, 1), sorted[^1]);
    }
}

/// <summary>The figures of a whole matrix; a guest that died has no time to running.</summary>
internal sealed record FaultSummary(
    int Cells, int Failed, Spread? StrikeToRunningMs, Spread? KillToRunningMs, Spread? NoticedToRunningMs,
    Spread? DeathReportedMs, double Seconds);

/// <summary>The object that <c>run faults -o json</c> prints. Its names and units are stable.</summary>
internal sealed record FaultMatrixResult(
    string Link, FaultSummary Summary, IReadOnlyList<FaultCellResult> Cells)
{
    internal static FaultMatrixResult Of(string link, IReadOnlyList<FaultCellResult> cells) => new(
        link,
        new FaultSummary(
            cells.Count, cells.Count(cell => cell.Failures.Count > 0),
            Spread.Of(cells.Select(cell => cell.StrikeToRunningMs)),
            Spread.Of(cells.Where(cell => cell.Strike == "kill").Select(cell => cell.StrikeToRunningMs)),
            Spread.Of(cells.Select(cell => cell.NoticedToRunningMs)),
            Spread.Of(cells.Select(cell => cell.DeathReportedMs)),
            Math.Round(cells.Sum(cell => cell.Seconds), 1)),
        cells);

    internal string ToJson() => JsonSerializer.Serialize(this, FaultResultContext.Default.FaultMatrixResult);
}

[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, WriteIndented = true,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull, UseStringEnumConverter = true)]
[JsonSerializable(typeof(FaultMatrixResult))]
[JsonSerializable(typeof(FaultCellResult))]
internal sealed partial class FaultResultContext : JsonSerializerContext;
