using Godwit.Api.V1;
using Godwit.Daemon.Tests.Guests;

namespace Godwit.Daemon.Tests.Moves;

/// <summary>Moves of a real guest between two real godwitd, to their end and to every other end.</summary>
public sealed class MoveTests
{
    // The guest's 3 MiB of noise take about 25 seconds at this rate, which no test waits for: time enough to interfere.
    private static readonly MigrationPolicy Slow = new() { BandwidthBitsPerSecond = 1_000_000 };

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task A_guest_goes_there_and_back_and_loses_nothing()
    {
        // TCG emulates no such processor whole: what the guest lacks on both hosts is no obstacle.
        await using var pair = await MovePair.StartAsync(spec: spec => spec.CpuModel = "EPYC-v3");
        var move = await pair.MoveAsync(pair.A, "b");
        Assert.Equal(("a", "b", "b", "shared"), (move.From, move.To, move.GuestRunsOn, move.MemoryBacking));
        Assert.True(move.DowntimeMs > 0 && move.WireBytes > 3 << 20 && move.Rounds.Count > 0, $"{move}");
        var there = await pair.GuestAtAsync(pair.B);
        Assert.Equal((GuestState.Running, "b"), (there?.State, there?.Host));
        var left = await pair.GuestAtAsync(pair.A);
        Assert.Equal((GuestState.Elsewhere, "b", 0), (left?.State, left?.Host, left?.ProcessId));
        Assert.False(Processes.Runs(pair.Guest.ProcessId));
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        var atA = CountingGuest.Console(pair.A, pair.Guest);
        CountingGuest.IsUnbroken(atA + CountingGuest.Console(pair.B, pair.Guest));
        // Both hosts keep the report.
        Assert.Equal(move.WireBytes, (await MovePair.ReportAsync(pair.B, move.Id)).WireBytes);

        await pair.MoveAsync(pair.B, "a");
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        var back = await pair.GuestAtAsync(pair.A);
        Assert.Equal((GuestState.Running, "a"), (back?.State, back?.Host));
        Assert.False(Processes.Runs(there!.ProcessId));
        CountingGuest.IsUnbroken(
            atA + CountingGuest.Console(pair.B, pair.Guest) + CountingGuest.Console(pair.A, pair.Guest)[atA.Length..]);
    }

    // Goal: like guests that move one after another share what the first of them brought, if they may.
    [Theory]
    [InlineData(ContentSharing.Host)]
    [InlineData(ContentSharing.Guest)]
    public async Task A_guest_is_held_against_what_runs_there_only_if_it_may_be(ContentSharing share)
    {
        await using var pair = await MovePair.StartAsync();
        using var like = new CountingGuest("like");
        await like.BootAsync(pair.B);
        var move = await MovePair.EndAsync(
            pair.A, await pair.StartMoveAsync(pair.A, "b", new MigrationPolicy
            {
                Share = share, MaxDowntimeMs = MovePair.PatientDowntimeMs,
            }));
        Assert.Equal(MigrationOutcome.Completed, move.Outcome);
        move.SavedBytes.TryGetValue("knownSibling", out var saved);
        Assert.True(share == ContentSharing.Host ? saved > 2 << 20 : saved == 0, $"{saved} bytes were known");
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
    }

    [Fact]
    public async Task A_cancelled_guest_runs_on_where_it_was_and_can_move_later()
    {
        await using var pair = await MovePair.StartAsync();
        var move = await pair.StartMoveAsync(pair.A, "b", Slow);
        await MovePair.UntilCopyingAsync(pair.A, move);
        Assert.Equal(GuestState.Migrating, (await pair.GuestAtAsync(pair.A))?.State);
        Assert.Equal(GuestState.Incoming, (await pair.GuestAtAsync(pair.B))?.State);
        await Refusals.RefusedAsync("guest-state", () => pair.StartMoveAsync(pair.A, "b"));
        var cancelled = await pair.A.Control.CancelMigrationAsync(
            new MigrationRequest { Id = move.Id }, cancellationToken: Token);
        Assert.Equal((MigrationOutcome.Cancelled, "a"), (cancelled.Outcome, cancelled.GuestRunsOn));
        await pair.IsUntouchedAsync();
        await Refusals.RefusedAsync("migration-over", async () => await pair.A.Control.CancelMigrationAsync(
            new MigrationRequest { Id = move.Id }, cancellationToken: Token));
        await pair.MoveAsync(pair.A, "b");
    }

    [Fact]
    public async Task A_destination_daemon_that_dies_leaves_the_guest_at_the_source()
    {
        await using var pair = await MovePair.StartAsync();
        var move = await pair.StartMoveAsync(pair.A, "b", Slow);
        await MovePair.UntilCopyingAsync(pair.A, move);
        await pair.B.EndAsync(Processes.Killed);
        var failed = await MovePair.EndAsync(pair.A, move);
        Assert.Equal((MigrationOutcome.Failed, "link-lost", "a"),
            (failed.Outcome, failed.ErrorCode, failed.GuestRunsOn));
        Assert.Contains("counting runs on a", failed.Error, StringComparison.Ordinal);
        Assert.NotNull(Api.ErrorCatalog.Find(failed.ErrorCode));
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        // The QEMU that waited there for the rest is ended when the daemon is back.
        await pair.RestartBAsync();
        await pair.B.SaysAsync("was never committed");
        await pair.IsUntouchedAsync();
        await pair.MoveAsync(pair.A, "b");
    }

