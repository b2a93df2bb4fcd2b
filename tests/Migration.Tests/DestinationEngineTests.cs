using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Migration.Tests;

public class DestinationEngineTests
{
    private static readonly TimeSpan T = TimeSpan.FromSeconds(1);

    [Fact]
    public void Device_state_waits_for_every_lanes_barrier_and_the_guest_for_the_commit()
    {
        DestinationEngine engine = Begun();
        engine.Receive(new ControlMessage.DeviceState(new byte[] { 4, 1 }), T);
        engine.LaneBarrier(1, 0, T);
        Assert.DoesNotContain(Take(engine), e => e is Effect.WriteDeviceState or Effect.WriteEnd);

        engine.LaneBarrier(2, 0, T);
        List<Effect> effects = Take(engine);
        int end = effects.FindIndex(e => e is Effect.WriteEnd);
        int state = effects.FindIndex(e => e is Effect.WriteDeviceState);
        Assert.True(end >= 0 && state > end, "RAM's last section comes before device state");

        engine.QemuShut(0, T);
        effects = Take(engine);
        Assert.Contains(effects, e => e is Effect.Send { Message: ControlMessage.Loaded });
        Assert.DoesNotContain(effects, e => e is Effect.RecordResuming or Effect.RunGuest);

        engine.Receive(new ControlMessage.Commit(), T);
        Assert.Equal([new Effect.RecordResuming()], Take(engine));
        engine.ResumingRecorded(T);
        Assert.Equal([new Effect.RunGuest()], Take(engine));
        engine.GuestRunning(T, T, default, T);
        Assert.Equal(MigrationOutcome.Completed, engine.Outcome);
    }

    // Barriers travel on the page lanes and may overtake what the control lane still carries: seen with real QEMU.
    [Fact]
    public void The_command_before_RAMs_end_may_come_after_the_barriers()
    {
        DestinationEngine engine = Begun();
        engine.LaneBarrier(1, 0, T);
        engine.LaneBarrier(2, 0, T);
        engine.Receive(new ControlMessage.StreamCommand(11, default), T);
        engine.Receive(new ControlMessage.DeviceState(new byte[] { 4 }), T);
        Effect[] written =
            [.. Take(engine).Where(e => e is Effect.WriteCommand or Effect.WriteEnd or Effect.WriteDeviceState)];
        Assert.Collection(
            written, e => Assert.IsType<Effect.WriteCommand>(e), e => Assert.IsType<Effect.WriteEnd>(e),
            e => Assert.IsType<Effect.WriteDeviceState>(e));
    }

    [Fact]
    public void A_commit_before_the_guest_is_loaded_is_out_of_turn()
    {
        DestinationEngine engine = Begun();
        Assert.Throws<StreamFormatException>(() => engine.Receive(new ControlMessage.Commit(), T));
    }

    [Fact]
    public void What_the_source_has_called_off_counts_as_abandoned()
    {
        DestinationEngine engine = Begun();
        engine.Receive(new ControlMessage.Abort("migration-cancelled", "cancelled"), T);
        Take(engine);
        Assert.True(engine.Abandon("no longer wanted", T));
        Assert.Empty(Take(engine));
        Assert.Equal(MigrationOutcome.Failed, engine.Outcome);
    }

    [Fact]
    public void A_link_lost_before_the_commit_means_never_running_here()
    {
        DestinationEngine engine = Loaded();
        engine.LinkLost("cut", T);
        Assert.Equal(MigrationOutcome.Failed, engine.Outcome);
        engine.Receive(new ControlMessage.Commit(), T);
        Assert.DoesNotContain(Take(engine), e => e is Effect.RecordResuming or Effect.RunGuest);
    }

    [Fact]
    public void A_link_lost_after_the_commit_does_not_stop_the_resume()
    {
        DestinationEngine engine = Loaded();
        engine.Receive(new ControlMessage.Commit(), T);
        engine.LinkLost("cut", T);
        engine.ResumingRecorded(T);
        Assert.Contains(Take(engine), e => e is Effect.RunGuest);
        engine.GuestRunning(T, T, default, T);
        Assert.Equal(MigrationOutcome.Completed, engine.Outcome);
    }

    // A source whose QEMU dies behind its commit closes all lanes at once, and asks: in any order.
    [Fact]
    public void A_page_lane_that_breaks_once_the_guest_is_loaded_does_not_outrun_the_commit()
    {
        DestinationEngine engine = Loaded();
        engine.LaneLost("reset", T);
        Assert.Empty(Take(engine));
        engine.Receive(new ControlMessage.Commit(), T);
        Assert.Equal([new Effect.RecordResuming()], Take(engine));
    }

    [Fact]
    public void A_page_lane_that_breaks_before_means_never_running_here()
    {
        DestinationEngine engine = Begun();
        engine.LaneLost("reset", T);
        Assert.Equal(MigrationOutcome.Failed, engine.Outcome);
    }

