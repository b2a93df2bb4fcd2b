using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Migration.Tests;

public class SourceEngineTests
{
    private static readonly TimeSpan Long = TimeSpan.FromMinutes(5);

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void An_idle_guest_moves_and_each_page_crosses_once(bool shared)
    {
        var rig = new SourceRig(shared: shared);
        MigrationSnapshot end = rig.Run(Long);
        Assert.Equal(MigrationOutcome.Completed, end.Outcome);
        Assert.True(rig.Confirmed);
        Assert.Equal(4096, end.Rounds.Sum(r => r.Pages));
        Assert.Equal(1, end.Fraction);
    }

    // Goal: a guest whose memory is not shared and that writes more than the daemon has room to carry does not keep its
    // move waiting for ever. Found by the simulator.
    [Fact]
    public void A_guest_that_writes_more_than_can_be_carried_is_given_up()
    {
        var rig = new SourceRig(
            new MigrationPolicy { TimeMax = TimeSpan.FromSeconds(30), OnStall = OnStall.Abort },
            linkBytesPerSecond: 10e6, dirtyPagesPerSecond: 20_000, shared: false, carriedPagesMax: 1024);
        MigrationSnapshot end = rig.Run(TimeSpan.FromSeconds(60));
        Assert.Equal(MigrationOutcome.NotConverged, end.Outcome);
        Assert.True(end.Rounds.Count > 1, $"{end.Rounds.Count} rounds");
    }

    [Fact]
    public void A_writing_guest_arrives_with_its_newest_pages()
    {
        var rig = new SourceRig(dirtyPagesPerSecond: 3000, dirtyRange: 900);
        MigrationSnapshot end = rig.Run(Long);
        Assert.Equal(MigrationOutcome.Completed, end.Outcome);
        Assert.Equal(rig.Pages, rig.Destination.AsSpan(0, rig.Pages.Length).ToArray());
        Assert.True(end.Rounds.Count >= 2, "more than one round");
        Assert.True(end.Rounds.All(r => r.Duration >= TimeSpan.Zero && r.WireBytes >= 0));
    }

    [Fact]
    public void The_pause_stays_within_the_budget()
    {
        var policy = new MigrationPolicy { DowntimeMax = TimeSpan.FromMilliseconds(100) };
        var rig = new SourceRig(policy, dirtyPagesPerSecond: 12_000, dirtyRange: 2000);
        MigrationSnapshot end = rig.Run(Long);
        Assert.Equal(MigrationOutcome.Completed, end.Outcome);
        Assert.InRange(rig.PausedFor.TotalMilliseconds, 0, 100);
    }

    [Fact]
    public void A_guest_that_outruns_the_link_is_not_paused_but_given_up()
    {
        var rig = new SourceRig(dirtyPagesPerSecond: 60_000, dirtyRange: 4096, linkBytesPerSecond: 20e6);
        MigrationSnapshot end = rig.Run(Long);
        Assert.Equal(MigrationOutcome.NotConverged, end.Outcome);
        Assert.Equal("migration-not-converged", end.ErrorCode);
        Assert.Contains("web1 runs on a", end.Error, StringComparison.Ordinal);
        Assert.Equal(TimeSpan.Zero, rig.PausedFor);
        Assert.True(rig.Abandoned);
    }

    [Fact]
    public void A_user_who_accepts_any_pause_gets_one()
    {
        var policy = new MigrationPolicy { OnStall = OnStall.Pause };
        var rig = new SourceRig(policy, dirtyPagesPerSecond: 60_000, dirtyRange: 4096, linkBytesPerSecond: 20e6);
        MigrationSnapshot end = rig.Run(Long);
        Assert.Equal(MigrationOutcome.Completed, end.Outcome);
        Assert.True(rig.PausedFor > policy.DowntimeMax, $"paused for {rig.PausedFor}");
        Assert.Equal(rig.Pages, rig.Destination.AsSpan(0, rig.Pages.Length).ToArray());
    }

