using Godwit.Api.V1;
using Godwit.Lab.Daemons;
using Godwit.Lab.Network;
using Godwit.Lab.Outside;
using Godwit.Lab.Qemu;

namespace Godwit.Lab.Scenarios;

/// <summary>Moves that must not succeed: the guest has to go on at its source as if nothing had been.</summary>
internal static class InterferenceScenarios
{
    private static readonly GuestLoad _torrent =
        new("torrent", "noise as fast as it can be written", "set pattern=incompressible rate=0 size=128M");

    // The first pass over the memory takes many times as long as what is waited for in it.
    private const ulong HalfWayLasts = 40_000_000;

    internal static IEnumerable<Scenario> All { get; } =
    [
        new(
            "cancel", "The move is cancelled half way; the guest runs on at full speed, and can still move later",
            Cancel),
        new("stall", "The guest writes faster than the link carries: the move gives up in good order", Stall),
        new("cut", "The link breaks in the middle of the move; the guest runs on at its source", Cut, NeedsRelay: true),
    ];

    private static void Cancel(ScenarioRun run)
    {
        (LabDaemons daemons, LabGuest guest, OutsideClient client) = Begin(run, GuestLoad.Text);
        DateTime start = DateTime.UtcNow;
        long written = guest.Agent.PagesWritten();
        double pace = PaceOf(run, guest);
        // Slow enough that half way lasts.
        MigrationPolicy slow = new() { BandwidthBitsPerSecond = HalfWayLasts };
        bool asked = false;
        MoveResult stopped = guest.Move("b", client, slow, state =>
        {
            if (!asked && state.Phase == MigrationPhase.Copying && state.Progress?.SentBytes > 4 << 20)
            {
                asked = true;
                daemons["a"].CancelMigration(new MigrationRequest { Id = state.Id });
            }
        });
        run.Expect(
            stopped.Outcome == "cancelled", $"the cancelled move ended as \"{stopped.Outcome}\": {stopped.Error}");
        ExpectUntouched(run, guest, pace);
        MoveResult move = guest.Move("b", client, new MigrationPolicy());
        run.Expect(move.Outcome == "completed", $"the move after the cancelled one: \"{move.Outcome}\": {move.Error}");
        End(run, guest, client, start, written);
    }

    private static void Stall(ScenarioRun run)
    {
        (_, LabGuest guest, OutsideClient client) = Begin(run, _torrent);
        DateTime start = DateTime.UtcNow;
        long written = guest.Agent.PagesWritten();
        // A twenty-fifth of the default link: an emulated CPU cannot outrun a gigabit with certainty. And a pause that
        // what it has written does not fit into.
        MigrationPolicy policy = new()
        {
            BandwidthBitsPerSecond = 40_000_000, MaxDowntimeMs = 300, OnStall = OnStall.Abort, TimeoutSeconds = 60,
            MaxRounds = 8, Ladder = "strict",
        };
        MoveResult move = guest.Move("b", client, policy);
        run.Expect(move.Outcome == "not converged", $"the hopeless move ended as \"{move.Outcome}\": {move.Error}");
        guest.Agent.Ask("set rate=8M");
        ExpectUntouched(run, guest, null);
        End(run, guest, client, start, written);
    }

    private static void Cut(ScenarioRun run)
    {
        (_, LabGuest guest, OutsideClient client) = Begin(run, GuestLoad.Text);
        DateTime start = DateTime.UtcNow;
        long written = guest.Agent.PagesWritten();
        double pace = PaceOf(run, guest);
        bool cut = false;
        MigrationPolicy slow = new() { BandwidthBitsPerSecond = HalfWayLasts };
        // The cable of b, so that the client still reaches the guest on a.
        MoveResult move = guest.Move("b", client, slow, state =>
        {
            if (!cut && state.Phase == MigrationPhase.Copying && state.Progress?.SentBytes > 4 << 20)
            {
                cut = true;
                Relay.Order("b", "cut");
            }
        });
        Relay.Order("b", "mend");
        run.Expect(move.Outcome == "failed", $"the move over a cut link ended as \"{move.Outcome}\"");
        run.Expect(move.Error is not null, "the failed move does not say why");
        ExpectUntouched(run, guest, pace);
        End(run, guest, client, start, written);
    }

    private static (LabDaemons Daemons, LabGuest Guest, OutsideClient Client) Begin(ScenarioRun run, GuestLoad load)
    {
        LabDaemons daemons = run.Own(LabDaemons.Start());
        LabGuest guest = LabGuest.Boot(run, daemons, new GuestShape(1, 256, 1), MemoryBacking.Shared);
        load.Begin(run, guest.Agent);
        return (daemons, guest, run.Own(OutsideClient.Start(guest.Shape.Address)));
    }

    /// <param name="pace">What it wrote before the move, or null if it has been told to write at another rate.</param>
    private static void ExpectUntouched(ScenarioRun run, LabGuest guest, double? pace)
    {
        guest.ExpectRunningOnlyOn("a");
        if (pace is { } before)
        {
            // In one second it may be slow because others have the processors; one that was left slowed stays slow.
            Wait.Until(
                () => PaceOf(run, guest) >= 0.7 * before, TimeSpan.FromMinutes(3),
                $"the guest to be as fast as before the move, when it wrote {before:0} pages/s", run.Stopped);
        }
    }

    private static double PaceOf(ScenarioRun run, LabGuest guest)
    {
        GuestPace from = GuestPace.Take(guest.Agent);
        run.Pause(TimeSpan.FromSeconds(1));
        return GuestPace.Take(guest.Agent).PerGuestSecond(from);
    }

    private static void End(ScenarioRun run, LabGuest guest, OutsideClient client, DateTime start, long written)
    {
        client.Finish();
        run.Judge(client.Report(start, DateTime.UtcNow));
        run.Verify(guest.Agent, written);
    }
}
