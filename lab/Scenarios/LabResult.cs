using System.Text.Json;
using System.Text.Json.Serialization;

namespace Godwit.Lab.Scenarios;

/// <summary>One round of a move, as it stands in the machine-readable result.</summary>
internal sealed record RoundResult(long Pages, long Bytes, double Seconds, double DirtyBytesPerSecond);

/// <summary>One move. <c>blackoutMs</c> is what the client outside measured; the rest is the mover's account.</summary>
internal sealed record MoveResult(
    string Guest, string From, string To, string Method, string Outcome, double TotalSeconds, long WireBytes,
    double DowntimeMs, double BlackoutMs, IReadOnlyDictionary<string, double> BlackoutParts,
    IReadOnlyDictionary<string, long> SavedBytes, IReadOnlyList<RoundResult> Rounds)
{
    /// <summary>Pages the guest's writer managed: the second before, during the move, the second after.</summary>
    public PaceResult? GuestPagesPerSecond { get; init; }

    /// <summary>
    /// Bytes that left the source host by its uplink during the move, headers and the client's own traffic included:
    /// a count that the mover has no hand in.
    /// </summary>
    public long? UplinkBytes { get; init; }

    /// <summary>Bytes sent after the first round, by the mover's own account.</summary>
    public long? LaterWireBytes { get; init; }

    /// <summary>
    /// Longest time between two beats of 5 ms inside the guest, by its own clock, which stands in a pause.
    /// </summary>
    public double? GuestLongestGapMs { get; init; }

    /// <summary>What the guest's monotonic clock fell behind during the move; about the pause.</summary>
    public double? GuestClockLagMs { get; init; }

    /// <summary>CPU seconds of both daemons during the move.</summary>
    public double? DaemonCpuSeconds { get; init; }

    /// <summary>Why the mover took this method, in its own words.</summary>
    public string? MethodReason { get; init; }

    /// <summary>What the mover expected of the move, against what came of it.</summary>
    public ForecastResult? Forecast { get; init; }

    /// <summary>Of a guest that walks through its memory.</summary>
    public WalkResult? Walk { get; init; }

    /// <summary>Why the move did not complete, with its code.</summary>
    public string? Error { get; init; }
}

/// <summary>A forecast's middle, and how far it was off, in percent of what came.</summary>
internal sealed record ForecastResult(
    double Bytes, double Seconds, double BytesErrorPercent, double SecondsErrorPercent)
{
    internal static ForecastResult? Of(Godwit.Api.V1.Migration move)
    {
        if (move.Forecast is not { } told || move.Outcome != Godwit.Api.V1.MigrationOutcome.Completed)
        {
            return null;
        }

        double bytes = (told.BytesLow + (double)told.BytesHigh) / 2;
        double seconds = (told.SecondsLow + told.SecondsHigh) / 2;
        return new ForecastResult(
            Math.Round(bytes), Math.Round(seconds, 2), Error(bytes, move.WireBytes), Error(seconds, move.TotalSeconds));
    }

    private static double Error(double told, double came) =>
        Math.Round(100 * Math.Abs(told - came) / Math.Max(came, 1e-9), 1);
}

/// <summary>The guest's own throughput around a move.</summary>
internal sealed record PaceResult(double Before, double During, double After);

/// <summary>What the client outside counted over the whole run.</summary>
internal sealed record ClientResult(int ConnectionsOpened, int ConnectionsLost, int PacketsLost);

/// <summary>Pages or disk blocks verified inside the guest, and those found lost, stale or damaged.</summary>
internal sealed record CheckResult(long Checked, long Wrong);

/// <summary>The object that <c>run -o json</c> prints. Its names and units are stable; others build on them.</summary>
/// <param name="Failures">Empty when nothing was lost and every expectation of the scenario held.</param>
internal sealed record LabResult(
    string Scenario, string Link, IReadOnlyList<MoveResult> Moves, ClientResult Client, CheckResult Memory,
    CheckResult Disk, IReadOnlyList<string> Failures)
{
    internal string ToJson() => JsonSerializer.Serialize(this, LabResultContext.Default.LabResult);
}

[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, WriteIndented = true,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull)]
[JsonSerializable(typeof(LabResult))]
internal sealed partial class LabResultContext : JsonSerializerContext;
