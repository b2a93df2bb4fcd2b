using Godwit.Api.V1;
using Godwit.Lab.Daemons;
using Godwit.Lab.Guests;
using Godwit.Lab.Outside;
using Godwit.Lab.Qemu;

namespace Godwit.Lab.Scenarios;

/// <summary>
/// Moves of a server whose contents the destination has in part: on its disks, or from the last visit.
/// </summary>
internal static class InventoryScenarios
{
    // What a return may cost, as a share of the guest's memory.
    private const double ReturnShareMax = 0.05;

    internal static IEnumerable<Scenario> All { get; } =
    [
        new(
            "server", "A server with a warm page cache comes to a host that has its base image",
            run => First(run, GuestLoad.Server)),
        new(
            "return", "A server comes back after two minutes elsewhere: only what has changed crosses the wire",
            run => Return(run, GuestLoad.Server, TimeSpan.FromMinutes(2))),
        new(
            "return-soon", "A server comes back after ten seconds elsewhere",
            run => Return(run, GuestLoad.Server, TimeSpan.FromSeconds(10))),
    ];

    /// <summary>The first move; the destination knows the base image that the guest's disk was copied from.</summary>
    internal static void First(ScenarioRun run, GuestLoad load)
    {
        (LabGuest guest, OutsideClient client) = Begin(run, load);
        DateTime start = DateTime.UtcNow;
        long written = guest.Agent.PagesWritten();
        MoveResult move = guest.Move("b", client, new MigrationPolicy());
        run.Expect(move.Outcome == "completed", $"the move ended as \"{move.Outcome}\": {move.Error}");
        run.Expect(
            move.SavedBytes.GetValueOrDefault("knownDisk") > 100 << 20,
            $"the base image rebuilt no more than {move.SavedBytes.GetValueOrDefault("knownDisk")} bytes");
        End(run, guest, client, start, written);
    }

    /// <summary>There, a while of work, and back; only the way back counts.</summary>
    internal static void Return(ScenarioRun run, GuestLoad load, TimeSpan elsewhere)
    {
        (LabGuest guest, OutsideClient client) = Begin(run, load);
        DateTime start = DateTime.UtcNow;
        long written = guest.Agent.PagesWritten();
        MoveResult there = guest.Move("b", client, new MigrationPolicy(), counts: false);
        run.Expect(there.Outcome == "completed", $"the move to b ended as \"{there.Outcome}\": {there.Error}");
        run.Display.Line($"Working on b for {elsewhere.TotalSeconds:0} s");
        run.Pause(elsewhere);
        MoveResult back = guest.Move("a", client, new MigrationPolicy());
        run.Expect(back.Outcome == "completed", $"the move back ended as \"{back.Outcome}\": {back.Error}");
        double share = (double)back.WireBytes / ((long)load.MemoryMegabytes << 20);
        run.Display.Line($"  {share:P1} of the memory crossed the wire");
        run.Expect(share <= ReturnShareMax, $"{share:P1} of the memory crossed; {ReturnShareMax:P0} may");
        End(run, guest, client, start, written);
    }

    private static (LabGuest Guest, OutsideClient Client) Begin(ScenarioRun run, GuestLoad load)
    {
        string image = UserlandDisk.Obtain(run.Display.Line);
        LabDaemons daemons = run.Own(LabDaemons.Start(
            new Dictionary<string, string> { ["inventoryImages"] = image }));
        LabGuest guest = LabGuest.Boot(run, daemons, load.Shape, MemoryBacking.Shared);
        load.Begin(guest.Agent);
        Wait.Until(
            () => daemons["b"].ListInventory(new ListInventoryRequest()).Entries.Any(entry => entry.Name == image),
            TimeSpan.FromMinutes(2), "host b to index the base image", run.Stopped);
        return (guest, run.Own(OutsideClient.Start(guest.Shape.Address)));
    }

    private static void End(ScenarioRun run, LabGuest guest, OutsideClient client, DateTime start, long written)
    {
        guest.ExpectRunningOnlyOn(guest.Host);
        client.Finish();
        run.Judge(client.Report(start, DateTime.UtcNow));
        run.Verify(guest.Agent, written);
    }
}
