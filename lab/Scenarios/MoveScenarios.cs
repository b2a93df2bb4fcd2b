using Godwit.Api.V1;
using Godwit.Lab.Daemons;
using Godwit.Lab.Outside;
using Godwit.Lab.Qemu;

namespace Godwit.Lab.Scenarios;

/// <summary>Moves that have to succeed, one for each kind of guest memory and each way of moving it.</summary>
internal static class MoveScenarios
{
    internal static IEnumerable<Scenario> All { get; } =
    [
        new("demo", "A guest under load boots on a, moves to b and back", run => Play(run, GuestLoad.Text, ["b", "a"])),
        .. GuestLoad.All.Select(load => new Scenario(
            load.Name, $"One move: {load.Summary}", run => Play(run, load, ["b"]))),
        new("carried", "Memory that is not shared: QEMU's stream carries the contents", run =>
            Play(run, GuestLoad.Text, ["b"], backing: MemoryBacking.Private)),
        new("adaptive", "The adaptive rate limit of Clark et al. instead of full speed", run =>
            Play(run, GuestLoad.Text, ["b"], new MigrationPolicy { Pacing = Pacing.Adaptive })),
        new("qemu72", "With QEMU 7.2, which knows no switchover-ack", run =>
            // Comparing its memory is part of the pause, and takes long where others have the processors.
            Play(run, GuestLoad.Text, ["b"], new MigrationPolicy { MaxDowntimeMs = 5_000 },
                daemonSettings: new Dictionary<string, string>
                {
                    ["qemu"] = OlderQemu.Obtain(run.Display.Line),
                })),
    ];

    internal static void Play(
        ScenarioRun run, GuestLoad load, string[] hosts, MigrationPolicy? policy = null,
        MemoryBacking backing = MemoryBacking.Shared, IReadOnlyDictionary<string, string>? daemonSettings = null)
    {
        LabDaemons daemons = run.Own(LabDaemons.Start(daemonSettings));
        LabGuest guest = LabGuest.Boot(run, daemons, load.Shape, backing);
        load.Begin(run, guest.Agent);
        OutsideClient client = run.Own(OutsideClient.Start(guest.Shape.Address));
        DateTime start = DateTime.UtcNow;
        long written = guest.Agent.PagesWritten();
        foreach (string host in hosts)
        {
            MoveResult move = guest.Move(host, client, policy ?? new MigrationPolicy());
            run.Expect(move.Outcome == "completed", $"the move to {host} ended as \"{move.Outcome}\": {move.Error}");
            if (move.Outcome != "completed")
            {
                break;
            }

            guest.ExpectRunningOnlyOn(host);
        }

        client.Finish();
        run.Judge(client.Report(start, DateTime.UtcNow));
        run.Verify(guest.Agent, written);
    }
}
