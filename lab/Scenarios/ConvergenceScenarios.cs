using Godwit.Api.V1;
using Godwit.Lab.Daemons;
using Godwit.Lab.Network;
using Godwit.Lab.Outside;
using Godwit.Lab.Qemu;

namespace Godwit.Lab.Scenarios;

/// <summary>Moves of guests that rounds alone would never bring over: they have to end all the same.</summary>
internal static class ConvergenceScenarios
{
    // A sixteenth of the default link: an emulated processor cannot outrun a gigabit with certainty.
    private const ulong Narrow = 60_000_000;

    // Emulated processors that share two cores with everything else load a guest slowly.
    private const uint Patient = 3_000;

    // For a turn that is not made dependent on it: where others have the processors it takes seconds.
    private const uint VeryPatient = 10_000;

    internal static GuestLoad Writer { get; } = new(
        "writer", "noise over 64 MiB, ten times as fast as the link carries it",
        "set pattern=incompressible rate=75M size=64M");

    internal static GuestLoad Eager { get; } = new(
        "eager", "noise over 64 MiB, a little faster than the link carries it",
        "set pattern=incompressible rate=12M size=64M");

    internal static IEnumerable<Scenario> All { get; } =
    [
        new("postcopy", "The guest runs at the destination first, and its memory follows", run =>
            Play(
                run, GuestLoad.Text,
                new MigrationPolicy { Method = MigrationMethod.Postcopy, MaxDowntimeMs = VeryPatient }, "postcopy")),
        new("hybrid", "Rounds while they leave less, then the guest, then the rest", run =>
            Play(
                run, Eager,
                new MigrationPolicy
                {
                    Method = MigrationMethod.Hybrid, BandwidthBitsPerSecond = Narrow, MaxDowntimeMs = Patient,
                },
                "hybrid")),
        new("writer", "A guest that writes ten times as fast as the link carries, by the default policy", Outrun),
        new("throttle", "A guest that writes a little too fast, by a policy without postcopy", run =>
            Play(
                run, Eager,
                new MigrationPolicy { BandwidthBitsPerSecond = 80_000_000, Ladder = "safe" }, "precopy")),
        new("bandwidth", "A cap on the rate, halved on the way, as the wire has it", Bandwidth),
        new(
            "postcopy-cut", "The link breaks while the guest runs at the destination without half its memory", Cut,
            NeedsRelay: true),
        new(
            "postcopy-source-killed", "The source's daemon dies while the guest lacks memory that only it has",
            run => Kill(run, "a"), NeedsRelay: true),
        new(
            "postcopy-destination-killed", "The destination's daemon dies while the guest there lacks memory",
            run => Kill(run, "b"), NeedsRelay: true),
    ];

    // Ten times as fast as the link whatever the processors manage: only then is postcopy the way, and slowing is not.
    private static void Outrun(ScenarioRun run)
    {
        MigrationPolicy policy = new() { BandwidthBitsPerSecond = Narrow, MaxDowntimeMs = 2 * Patient };
        Play(run, Writer, policy, "hybrid", null, guest =>
        {
            GuestPace from = GuestPace.Take(guest.Agent);
            run.Pause(TimeSpan.FromSeconds(3));
            double bits = GuestPace.Take(guest.Agent).SinceAtLeast(from) * 4096 * 8;
            policy.BandwidthBitsPerSecond = Math.Clamp((ulong)(bits / 10), 8_000_000, Narrow);
            run.Display.Line($"  it writes {bits / 1e6:0} Mbit/s; {policy.BandwidthBitsPerSecond / 1e6:0} may cross");
        });
    }

    // By the uplink's own counter, headers of every layer included; the client's few packets are in it too.
    private static void Bandwidth(ScenarioRun run)
    {
        const ulong first = 80_000_000;
        const ulong second = 40_000_000;
        List<(DateTime At, long Bytes, ulong Cap)> seen = [];
        ulong cap = first;
        Play(
            run, new GuestLoad("full", "", "set pattern=incompressible rate=64M size=96M"),
            new MigrationPolicy { BandwidthBitsPerSecond = first, MaxDowntimeMs = Patient }, null,
            (daemons, state) =>
            {
                if (state.Phase != MigrationPhase.Copying || state.Rounds.Count > 0 || state.Progress.SentBytes == 0)
                {
                    return;
                }

                seen.Add((DateTime.UtcNow, LabNetwork.UplinkBytes("a"), cap));
                if (cap == first && seen[^1].At - seen[0].At > TimeSpan.FromSeconds(4))
                {
                    cap = second;
                    daemons["a"].ChangeMigration(
                        new ChangeMigrationRequest { Id = state.Id, BandwidthBitsPerSecond = second });
                }
            });
        foreach (var asked in seen.GroupBy(one => one.Cap))
        {
            // What was on the way before the change has gone after half a second.
            DateTime from = asked.First().At + TimeSpan.FromSeconds(0.5);
            (DateTime At, long Bytes, ulong Cap)[] samples = [.. asked.Where(one => one.At >= from)];
            if (samples.Length < 2)
            {
                run.Fail($"the move was too short to see a cap of {asked.Key / 1e6:0} Mbit/s");
                continue;
            }

            double rate = (samples[^1].Bytes - samples[0].Bytes) * 8 / (samples[^1].At - samples[0].At).TotalSeconds;
            run.Display.Line(
                $"  {asked.Key / 1e6:0} Mbit/s asked, {rate / 1e6:0.0} on the wire "
                + $"over {(samples[^1].At - samples[0].At).TotalSeconds:0.0} s");
            // Below it the machine may be too busy; above it there is no excuse.
            run.Expect(rate <= asked.Key * 1.05, $"{rate / 1e6:0.0} Mbit/s crossed; {asked.Key / 1e6:0} were asked");
        }

        run.Expect(seen.Any(one => one.Cap == second), "the cap was never changed");
    }