    [Theory]
    [InlineData(5)]
    [InlineData(50)]
    [InlineData(150)]
    public void A_cancel_before_the_commit_leaves_the_guest_where_it_was(int milliseconds)
    {
        var rig = new SourceRig();
        rig.Run(TimeSpan.FromMilliseconds(milliseconds));
        double before = rig.Engine.Snapshot(rig.Now).Fraction;
        Assert.True(rig.Engine.Cancel(rig.Now));
        MigrationSnapshot end = rig.Run(TimeSpan.FromSeconds(1));
        Assert.Equal(MigrationOutcome.Cancelled, end.Outcome);
        Assert.InRange(end.Fraction, before, before + 0.05);
        Assert.True(rig.GuestRuns);
        Assert.True(rig.Abandoned);
        Assert.False(rig.Confirmed);
    }

    // Goal: a cancel that the engine has accepted holds, although the commit is on disk already: nobody was told of it.
    [Fact]
    public void A_cancel_while_the_commit_is_recorded_keeps_the_guest()
    {
        SourceRig? rig = null;
        bool accepted = false;
        rig = new SourceRig { WhileCommitIsRecorded = () => accepted = rig!.Engine.Cancel(rig.Now) };
        MigrationSnapshot end = rig.Run(Long);
        Assert.True(accepted);
        Assert.Equal(MigrationOutcome.Cancelled, end.Outcome);
        Assert.True(rig.GuestRuns);
        Assert.DoesNotContain(rig.Effects, effect => effect is Effect.Send { Message: ControlMessage.Commit });
    }

    // Nobody has been told of the commit: it is taken back on disk before the guest goes on.
    [Fact]
    public void A_link_that_dies_while_the_commit_is_recorded_takes_it_back()
    {
        SourceRig? rig = null;
        rig = new SourceRig
        {
            WhileCommitIsRecorded = () =>
            {
                rig!.Engine.LinkLost("cut.", rig.Now);
                Assert.False(rig.Abandoned);
            },
        };
        MigrationSnapshot end = rig.Run(Long);
        Assert.Equal((MigrationOutcome.Failed, "link-lost"), (end.Outcome, end.ErrorCode));
        int reclaimed = rig.Effects.FindIndex(effect => effect is Effect.RecordReclaim);
        Assert.InRange(reclaimed, 0, rig.Effects.FindIndex(effect => effect is Effect.AbandonQemu));
        Assert.DoesNotContain(rig.Effects, effect => effect is Effect.Send { Message: ControlMessage.Commit });
        Assert.True(rig.GuestRuns);
    }

    [Fact]
    public void A_commit_that_cannot_be_recorded_leaves_the_guest_where_it_was()
    {
        var rig = new SourceRig { CommitFails = true };
        MigrationSnapshot end = rig.Run(Long);
        Assert.Equal((MigrationOutcome.Failed, "journal-unwritable"), (end.Outcome, end.ErrorCode));
        Assert.DoesNotContain(rig.Effects, effect => effect is Effect.Send { Message: ControlMessage.Commit });
        Assert.True(rig.GuestRuns);
    }

    // A destination whose QEMU alone has the memory cannot apply a delta: it has ended a move for one.
    [Fact]
    public void Deltas_are_for_a_destination_that_can_read_what_a_page_holds()
    {
        var rig = new SourceRig();
        rig.Run(TimeSpan.FromMilliseconds(5));
        Assert.Equal(0, rig.Engine.DeltaBytesMax);
        rig.Engine.Receive(new ControlMessage.InventoryReady(TakesDeltas: false), rig.Now);
        Assert.Equal(0, rig.Engine.DeltaBytesMax);
        rig.Engine.Receive(new ControlMessage.InventoryReady(TakesDeltas: true), rig.Now);
        Assert.InRange(rig.Engine.DeltaBytesMax, 1, Page.Size);
    }

    [Fact]
    public void A_cancel_after_the_commit_is_too_late()
    {
        var rig = new SourceRig();
        rig.Run(Long);
        Assert.False(rig.Engine.Cancel(rig.Now));
    }

    [Fact]
    public void A_destination_that_gives_up_cannot_declare_the_guest_lost()
    {
        var rig = new SourceRig();
        rig.Run(TimeSpan.FromMilliseconds(5));
        rig.Engine.Receive(new ControlMessage.Abort("guest-lost", "it is gone"), rig.Now);
        MigrationSnapshot end = rig.Run(TimeSpan.FromSeconds(1));
        Assert.Equal((MigrationOutcome.Failed, "destination-qemu"), (end.Outcome, end.ErrorCode));
        Assert.True(rig.GuestRuns);
    }

