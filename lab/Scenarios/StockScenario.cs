using System.Diagnostics;
using Godwit.Lab.Guests;
using Godwit.Lab.Outside;
using Godwit.Lab.Qemu;

namespace Godwit.Lab.Scenarios;

/// <summary>Plain QEMU moves the lab's guest, in each mode: proof of the lab itself, and the baseline.</summary>
internal static class StockScenario
{
    internal static IEnumerable<Scenario> All =>
        StockMode.All.Select(mode => new Scenario(
            $"stock-{mode.Name}", $"Plain QEMU without Godwit, mode {mode.Name}: a text writer at 8 MiB/s moves from a to b",
            run => Play(run, mode)));

    private static void Play(ScenarioRun run, StockMode mode)
    {
        GuestShape shape = new(1, 256, 1);
        string disk = Path.Combine(LabDirectory.Disks, "stock.raw");
        File.Copy(run.Image.Disk, disk, overwrite: true);
        run.Display.Line($"Booting on a ({StockQemu.Accelerator})");
        long began = Stopwatch.GetTimestamp();
        StockQemu source = run.Own(StockQemu.Start("a", "stock-a", shape, run.Image, disk, incoming: false));
        AgentControl agent = run.Own(AgentControl.Connect(shape.Address, TimeSpan.FromSeconds(60), run.Stopped));
        run.Display.Line($"  booted and answering after {Stopwatch.GetElapsedTime(began).TotalSeconds:0.0} s");
        agent.Ask("files");
        agent.Ask("set pattern=text rate=8M size=32M");
        OutsideClient client = run.Own(OutsideClient.Start(shape.Address));
        StockQemu destination = run.Own(StockQemu.Start("b", "stock-b", shape, run.Image, disk, incoming: true));
        run.Pause(TimeSpan.FromSeconds(1));
        long written = agent.PagesWritten();
        DateTime start = DateTime.UtcNow;
        run.Display.Line($"Moving to b, mode {mode.Name}");
        StockFigures figures = StockMove.Run(
            source, destination, mode, run.Shape.BitsPerSecond == 0 ? 0 : null, TimeSpan.FromSeconds(120));
        run.Pause(TimeSpan.FromSeconds(1));
        ClientReport during = client.Report(start, DateTime.UtcNow);
        client.Finish();
        run.Add(new MoveResult(
            "stock", "a", "b", $"stock {mode.Name}", figures.Outcome, figures.TotalSeconds, figures.WireBytes,
            figures.DowntimeMs, new TimeSpan(during.Blackout.Ticks).TotalMilliseconds,
            new Dictionary<string, double>(), new Dictionary<string, long>(), []));
        run.Expect(figures.Outcome == "completed", $"the move ended as \"{figures.Outcome}\"");
        run.Judge(client.Report(start, DateTime.UtcNow));
        run.Verify(agent, written);
    }
}
