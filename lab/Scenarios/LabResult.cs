using System.Text.Json;
using System.Text.Json.Serialization;

namespace Godwit.Lab.Scenarios;

/// <summary>One round of a move, as it stands in the machine-readable result.</summary>
internal sealed record RoundResult(long Pages, long Bytes, double Seconds, double DirtyBytesPerSecond);

/// <summary>One move. <c>blackoutMs</c> is what the client outside measured; all else is the mover's own account.</summary>
internal sealed record MoveResult(
    string Guest, string From, string To, string Method, string Outcome, double TotalSeconds, long WireBytes,
    double DowntimeMs, double BlackoutMs, IReadOnlyDictionary<string, double> BlackoutParts,
    IReadOnlyDictionary<string, long> SavedBytes, IReadOnlyList<RoundResult> Rounds);

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

[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, WriteIndented = true)]
[JsonSerializable(typeof(LabResult))]
internal sealed partial class LabResultContext : JsonSerializerContext;
