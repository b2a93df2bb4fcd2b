using Godwit.Api.V1;
using Godwit.Lab.Daemons;
using Godwit.Lab.Outside;
using Godwit.Lab.Qemu;

namespace Godwit.Lab.Scenarios;

/// <summary>Moves that have to succeed, one for each kind of guest memory and each way of moving it.</summary>
internal static class MoveScenarios
{
    private const string TextWriter = "set pattern=text rate=8M size=32M";

    internal static IEnumerable<Scenario> All { get; } =
    [
        new("demo", "A guest under load boots on a, moves to b and back", run => Play(run, TextWriter, ["b", "a"])),
        new("idle", "A guest that does nothing but answer", run => Play(run, "set pattern=idle", ["b"])),
        new("counters", "Counters move in otherwise constant pages", run =>
            Play(run, "set pattern=counters rate=16M size=64M", ["b"])),
        new("text", "Pages of text are written anew", run => Play(run, TextWriter, ["b"])),
        new("incompressible", "Pages of noise are written anew", run =>
            Play(run, "set pattern=incompressible rate=8M size=32M", ["b"])),
        new("carried", "Memory that is not mapped: QEMU's stream carries the contents", run =>
            Play(run, TextWriter, ["b"], backing: MemoryBacking.Private)),
        new("adaptive", "The adaptive rate limit of Clark et al. instead of full speed", run =>
            Play(run, TextWriter, ["b"], new MigrationPolicy { Pacing = Pacing.Adaptive })),
        new("qemu72", "The same with QEMU 7.2, which knows no switchover-ack", run =>
            Play(run, TextWriter, ["b"], daemonSettings: new Dictionary<string, string>
            {
                ["qemu"] = OlderQemu.Obtain(run.Display.Line),
            })),
    ];

    private static void Play(
        ScenarioRun run, string load, string[] hosts, MigrationPolicy? policy = null,
        MemoryBacking backing = MemoryBacking.Shared, IReadOnlyDictionary<string, string>? daemonSettings = null)
    {
        LabDaemons daemons = run.Own(LabDaemons.Start(daemonSettings));
        LabGuest guest = LabGuest.Boot(run, daemons, new GuestShape(1, 256, 1), backing);
        guest.Agent.Ask("files");
        guest.Agent.Ask(load);
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