    [Fact]
    public void A_link_that_dies_in_the_pause_gives_the_guest_back_to_the_source()
    {
        var rig = new SourceRig(dirtyPagesPerSecond: 2000);
        MigrationSnapshot end = rig.Run(Long, r => r.LinkDead |= !r.GuestRuns);
        Assert.NotEqual(MigrationOutcome.Completed, end.Outcome);
        Assert.NotEqual(MigrationOutcome.Unsettled, end.Outcome);
        Assert.True(rig.Abandoned);
        Assert.InRange(rig.PausedFor.TotalSeconds, 0, 2);
    }

    [Fact]
    public void A_bandwidth_cap_holds()
    {
        var policy = new MigrationPolicy { BandwidthBitsPerSecond = 80_000_000 };
        var rig = new SourceRig(policy);
        double shown = 0;
        MigrationSnapshot end = rig.Run(
            Long, r => shown = Math.Max(shown, r.Engine.Snapshot(r.Now).WireBytesPerSecond));
        Assert.Equal(MigrationOutcome.Completed, end.Outcome);
        double seconds = end.Elapsed.TotalSeconds;
        Assert.InRange(end.WireBytes * 8 / seconds, 70e6, 82e6);
        // The link could do ten times as much; what is shown is what the cap leaves.
        Assert.InRange(shown * 8, 70e6, 80e6);
    }

    [Fact]
    public void Adaptive_pacing_begins_slow_and_follows_the_dirty_rate()
    {
        var policy = new MigrationPolicy { Pacing = Pacing.Adaptive };
        var rig = new SourceRig(policy, dirtyPagesPerSecond: 2000, dirtyRange: 1500);
        MigrationSnapshot end = rig.Run(Long);
        Assert.Equal(MigrationOutcome.Completed, end.Outcome);
        Assert.Equal(100_000_000, end.Rounds[0].RateBitsPerSecond);
        double fullSpeed = new SourceRig(dirtyPagesPerSecond: 2000, dirtyRange: 1500).Run(Long).Elapsed.TotalSeconds;
        Assert.True(end.Elapsed.TotalSeconds > fullSpeed, "the minimum rate of the first round costs time");
    }

    // A guest that writes the same 300 pages over and over: no round comes down to what is sent at full speed.
    [Fact]
    public void Adaptive_pacing_ends_when_rounds_leave_no_less()
    {
        var policy = new MigrationPolicy { Pacing = Pacing.Adaptive };
        var rig = new SourceRig(policy, dirtyPagesPerSecond: 8000, dirtyRange: 300);
        MigrationSnapshot end = rig.Run(Long);
        Assert.Equal(MigrationOutcome.Completed, end.Outcome);
        Assert.InRange(end.Rounds.Count, 3, 12);
    }

    [Fact]
    public void Progress_never_runs_backwards()
    {
        var rig = new SourceRig(dirtyPagesPerSecond: 15_000, dirtyRange: 3000, linkBytesPerSecond: 80e6);
        double last = 0;
        MigrationPhase phase = MigrationPhase.Preparing;
        rig.Run(Long, r =>
        {
            MigrationSnapshot s = r.Engine.Snapshot(r.Now);
            Assert.True(s.Fraction >= last, $"{s.Fraction} after {last}");
            Assert.True(s.Phase >= phase);
            (last, phase) = (s.Fraction, s.Phase);
        });
    }

    [Fact]
    public void A_destination_that_acknowledges_too_much_is_not_believed()
    {
        var rig = new SourceRig();
        rig.Run(TimeSpan.FromMilliseconds(20));
        Assert.Throws<Godwit.Pages.StreamFormatException>(
            () => rig.Engine.Receive(new ControlMessage.Received(long.MaxValue), rig.Now));
    }

    [Fact]
    public void Writes_that_qemu_misses_are_found_in_memory_and_sent_before_the_end()
    {
        SourceRig rig = new(dirtyPagesPerSecond: 2000, missesWrites: true);
        MigrationSnapshot end = rig.Run(TimeSpan.FromSeconds(30));
        Assert.Equal(("", MigrationOutcome.Completed), (end.Error, end.Outcome));
        Assert.True(rig.Differing > 0, "the model QEMU missed nothing");
        Assert.Equal(rig.Pages, rig.Destination[..rig.Pages.Length]);
    }
}
