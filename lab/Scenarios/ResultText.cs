using System.Globalization;
using System.Text;

namespace Godwit.Lab.Scenarios;

/// <summary>A result as a person reads it.</summary>
internal static class ResultText
{
    internal static string Write(LabResult result)
    {
        StringBuilder text = new();
        text.AppendLine(CultureInfo.InvariantCulture, $"{result.Scenario} over {result.Link}");
        foreach (MoveResult move in result.Moves)
        {
            text.AppendLine(
                CultureInfo.InvariantCulture,
                $"  {move.Guest}: {move.From} -> {move.To} ({move.Method}), {move.Outcome}");
            text.AppendLine(
                CultureInfo.InvariantCulture,
                $"    took {move.TotalSeconds:0.00} s, {Bytes(move.WireBytes)} on the wire, "
                + $"{move.Rounds.Count} rounds");
            text.AppendLine(
                CultureInfo.InvariantCulture,
                $"    paused {move.DowntimeMs:0} ms; the client outside saw a blackout of {move.BlackoutMs:0} ms");
            if (move.BlackoutParts.Count > 0)
            {
                text.AppendLine("    of it: " + string.Join(", ", move.BlackoutParts.Select(part =>
                    string.Create(CultureInfo.InvariantCulture, $"{Words(part.Key[..^2])} {part.Value:0.0} ms"))));
            }

            if (move.GuestPagesPerSecond is { Before: > 0 } pace)
            {
                text.AppendLine(
                    CultureInfo.InvariantCulture,
                    $"    the guest wrote {pace.During:0} pages/s meanwhile, {pace.During / pace.Before:0%} of before");
            }

            if (move.Forecast is { } told)
            {
                text.AppendLine(
                    CultureInfo.InvariantCulture,
                    $"    expected {told.Seconds:0.0} s and {Bytes((long)told.Bytes)}: off by "
                    + $"{told.SecondsErrorPercent:0} % and {told.BytesErrorPercent:0} %");
            }

            if (move.SavedBytes.Count > 0)
            {
                text.AppendLine("    not sent: " + string.Join(", ", move.SavedBytes.Select(part =>
                    $"{part.Key} {Bytes(part.Value)}")));
            }
        }

        text.AppendLine(
            CultureInfo.InvariantCulture,
            $"  client: {result.Client.ConnectionsOpened} TCP connections opened, "
            + $"{result.Client.ConnectionsLost} lost; {result.Client.PacketsLost} probes unanswered");
        text.AppendLine(
            CultureInfo.InvariantCulture,
            $"  memory: {result.Memory.Checked} pages verified, {result.Memory.Wrong} wrong; "
            + $"disk: {result.Disk.Checked} blocks and files verified, {result.Disk.Wrong} wrong");
        if (result.Failures.Count == 0)
        {
            text.Append("  Nothing was lost.");
        }
        else
        {
            text.AppendJoin('\n', result.Failures.Select(failure => $"  FAILED: {failure}"));
        }

        return text.ToString();
    }

    private static string Words(string camelCase) =>
        string.Concat(camelCase.Select(c => char.IsUpper(c) ? $" {char.ToLowerInvariant(c)}" : $"{c}"));

    internal static string Bytes(long count) => count switch
    {
        >= 1L << 30 => string.Create(CultureInfo.InvariantCulture, $"{count / (double)(1L << 30):0.00} GiB"),
        >= 1L << 20 => string.Create(CultureInfo.InvariantCulture, $"{count / (double)(1L << 20):0.0} MiB"),
        >= 1L << 10 => string.Create(CultureInfo.InvariantCulture, $"{count / (double)(1L << 10):0.0} KiB"),
        _ => string.Create(CultureInfo.InvariantCulture, $"{count} B"),
    };
}
