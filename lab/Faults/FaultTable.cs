using System.Globalization;
using System.Text;

namespace Godwit.Lab.Faults;

/// <summary>The matrix as a person reads it.</summary>
internal static class FaultTable
{
    internal static string Write(FaultMatrixResult result)
    {
        StringBuilder text = new();
        text.AppendLine(CultureInfo.InvariantCulture, $"The fault matrix over {result.Link}");
        text.AppendLine(
            Line("VICTIM", "PHASE", "STRIKE", "OUTCOME", "RUNNING", "RESUME", "DEATH", "WRITES", "VERDICT"));
        foreach (FaultCellResult cell in result.Cells)
        {
            text.AppendLine(Row(cell));
        }

        FaultSummary summary = result.Summary;
        text.AppendLine(
            CultureInfo.InvariantCulture,
            $"{summary.Cells} cells, {summary.Failed} wrong, in {summary.Seconds / 60:0.0} min");
        Describe("From a kill to the guest's first answer", summary.KillToRunningMs);
        Describe("From any strike to the guest's first answer", summary.StrikeToRunningMs);
        Describe("From the source's giving up to its guest running again", summary.NoticedToRunningMs);
        Describe("From a death to its report", summary.DeathReportedMs);
        return text.ToString().TrimEnd();

        void Describe(string what, Spread? spread)
        {
            if (spread is not null)
            {
                text.AppendLine(
                    CultureInfo.InvariantCulture,
                    $"{what}: {spread.Median:0} ms at the median, at most {spread.Maximum:0} ms "
                    + $"({spread.Cells} cells)");
            }
        }
    }

    /// <summary>One cell in one line, and what was wrong with it below.</summary>
    internal static string Row(FaultCellResult cell) =>
        Line(
            cell.Victim, cell.Phase, cell.Strike, Words(cell.Outcome), Milliseconds(cell.StrikeToRunningMs),
            Milliseconds(cell.NoticedToRunningMs), Milliseconds(cell.DeathReportedMs),
            $"{cell.Acknowledged}", cell.Failures.Count == 0 ? "right" : "WRONG")
        + string.Concat(cell.Failures.Select(failure => $"\n    {failure}"));

    private static string Line(
        string victim, string phase, string strike, string outcome, string running, string resume, string death,
        string writes, string verdict) =>
        $"{victim,-25}{phase,-11}{strike,-10}{outcome,-20}{running,9}{resume,9}{death,9}{writes,8}  {verdict}";

    private static string Milliseconds(double? value) =>
        value is { } ms ? string.Create(CultureInfo.InvariantCulture, $"{ms:0} ms") : "-";

    private static string Words(FaultOutcome outcome) => outcome switch
    {
        FaultOutcome.RunsOnSource => "runs on source",
        FaultOutcome.RunsOnDestination => "runs on destination",
        FaultOutcome.Died => "died",
        _ => "unknown",
    };
}
