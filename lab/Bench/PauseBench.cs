using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization;
using Godwit.Api.V1;
using Godwit.Lab.Daemons;
using Godwit.Lab.Network;
using Godwit.Lab.Outside;
using Godwit.Lab.Scenarios;

namespace Godwit.Lab.Bench;

/// <summary>One move of many: what it was allowed to pause the guest for, and what it did.</summary>
internal sealed record PauseRun(string Load, uint BudgetMs, string Method, string Outcome, double PauseMs)
{
    /// <summary>A move that ends with the guest where it was has kept its budget.</summary>
    public bool IsOver => Outcome == "completed" && PauseMs > BudgetMs;
}

/// <summary>What <c>bench --pauses -o json</c> prints.</summary>
internal sealed record PauseReport(string Link, int Moves, int Completed, int Over, IReadOnlyList<PauseRun> Runs)
{
    internal static PauseReport Of(string link, IReadOnlyList<PauseRun> runs) => new(
        link, runs.Count, runs.Count(run => run.Outcome == "completed"), runs.Count(run => run.IsOver), runs);

    internal string ToJson() => JsonSerializer.Serialize(this, PauseContext.Default.PauseReport);
}

[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, WriteIndented = true)]
[JsonSerializable(typeof(PauseReport))]
internal sealed partial class PauseContext : JsonSerializerContext;

/// <summary>Moves one guest to and fro under every load and budget, and counts the pauses that were too long.</summary>
internal static class PauseBench
{
    private static readonly uint[] _budgetsMs = [30, 50, 100, 200, 300, 500];

    /// <returns>1 if a pause was over its budget, or something was lost.</returns>
    internal static int Execute(int moves, LinkShape shape, bool json)
    {
        List<PauseRun> runs = [];
        Scenario scenario = new("pauses", "", run => Play(run, moves, runs));
        LabResult lab = ScenarioRun.Perform(scenario, shape, new Display(json), out bool interrupted);
        PauseReport report = PauseReport.Of(shape.ToString(), runs);
        Console.WriteLine(json ? report.ToJson() : Write(report));
        foreach (string failure in lab.Failures)
        {
            Console.Error.WriteLine($"failed: {failure}");
        }

        return interrupted ? 130 : report.Over > 0 || lab.Failures.Count > 0 ? 1 : 0;
    }

    private static void Play(ScenarioRun run, int moves, List<PauseRun> runs)
    {
        LabDaemons daemons = run.Own(LabDaemons.Start());
        LabGuest guest = LabGuest.Boot(run, daemons, GuestLoad.Idle.Shape, MemoryBacking.Shared);
        OutsideClient client = run.Own(OutsideClient.Start(guest.Shape.Address));
        DateTime start = DateTime.UtcNow;
        for (int i = 0; i < moves; i++)
        {
            GuestLoad load = GuestLoad.All[i % GuestLoad.All.Count];
            uint budget = _budgetsMs[i / GuestLoad.All.Count % _budgetsMs.Length];
            load.Begin(run, guest.Agent);
            run.Display.Line($"[{i + 1}/{moves}] {load.Name}, {budget} ms allowed");
            string from = guest.Host;
            MoveResult move = guest.Move(
                LabNetwork.Hosts.Single(host => host != from), client, new MigrationPolicy { MaxDowntimeMs = budget },
                counts: false);
            runs.Add(new PauseRun(load.Name, budget, move.Method, move.Outcome, Math.Round(move.DowntimeMs, 1)));
            // What is refused or given up leaves it where it was.
            guest.ExpectRunningOnlyOn(guest.Host);
        }

        client.Finish();
        run.Judge(client.Report(start, DateTime.UtcNow));
        run.Verify(guest.Agent, 0);
    }

    internal static string Write(PauseReport report)
    {
        StringBuilder text = new();
        text.AppendLine($"Pauses over {report.Link}");
        text.AppendLine($"{"budget ms",-11}{"moves",7}{"completed",11}{"over",6}{"median ms",11}{"worst ms",10}");
        foreach (IGrouping<uint, PauseRun> budget in report.Runs.GroupBy(run => run.BudgetMs).OrderBy(one => one.Key))
        {
            double[] pauses = [.. budget.Where(run => run.Outcome == "completed").Select(run => run.PauseMs)];
            text.AppendLine(string.Create(
                CultureInfo.InvariantCulture,
                $"{budget.Key,-11}{budget.Count(),7}{pauses.Length,11}{budget.Count(run => run.IsOver),6}"
                + $"{BenchTable.Median(pauses),11:0}{(pauses.Length > 0 ? pauses.Max() : 0),10:0}"));
        }

        text.Append(
            CultureInfo.InvariantCulture,
            $"{report.Over} of {report.Moves} moves paused the guest for longer than was allowed; "
            + $"{report.Moves - report.Completed} ended with it where it was");
        return text.ToString();
    }
}
