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

    // What four like guests may cost together, as a share of what they cost one by one.
    private const double GangShareMax = 0.35;
    private const int GangSize = 4;

    // A host indexes only when nobody else wants the processor.
    private static readonly TimeSpan _indexingMax = TimeSpan.FromMinutes(10);

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
        new(
            "return-counters", "A guest whose counters move comes back: of each page only what has changed",
            run => Return(run, GuestLoad.Counters, TimeSpan.FromSeconds(10))),
        new("gang", "Four like guests move together: what they have in common crosses the wire once", Gang),
    ];

    /// <summary>The first move; the destination knows the base image that the guest's disk was copied from.</summary>
    internal static void First(ScenarioRun run, GuestLoad load)
    {
        (LabGuest guest, OutsideClient client) = Begin(run, load);
        DateTime start = DateTime.UtcNow;
        long written = guest.Agent.PagesWritten();
        MoveResult move = MoveTo(run, guest, "b", client, new MigrationPolicy(), counts: true);
        // A server has read all its files, a compiler what it needs.
        run.Expect(
            move.SavedBytes.GetValueOrDefault("knownDisk") > (load.Builds ? 16 : 100) << 20,
            $"the base image rebuilt no more than {move.SavedBytes.GetValueOrDefault("knownDisk")} bytes");
        End(run, guest, client, start, written);
    }

    /// <summary>There, a while of work, and back; only the way back counts.</summary>
    internal static void Return(ScenarioRun run, GuestLoad load, TimeSpan elsewhere)
    {
        (LabGuest guest, OutsideClient client) = Begin(run, load);
        DateTime start = DateTime.UtcNow;
        long written = guest.Agent.PagesWritten();
        MoveTo(run, guest, "b", client, new MigrationPolicy(), counts: false);
        run.Display.Line($"Working on b for {elsewhere.TotalSeconds:0} s");
        run.Pause(elsewhere);
        // What it left on a is there to be come back to when a has indexed it, and not by the clock.
        Wait.Until(
            () => guest.Host == "a" || guest.IsKeptOn("a"), _indexingMax, "host a to index what the guest left there",
            run.Stopped);
        MoveResult back = MoveTo(run, guest, "a", client, new MigrationPolicy(), counts: true);
        double share = (double)back.WireBytes / ((long)load.MemoryMegabytes << 20);
        run.Display.Line($"  {share:P1} of the memory crossed the wire");
        run.Expect(share <= ReturnShareMax, $"{share:P1} of the memory crossed; {ReturnShareMax:P0} may");
        End(run, guest, client, start, written);
    }

    /// <summary>Each alone to b, nothing known of it there; then all of them back, with all that is known.</summary>
    internal static void Gang(ScenarioRun run)
    {
        LabDaemons daemons = run.Own(LabDaemons.Start());
        GuestShape shape = GuestLoad.Server.Shape with { MemoryMegabytes = 512 };
        LabGuest[] guests =
        [
            .. Enumerable.Range(1, GangSize).Select(number => LabGuest.Boot(
                run, daemons, shape with { Number = number }, MemoryBacking.Shared)),
        ];
        Array.ForEach(guests, guest => GuestLoad.Server.Begin(run, guest.Agent));
        OutsideClient client = run.Own(OutsideClient.Start(guests[0].Shape.Address));
        DateTime start = DateTime.UtcNow;
        MigrationPolicy alone = new() { Share = ContentSharing.None };
        long single = 0;
        foreach (LabGuest guest in guests)
        {
            single += MoveTo(run, guest, "b", client, alone, counts: false).WireBytes;
        }

        MigrationPolicy together = new() { Share = ContentSharing.Host };
        long gang = guests.Sum(guest => MoveTo(run, guest, "a", client, together, counts: true).WireBytes);
        double share = (double)gang / single;
        run.Display.Line($"  together {ResultText.Bytes(gang)}, {share:P1} of the {ResultText.Bytes(single)} alone");
        run.Expect(share <= GangShareMax, $"together they cost {share:P1} of that; {GangShareMax:P0} may");
        Array.ForEach(guests, guest => guest.ExpectRunningOnlyOn("a"));
        client.Finish();
        run.Judge(client.Report(start, DateTime.UtcNow));
        Array.ForEach(guests, guest => run.Verify(guest.Agent, 0));
    }

    private static MoveResult MoveTo(
        ScenarioRun run, LabGuest guest, string host, OutsideClient client, MigrationPolicy policy, bool counts)
    {
        MoveResult move = guest.Move(host, client, policy, counts: counts);
        run.Expect(move.Outcome == "completed", $"the move to {host} ended as \"{move.Outcome}\": {move.Error}");
        return move;
    }

    private static (LabGuest Guest, OutsideClient Client) Begin(ScenarioRun run, GuestLoad load)
    {
        string image = UserlandDisk.Obtain(run.Display.Line);
        LabDaemons daemons = run.Own(LabDaemons.Start(
            new Dictionary<string, string> { ["inventoryImages"] = image }));
        LabGuest guest = LabGuest.Boot(run, daemons, load.Shape, MemoryBacking.Shared);
        load.Begin(run, guest.Agent);
        Wait.Until(
            () => daemons["b"].ListInventory(new ListInventoryRequest()).Entries.Any(entry => entry.Name == image),
            _indexingMax, "host b to index the base image", run.Stopped);
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