    [Fact]
    public void A_commit_that_is_told_without_lanes_counts_once_the_guest_is_loaded()
    {
        DestinationEngine engine = Loaded();
        engine.CommitTold(T);
        Assert.Equal([new Effect.RecordResuming()], Take(engine));
        engine.LinkLost("closed", T);
        engine.ResumingRecorded(T);
        Assert.Contains(Take(engine), e => e is Effect.RunGuest);
        engine.CommitTold(T);
        Assert.Empty(Take(engine));
    }

    [Fact]
    public void A_commit_that_is_told_without_lanes_ends_what_is_not_loaded()
    {
        DestinationEngine engine = Begun();
        engine.CommitTold(T);
        Assert.Equal(MigrationOutcome.Failed, engine.Outcome);
        Assert.DoesNotContain(Take(engine), e => e is Effect.RecordResuming);
    }

    [Fact]
    public void A_resume_that_cannot_be_recorded_does_not_happen()
    {
        DestinationEngine engine = Committed();
        engine.ResumingNotRecorded("the disk is full.", T);
        Assert.DoesNotContain(Take(engine), e => e is Effect.RunGuest);
        Assert.Equal("destination-resume", engine.Snapshot(T).ErrorCode);
    }

    // Its QEMU dies after the commit and before it has been told to run: the source has not lost its guest.
    [Fact]
    public void A_QEMU_that_dies_before_it_is_told_to_run_gives_the_guest_back()
    {
        DestinationEngine engine = Committed();
        engine.QemuFailed("QEMU has ended.", T);
        engine.ResumingRecorded(T);
        Assert.Equal([new Effect.RecordRefusal()], Take(engine));
        engine.RefusalRecorded(T);
        Assert.Contains(
            Take(engine), e => e is Effect.Send { Message: ControlMessage.Abort { Code: "destination-resume" } });
    }

    [Fact]
    public void A_QEMU_that_dies_once_it_has_been_told_to_run_has_lost_the_guest()
    {
        DestinationEngine engine = Committed();
        engine.ResumingRecorded(T);
        Take(engine);
        engine.QemuFailed("QEMU has ended.", T);
        Assert.Equal([new Effect.End()], Take(engine));
        Assert.Equal("guest-lost", engine.Snapshot(T).ErrorCode);
    }

    [Fact]
    public void A_refusal_that_cannot_be_recorded_is_not_told()
    {
        DestinationEngine engine = Committed();
        engine.ResumingRecorded(T);
        engine.RunRefused("the disk is locked.", T);
        Take(engine);
        engine.RefusalNotRecorded("the journal's disk is full.", T);
        Assert.Equal([new Effect.End()], Take(engine));
    }

    [Fact]
    public void A_guest_that_QEMU_refuses_is_reported_and_never_runs()
    {
        DestinationEngine engine = Begun();
        engine.LaneBarrier(1, 0, T);
        engine.LaneBarrier(2, 0, T);
        engine.QemuShut(1, T);
        Assert.Contains(
            Take(engine), e => e is Effect.Send { Message: ControlMessage.Abort { Code: "destination-load" } });
        Assert.Equal(MigrationOutcome.Failed, engine.Outcome);
    }

    [Fact]
    public void A_barrier_twice_on_one_lane_is_refused()
    {
        DestinationEngine engine = Begun();
        engine.LaneBarrier(1, 0, T);
        Assert.Throws<StreamFormatException>(() => engine.LaneBarrier(1, 0, T));
    }

    private static DestinationEngine Begun()
    {
        var engine = new DestinationEngine("web1", "a", 2, TimeSpan.Zero);
        var rig = new SourceRig(pages: 16);
        rig.Run(TimeSpan.FromMilliseconds(2));
        var sent = rig.Effects.OfType<Effect.Send>().Select(s => s.Message);
        engine.Receive(sent.OfType<ControlMessage.Prologue>().Single(), T);
        Assert.Equal(16 * Page.Size, engine.Blocks!.Single().Length);
        Take(engine);
        return engine;
    }

    private static DestinationEngine Loaded()
    {
        DestinationEngine engine = Begun();
        engine.LaneBarrier(1, 0, T);
        engine.LaneBarrier(2, 0, T);
        engine.QemuShut(0, T);
        Take(engine);
        return engine;
    }

    private static DestinationEngine Committed()
    {
        DestinationEngine engine = Loaded();
        engine.Receive(new ControlMessage.Commit(), T);
        Take(engine);
        return engine;
    }

    private static List<Effect> Take(DestinationEngine engine)
    {
        var effects = new List<Effect>();
        while (engine.TryTakeEffect(out Effect effect))
        {
            effects.Add(effect);
        }

        return effects;
    }
}
