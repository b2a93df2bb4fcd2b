using System.Diagnostics;
using Godwit.Lab.Guests;
using Godwit.Lab.Network;
using Godwit.Lab.Outside;
using Godwit.Lab.Qemu;

namespace Godwit.Lab.Scenarios;

/// <summary>Plain QEMU moves the lab's guest, in each mode: proof of the lab itself, and the baseline.</summary>
internal static class StockScenario
{
    internal static IEnumerable<Scenario> All =>
        StockMode.All.Select(mode => new Scenario(
            $"stock-{mode.Name}", $"Plain QEMU without Godwit, mode {mode.Name}, under the load text",
            run => Play(run, mode, GuestLoad.Text)))
        .Append(new Scenario("stock-qemu72", "Plain QEMU 7.2: what qemu72 has to be compared with", run =>
            Play(run, StockMode.All[0], GuestLoad.Text, OlderQemu.Obtain(run.Display.Line))));

    internal static void Play(
        ScenarioRun run, StockMode mode, GuestLoad load, string program = "qemu-system-x86_64")
    {
        GuestShape shape = load.Shape;
        string disk = Path.Combine(LabDirectory.Disks, "stock.raw");
        File.Copy(run.DiskFor(shape), disk, overwrite: true);
        run.Display.Line($"Booting on a ({StockQemu.Accelerator})");
        long booting = Stopwatch.GetTimestamp();
        StockQemu source = run.Own(StockQemu.Start("a", "stock-a", shape, run.Image, disk, incoming: false, program));
        AgentControl agent = run.Own(AgentControl.Connect(shape.Address, AgentControl.BootMax, run.Stopped));
        run.Display.Line($"  booted and answering after {Stopwatch.GetElapsedTime(booting).TotalSeconds:0.0} s");
        load.Begin(run, agent);
        OutsideClient client = run.Own(OutsideClient.Start(shape.Address));
        StockQemu destination = run.Own(
            StockQemu.Start("b", "stock-b", shape, run.Image, disk, incoming: true, program));
        GuestPace before = GuestPace.Take(agent);
        run.Pause(TimeSpan.FromSeconds(1));
        _ = agent.TakeLongestGapMs();
        bool walks = WalkResult.Begin(agent);
        GuestPace start = GuestPace.Take(agent);
        DateTime began = DateTime.UtcNow;
        long uplink = LabNetwork.UplinkBytes("a");
        run.Display.Line($"Moving to b, mode {mode.Name}");
        // On a shaped link QEMU keeps its default limit of 128 MiB/s, which the link is below; else it gets none.
        long? bandwidth = run.Shape.BitsPerSecond == 0 ? 0 : null;
        StockFigures figures = StockMove.Run(source, destination, mode, bandwidth, Patience(run.Shape, shape));
        uplink = LabNetwork.UplinkBytes("a") - uplink;
        GuestPace end = GuestPace.Take(agent);
        end.ExpectClock(run, start);
        run.Pause(TimeSpan.FromSeconds(1));
        double gap = agent.TakeLongestGapMs();
        GuestPace after = GuestPace.Take(agent);
        ClientReport seen = client.Report(began, DateTime.UtcNow);
        // While the client still asks: what it asks takes half of such a guest's processor, of one moved by Godwit too.
        WalkResult? walk = walks ? WalkResult.Take(run, agent, seen.Blackout) : null;
        client.Finish();
        run.Add(new MoveResult(
            "stock", "a", "b", $"stock {mode.Name}", figures.Outcome, figures.TotalSeconds, figures.WireBytes,
            figures.DowntimeMs, Math.Round(new TimeSpan(seen.Blackout.Ticks).TotalMilliseconds, 1),
            new Dictionary<string, double>(), new Dictionary<string, long>(), [])
        {
            GuestPagesPerSecond = new PaceResult(start.Since(before), end.Since(start), after.Since(end)),
            UplinkBytes = uplink,
            LaterWireBytes = figures.LaterWireBytes,
            GuestLongestGapMs = Math.Round(gap, 1),
            GuestClockLagMs = end.ClockLagMs(start),
            Walk = walk,
        });
        run.Expect(figures.Outcome == "completed", $"the move ended as \"{figures.Outcome}\"");
        run.Judge(client.Report(began, DateTime.UtcNow));
        run.Verify(agent, before.Pages);
    }

    // What fits no pause goes on for ever; one that sends all of the memory three times will not come to fit it either.
    private static TimeSpan Patience(LinkShape link, GuestShape guest) => TimeSpan.FromMinutes(2)
        + (link.BitsPerSecond == 0 ? TimeSpan.Zero
            : TimeSpan.FromSeconds(3 * ((long)guest.MemoryMegabytes << 23) / link.BitsPerSecond));
}
