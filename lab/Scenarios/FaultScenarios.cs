using Godwit.Api.V1;
using Godwit.Lab.Daemons;
using Godwit.Lab.Guests;
using Godwit.Lab.Network;
using Godwit.Lab.Outside;
using Godwit.Lab.Qemu;

namespace Godwit.Lab.Scenarios;

/// <summary>
/// Something is struck in a phase of a move, and comes back: exactly one host runs the guest, and nothing is lost.
/// </summary>
/// <remarks>
/// The link is slow in its delay, so that the phases around the pause last long enough to be struck. A cell that kills
/// the very QEMU that runs the guest ends with a guest that runs nowhere and can be started on one host only.
/// </remarks>
internal static class FaultScenarios
{
    private static readonly TimeSpan _absence = TimeSpan.FromSeconds(4);
    private static readonly TimeSpan _patience = TimeSpan.FromSeconds(60);
    private static readonly string[] _victims =
        ["source-daemon", "destination-daemon", "source-qemu", "destination-qemu", "link"];
    private static readonly MigrationPhase[] _phases =
        [MigrationPhase.Copying, MigrationPhase.Switchover, MigrationPhase.Committed];

    internal static IEnumerable<Scenario> All { get; } =
        from victim in _victims
        from phase in _phases
        from strike in victim == "link" ? new[] { "cut" } : ["kill", "stop"]
        let at = phase.ToString().ToLowerInvariant()
        select new Scenario(
            $"fault-{victim}-{at}-{strike}", $"A {strike} of the {victim} while the move is {at}",
            run => Play(run, victim, phase, strike), NeedsRelay: true);

    private static void Play(ScenarioRun run, string victim, MigrationPhase phase, string strike)
    {
        LabDaemons daemons = run.Own(LabDaemons.Start());
        LabGuest guest = LabGuest.Boot(run, daemons, new GuestShape(1, 256, 1, Redis: true), MemoryBacking.Shared);
        RedisWriter writer = run.Own(new RedisWriter(guest.Shape.Address, run.Stopped, reconnects: true));
        writer.Start();
        Relay.Order("b", "delay 150");
        int here = guest.On("a")!.ProcessId;
        Migration move = daemons["a"].StartMigration(new StartMigrationRequest
        {
            Guest = guest.Name,
            To = "b",
            Policy = new MigrationPolicy { MaxDowntimeMs = 5_000, BandwidthBitsPerSecond = 200_000_000 },
        });
        run.Display.Line($"Moving {guest.Name} from a to b; a {strike} of the {victim} comes when it is {phase}");
        Wait.Until(
            () => (move = daemons["a"].GetMigration(new MigrationRequest { Id = move.Id })).Phase >= phase
                && (phase != MigrationPhase.Copying || move.Progress?.SentBytes > 4 << 20),
            _patience, $"the move to be {phase}", run.Stopped);
        run.Expect(move.Phase == phase, $"the strike came too late: the move was {move.Phase}");
        Strike(run, daemons, victim, strike, here);
        Relay.Order("b", "delay 0.2");
        bool mayDie = strike == "kill" && victim.EndsWith("qemu", StringComparison.Ordinal);
        Judge(run, daemons, guest, writer, mayDie);
    }

    private static void Strike(ScenarioRun run, LabDaemons daemons, string victim, string strike, int sourceQemu)
    {
        string host = victim.StartsWith("source", StringComparison.Ordinal) ? "a" : "b";
        int process = victim switch
        {
            "source-qemu" => sourceQemu,
            "destination-qemu" => QemusOf(host).Single(),
            "link" => 0,
            _ => LabDaemons.ProcessOf(host),
        };
        switch (strike)
        {
            case "cut":
                Relay.Order("b", "cut");
                run.Pause(_absence);
                Relay.Order("b", "mend");
                break;
            case "stop":
                LabProcesses.Signal(process, "STOP");
                run.Pause(_absence);
                LabProcesses.Signal(process, "CONT");
                break;
            default:
                LabProcesses.Signal(process, "KILL");
                run.Pause(TimeSpan.FromSeconds(0.5));
                if (victim.EndsWith("daemon", StringComparison.Ordinal))
                {
                    daemons.Restart(host);
                }

                break;
        }
    }

    private static void Judge(
        ScenarioRun run, LabDaemons daemons, LabGuest guest, RedisWriter writer, bool mayDie)
    {
        Dictionary<string, Guest?> seen = [];
        Wait.Until(
            () =>
            {
                foreach (string host in LabNetwork.Hosts)
                {
                    seen[host] = guest.On(host);
                }

                return seen.Values.All(one => one is null
                    || (one.MigrationId.Length == 0 && one.State is not (GuestState.Incoming or GuestState.Migrating)))
                    && seen.Values.Any(one => one is { State: GuestState.Running or GuestState.Failed });
            },
            _patience, "the move to be settled", run.Stopped);
        string state = string.Join(
            ", ", seen.Select(each => $"{each.Key}: {each.Value?.State.ToString() ?? "unknown"}"));
        run.Display.Line($"  {state}");
        int running = seen.Values.Count(one => one is { State: GuestState.Running });
        if (running == 0 && mayDie)
        {
            foreach (string host in LabNetwork.Hosts.Where(host => seen[host] is { State: GuestState.Failed }))
            {
                daemons[host].StartGuest(new GuestRequest { Name = guest.Name });
            }
        }
        else
        {
            run.Expect(running == 1, $"the guest runs on {running} hosts ({state})");
            long acknowledged = writer.Finish();
            (int missing, int looked) = writer.Compare();
            run.Display.Line($"  redis: {acknowledged} writes acknowledged, {looked} keys read, {missing} missing");
            run.Expect(missing == 0, $"{missing} acknowledged writes are not there");
            run.Verify(guest.Agent, 0);
        }

        int qemus = LabNetwork.Hosts.Sum(host => QemusOf(host).Count());
        run.Expect(qemus == 1, $"{qemus} QEMUs are there; there should be one");
    }

    private static IEnumerable<int> QemusOf(string host) =>
        LabProcesses.In(LabDirectory.Namespace(host)).Where(LabProcesses.IsQemu);
}