    [Fact]
    public async Task A_cancelled_move_can_be_begun_again_at_once()
    {
        await using var pair = await MovePair.StartAsync();
        for (var attempt = 0; attempt < 3; attempt++)
        {
            var move = await pair.StartMoveAsync(pair.A, "b", Slow);
            await MovePair.UntilCopyingAsync(pair.A, move);
            await pair.A.Control.CancelMigrationAsync(
                new MigrationRequest { Id = move.Id }, cancellationToken: Token);
            Assert.Equal(MigrationOutcome.Cancelled, (await MovePair.EndAsync(pair.A, move)).Outcome);
        }

        await pair.MoveAsync(pair.A, "b");
    }

    [Fact]
    public async Task A_guest_whose_QEMU_dies_during_the_move_is_said_to_run_nowhere()
    {
        await using var pair = await MovePair.StartAsync();
        var move = await pair.StartMoveAsync(pair.A, "b", Slow);
        await MovePair.UntilCopyingAsync(pair.A, move);
        Processes.Signal(pair.Guest.ProcessId, Processes.Killed);
        var failed = await MovePair.EndAsync(pair.A, move);
        Assert.Equal((MigrationOutcome.Failed, "guest-lost", ""),
            (failed.Outcome, failed.ErrorCode, failed.GuestRunsOn));
        Assert.Contains("it runs nowhere", failed.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("runs on", failed.Error, StringComparison.Ordinal);
    }

    // Goal: wherever the stream between the hosts ends short of the hand-over, the guest runs at the source.
    // Method: a relay before the destination's lanes cuts them all after so many bytes: in the handshakes, before the
    // first page, among the pages.
    [Fact]
    public async Task A_stream_that_is_cut_leaves_the_guest_at_the_source()
    {
        await using var pair = await MovePair.StartAsync(b: settings => settings with { Address = "127.0.0.2" });
        using var peers = new Relay("127.0.0.2", pair.B.Settings.PeerPort, long.MaxValue);
        foreach (var bytes in new[] { 1_000, 20_000, 2_000_000 })
        {
            using var lanes = new Relay("127.0.0.2", pair.B.Settings.LanePort, bytes);
            var failed = await MovePair.EndAsync(pair.A, await pair.StartMoveAsync(pair.A, "b"));
            Assert.Equal((MigrationOutcome.Failed, "link-lost", "a"),
                (failed.Outcome, failed.ErrorCode, failed.GuestRunsOn));
            Assert.Contains("counting runs on a", failed.Error, StringComparison.Ordinal);
            await pair.IsUntouchedAsync();
        }
    }

    [Fact]
    public async Task A_source_daemon_that_dies_finds_its_guest_running()
    {
        await using var pair = await MovePair.StartAsync();
        var move = await pair.StartMoveAsync(pair.A, "b", Slow);
        await MovePair.UntilCopyingAsync(pair.A, move);
        await pair.A.EndAsync(Processes.Killed);
        await pair.RestartAAsync();
        await pair.IsUntouchedAsync();
        var report = await MovePair.ReportAsync(pair.A, move.Id);
        Assert.Equal((MigrationPhase.Ended, MigrationOutcome.Failed, "daemon-ended", "a"),
            (report.Phase, report.Outcome, report.ErrorCode, report.GuestRunsOn));
        Assert.Contains("counting runs on a", report.Error, StringComparison.Ordinal);
        await pair.MoveAsync(pair.A, "b");
    }

    [Fact]
    public async Task A_forecast_knows_what_the_destination_holds()
    {
        await using var pair = await MovePair.StartAsync();
        async Task<MigrationPlan> PlanAsync(DaemonProcess from, string to, ContentSharing share) =>
            await from.Control.PlanMigrationAsync(
                new StartMigrationRequest
                {
                    Guest = pair.Program.Name, To = to, Policy = new MigrationPolicy { Share = share },
                },
                cancellationToken: Token);
        var first = await PlanAsync(pair.A, "b", ContentSharing.Guest);
        Assert.Contains("; 0 % of a sample is there already", first.Basis, StringComparison.Ordinal);
        await pair.MoveAsync(pair.A, "b");
        // Behind everything else that host a has to do.
        await Wait.UntilAsync(
            async () => (await pair.A.Control.ListInventoryAsync(new ListInventoryRequest(), cancellationToken: Token))
                .Entries.Any(entry => entry.Kind == "memory"), "what the guest left at host a is kept");

        // Nothing was asked of the guest and nothing is left of the question.
        var back = await PlanAsync(pair.B, "a", ContentSharing.Guest);
        var alone = await PlanAsync(pair.B, "a", ContentSharing.None);
        Assert.True(back.BytesHigh < first.BytesLow / 4, $"{first.Basis}; {back.Basis}");
        Assert.Contains("; 0 % of a sample is there already", alone.Basis, StringComparison.Ordinal);
        await pair.MoveAsync(pair.B, "a");
    }
}