    /// <param name="method">By which it has to come over; null for any.</param>
    internal static void Play(ScenarioRun run, GuestLoad load, MigrationPolicy policy, string? method) =>
        Play(run, load, policy, method, null);

    private static void Play(
        ScenarioRun run, GuestLoad load, MigrationPolicy policy, string? method,
        Action<LabDaemons, Migration>? meanwhile, Action<LabGuest>? before = null)
    {
        LabDaemons daemons = run.Own(LabDaemons.Start());
        LabGuest guest = LabGuest.Boot(run, daemons, load.Shape, MemoryBacking.Shared);
        load.Begin(run, guest.Agent);
        OutsideClient client = run.Own(OutsideClient.Start(guest.Shape.Address));
        DateTime start = DateTime.UtcNow;
        long written = guest.Agent.PagesWritten();
        before?.Invoke(guest);
        MoveResult move = guest.Move(
            "b", client, policy, meanwhile is null ? null : state => meanwhile(daemons, state));
        run.Expect(move.Outcome == "completed", $"the move ended as \"{move.Outcome}\": {move.Error}");
        run.Expect(method is null || move.Method == method, $"the move went by {move.Method}, not by {method}");
        if (move.Outcome == "completed")
        {
            guest.ExpectRunningOnlyOn("b");
        }

        client.Finish();
        run.Judge(client.Report(start, DateTime.UtcNow));
        run.Verify(guest.Agent, written);
    }

    // Not before the destination has said that the guest runs: one that dies earlier never runs it, and rightly so.
    private static bool IsFetching(Migration state) =>
        state.Progress?.Verdict == "fetching" && state.DowntimeMs > 0 && state.Progress.RemainingBytes > 8 << 20;

    // Slow enough that there is something left to bring when somebody who looks now and then has seen it.
    private static MigrationPolicy Slow => new()
    {
        Method = MigrationMethod.Postcopy, BandwidthBitsPerSecond = 30_000_000, MaxDowntimeMs = VeryPatient,
    };

    private static void Cut(ScenarioRun run)
    {
        bool cut = false;
        Play(run, GuestLoad.Text, Slow, "postcopy", (_, state) =>
        {
            if (!cut && IsFetching(state))
            {
                cut = true;
                run.Display.Line("  cutting the link for 3 s");
                Relay.Order("b", "cut");
                run.Pause(TimeSpan.FromSeconds(3));
                Relay.Order("b", "mend");
            }
        });
        run.Expect(cut, "the link was never cut: the move was over too soon");
    }

    private static void Kill(ScenarioRun run, string host)
    {
        bool killed = false;
        LabDaemons daemons = run.Own(LabDaemons.Start());
        LabGuest guest = LabGuest.Boot(run, daemons, GuestLoad.Text.Shape, MemoryBacking.Shared);
        GuestLoad.Text.Begin(run, guest.Agent);
        OutsideClient client = run.Own(OutsideClient.Start(guest.Shape.Address));
        DateTime start = DateTime.UtcNow;
        long written = guest.Agent.PagesWritten();
        Migration move = daemons["a"].StartMigration(
            new StartMigrationRequest { Guest = guest.Name, To = "b", Policy = Slow });
        string id = move.Id;
        Wait.Until(
            () =>
            {
                move = daemons["a"].GetMigration(new MigrationRequest { Id = id });
                return IsFetching(move) || move.Phase == MigrationPhase.Ended;
            },
            TimeSpan.FromMinutes(5), "the guest to run at the destination", run.Stopped);
        if (IsFetching(move))
        {
            killed = true;
            run.Display.Line($"  killing the daemon of host {host}");
            LabProcesses.Signal(LabDaemons.ProcessOf(host), LabSignal.Kill);
            run.Pause(TimeSpan.FromSeconds(0.5));
            daemons.Restart(host);
        }

        run.Expect(killed, $"nobody was killed: the move was over too soon ({move.ErrorCode}: {move.Error})");
        Wait.Until(
            () => (move = daemons["a"].GetMigration(new MigrationRequest { Id = id })).Phase == MigrationPhase.Ended
                && move.Outcome != MigrationOutcome.Unsettled,
            TimeSpan.FromMinutes(5), "the move to end", run.Stopped);
        run.Expect(move.Outcome == MigrationOutcome.Completed, $"it ended as {move.Outcome}: {move.Error}");
        guest.ExpectRunningOnlyOn("b");
        client.Finish();
        run.Judge(client.Report(start, DateTime.UtcNow));
        run.Verify(guest.Agent, written);
    }
}
