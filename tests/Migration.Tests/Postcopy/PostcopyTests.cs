using Godwit.GuestStreams.Qemu;
using Godwit.Migration.Postcopy;
using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Migration.Tests.Postcopy;

public class PostcopyTests
{
    private static readonly MigrationPolicy _postcopy = new() { Method = MigrationMethod.Postcopy };
    private static readonly MigrationPolicy _hybrid = new()
    {
        Method = MigrationMethod.Hybrid, DowntimeMax = TimeSpan.FromMilliseconds(70),
    };

    // Ever the same pages, all of them within a millisecond: too many for the pause.
    private static Func<bool> Writing(PostcopyRig rig, Func<bool>? until = null) => () =>
    {
        for (int page = 100; page < 2600; page++)
        {
            rig.Write(page);
        }

        return until?.Invoke() == true;
    };

    [Fact]
    public void The_guest_runs_first_and_each_page_comes_once()
    {
        var rig = new PostcopyRig(_postcopy);
        rig.Run(5000, () => rig.RunsAtDestination);
        Assert.True(rig.RunsAtDestination);
        Assert.False(rig.RunsAtSource);
        Assert.Equal("fetching", rig.Source.Snapshot(rig.Now).Verdict);
        rig.Run(5000);
        MigrationSnapshot end = rig.Source.Snapshot(rig.Now);
        Assert.Equal((MigrationOutcome.Completed, "postcopy"), (end.Outcome, end.Method));
        Assert.Equal(rig.SourceMemory.Select(page => (int?)page), rig.DestinationMemory);
        Assert.Equal(MigrationOutcome.Completed, rig.Destination.Outcome);
        Assert.Equal(rig.Delivered.Count, rig.Delivered.Distinct().Count());
    }

    [Fact]
    public void A_hybrid_sends_everything_once_before_and_what_was_written_since_behind()
    {
        var rig = new PostcopyRig(_hybrid, pages: 4096);
        rig.Run(5000, Writing(rig));
        MigrationSnapshot end = rig.Source.Snapshot(rig.Now);
        Assert.Equal((MigrationOutcome.Completed, "hybrid"), (end.Outcome, end.Method));
        Assert.Equal(rig.SourceMemory.Select(page => (int?)page), rig.DestinationMemory);
        Assert.Equal(rig.Pages, rig.PagesSentInPrecopy);
        Assert.Equal(Enumerable.Range(100, 2500).Select(page => (long)page), rig.Delivered.Order());
    }

    // The list of what is missing and the device state have to cross while the guest stands still.
    [Fact]
    public void A_turn_that_would_not_keep_the_pause_budget_is_not_taken()
    {
        var rig = new PostcopyRig(_postcopy with { DowntimeMax = TimeSpan.FromMilliseconds(50) }, pages: 4096);
        rig.Run(3000, Writing(rig, () => rig.Source.Snapshot(rig.Now).Rounds.Count == 2));
        MigrationSnapshot going = rig.Source.Snapshot(rig.Now);
        Assert.False(rig.Source.InPostcopy);
        Assert.True(rig.RunsAtSource && going.Rounds.Count > 0);
        Assert.Contains("would pause the guest for", going.Next, StringComparison.Ordinal);
        // The user allows a longer pause, and it turns.
        Assert.True(rig.Source.SetDowntimeMax(TimeSpan.FromMilliseconds(70), rig.Now));
        rig.Run(5000, Writing(rig, () => rig.RunsAtDestination));
        Assert.True(rig.RunsAtDestination && rig.Source.InPostcopy);
    }

    [Fact]
    public void A_device_state_that_is_too_large_for_the_pause_gives_the_guest_back()
    {
        // At 64 pages a millisecond 16 MB take as many.
        var rig = new PostcopyRig(_hybrid, pages: 8192) { DeviceStateBytes = 16 << 20 };
        rig.Run(5000, Writing(rig, () => rig.Source.Phase == MigrationPhase.Ended));
        MigrationSnapshot end = rig.Source.Snapshot(rig.Now);
        Assert.Equal((MigrationOutcome.NotConverged, "pause-budget"), (end.Outcome, end.ErrorCode));
        Assert.True(rig.TakenBack);
        Assert.False(rig.IsOrdered);
    }

    [Fact]
    public void What_the_guest_waits_for_goes_ahead_of_everything()
    {
        var rig = new PostcopyRig(_postcopy, pages: 8192);
        rig.Run(5000, () => rig.RunsAtDestination && rig.Delivered.Count > 0);
        long page = Enumerable.Range(0, rig.Pages).Last(page => rig.Waits(page));
        int before = rig.Delivered.Count;
        rig.Touch(page);
        rig.Run(3, () => !rig.Waits(page));
        Assert.False(rig.Waits(page));
        Assert.Equal(before, rig.Delivered.IndexOf(page));
        rig.Run(20_000);
        FaultReport? faults = rig.Source.Snapshot(rig.Now).Faults;
        Assert.Equal(1, faults!.Count);
        Assert.InRange(faults.Longest.TotalMilliseconds, 0, 5);
    }

    // Source: Hines and Gopalan 2009: a guest that touched a page is likely to touch its neighbours next.
    [Fact]
    public void The_push_goes_on_around_the_last_fault()
    {
        var rig = new PostcopyRig(_postcopy, pages: 16 * 512);
        rig.Run(5000, () => rig.RunsAtDestination && rig.Delivered.Count > 0);
        long page = (12 * 512) + 100;
        Assert.True(rig.Waits(page));
        rig.Touch(page);
        rig.Run(60);
        long[] next = [.. rig.Delivered.SkipWhile(one => one != page).Take(900)];
        Assert.Equal(900, next.Length);
        Assert.InRange(next.Count(one => Math.Abs(one - page) <= 3 * 512), 720, 900);
    }

    [Fact]
    public void A_page_that_was_never_written_is_zero_and_comes_from_nobody()
    {
        var rig = new PostcopyRig(_hybrid, pages: 4096);
        rig.Run(5000, Writing(rig, () => rig.RunsAtDestination));
        // As a hole of the destination's memory file: the source sent it as zero, and nothing was put there.
        rig.DestinationMemory[3000] = null;
        rig.Touch(3000);
        Assert.Equal(0, rig.DestinationMemory[3000]);
        rig.Run(5000);
        Assert.Equal(MigrationOutcome.Completed, rig.Source.Outcome);
    }

    // Goal: a QEMU that is taken up is not given what it has: it would give up its stream, and the guest with it.
    // Method: it asked for two pages; the last daemon gave one of them, and had read neither request.
    [Fact]
    public void A_page_that_came_before_its_request_was_read_is_not_given_again()
    {
        RamBlock[] blocks = [new(0, "pc.ram", 8 * Page.Size)];
        var missing = new MissingPages(blocks, [true]);
        missing.Add(0, new PageNumber(3));
        var engine = DestinationEngine.Resume(
            "web1", "a", 2, new QemuStreamHead("pc", 1, blocks), missing, TimeSpan.Zero);
        engine.PagesTouched(0, new PageNumber(2), 1, TimeSpan.Zero);
        engine.PagesTouched(0, new PageNumber(3), 1, TimeSpan.Zero);
        engine.Rejoined(TimeSpan.Zero);
        var effects = new List<Effect>();
        while (engine.TryTakeEffect(out Effect effect))
        {
            effects.Add(effect);
        }

        Assert.DoesNotContain(effects, effect => effect is Effect.WriteZeroPage);
        Assert.False(engine.TryGive(0, new PageNumber(2)));
        ControlMessage asked = Assert.Single(
            effects.OfType<Effect.Send>().Select(send => send.Message),
            message => message is ControlMessage.PagesRequested);
        Assert.Equal(new ControlMessage.PagesRequested(0, new PageNumber(3), 1), asked);
        Assert.True(engine.TryGive(0, new PageNumber(3)));
    }

    // Goal: a source that is gone keeps nobody waiting for memory that is all there.
    [Fact]
    public void A_guest_that_is_taken_up_with_all_of_its_memory_needs_no_source()
    {
        RamBlock[] blocks = [new(0, "pc.ram", 8 * Page.Size)];
        var engine = DestinationEngine.Resume(
            "web1", "a", 2, new QemuStreamHead("pc", 1, blocks), new MissingPages(blocks, [true]), TimeSpan.Zero);
        Assert.True(engine.TryTakeEffect(out Effect effect));
        Assert.IsType<Effect.WriteEndOfPostcopy>(effect);

        // A source that comes back all the same does not have the end written a second time.
        engine.Rejoined(TimeSpan.Zero);
        for (int lane = 1; lane <= 2; lane++)
        {
            engine.LaneBarrier(lane, answered: 0, TimeSpan.Zero);
        }

        engine.QemuShut(0, TimeSpan.Zero);
        // Its source keeps its copy until the guest has been found running: it may be that nobody has let it run yet.
        Assert.Equal(MigrationPhase.Committed, engine.Phase);
        engine.GuestRunning(TimeSpan.Zero, TimeSpan.Zero, TimeSpan.Zero, TimeSpan.Zero);
        Assert.Equal(MigrationOutcome.Completed, engine.Outcome);
        while (engine.TryTakeEffect(out effect))
        {
            Assert.IsNotType<Effect.WriteEndOfPostcopy>(effect);
        }
    }

    [Fact]
    public void A_link_that_breaks_costs_time_and_no_page()
    {
        var rig = new PostcopyRig(_postcopy, pages: 4096);
        rig.Run(5000, () => rig.RunsAtDestination && rig.Delivered.Count > 200);
        rig.CutLink();
        Assert.Equal(MigrationOutcome.Unsettled, rig.Source.Outcome);
        Assert.False(rig.TakenBack);
        long page = Enumerable.Range(0, rig.Pages).Last(page => rig.Waits(page));
        rig.Touch(page);
        rig.Run(100);
        Assert.True(rig.Waits(page));
        rig.Rejoin();
        rig.Run(3, () => !rig.Waits(page));
        Assert.False(rig.Waits(page), "what the guest waited for before comes first");
        rig.Run(20_000);
        Assert.Equal(MigrationOutcome.Completed, rig.Source.Outcome);
        Assert.Equal(rig.SourceMemory.Select(one => (int?)one), rig.DestinationMemory);
    }

    [Fact]
    public void A_guest_whose_commit_is_told_without_lanes_gets_its_memory()
    {
        var rig = new PostcopyRig(_postcopy, pages: 4096) { LosesCommit = true };
        rig.Run(5000, () => rig.Source.Outcome == MigrationOutcome.Unsettled);
        Assert.False(rig.IsOrdered);
        rig.TellCommit();
        Assert.True(rig.IsOrdered);
        rig.Rejoin();
        rig.Run(20_000);
        Assert.Equal(MigrationOutcome.Completed, rig.Source.Outcome);
        Assert.Equal(rig.SourceMemory.Select(one => (int?)one), rig.DestinationMemory);
    }

    // Goal: QEMU's devices may need a page before it can answer the order to run; it is brought, over a new link too.
    [Fact]
    public void What_is_needed_before_the_guest_runs_is_brought()
    {
        var rig = new PostcopyRig(_postcopy, pages: 4096) { AnswersOrder = false };
        rig.Run(5000, () => rig.IsOrdered && rig.Delivered.Count > 0);
        long page = Enumerable.Range(0, rig.Pages).Last(page => rig.Waits(page));
        rig.Touch(page);
        rig.Run(3, () => !rig.Waits(page));
        Assert.False(rig.Waits(page));
        rig.CutLink();
        page = Enumerable.Range(0, rig.Pages).Last(page => rig.Waits(page));
        rig.Touch(page);
        Assert.Equal((MigrationOutcome.Unsettled, false), (rig.Source.Outcome, rig.TakenBack));
        rig.Rejoin();
        rig.Run(3, () => !rig.Waits(page));
        Assert.False(rig.Waits(page));
        rig.Run(5000);
        Assert.Equal((0, MigrationOutcome.Pending),
            (Enumerable.Range(0, rig.Pages).Count(one => rig.Waits(one)), rig.Destination.Outcome));
        rig.AnswerOrder();
        Assert.Equal((MigrationOutcome.Completed, MigrationOutcome.Completed),
            (rig.Source.Outcome, rig.Destination.Outcome));
    }

    [Fact]
    public void A_qemu_that_gives_up_its_stream_ends_the_move()
    {
        var rig = new PostcopyRig(_postcopy);
        rig.Run(5000, () => rig.RunsAtDestination);
        rig.Destination.StreamClosed(rig.Now);
        Assert.Equal(MigrationOutcome.Failed, rig.Destination.Outcome);
        Assert.Equal("guest-lost", rig.Destination.Snapshot(rig.Now).ErrorCode);
    }

    [Fact]
    public void A_link_that_breaks_before_the_commit_leaves_the_guest_at_the_source()
    {
        var rig = new PostcopyRig(_postcopy);
        rig.Run(5000, () => rig.Source.InPostcopy);
        rig.CutLink();
        Assert.Equal(MigrationOutcome.Failed, rig.Source.Outcome);
        Assert.True(rig.TakenBack);
        Assert.False(rig.RunsAtDestination);
    }

    [Fact]
    public void A_source_that_claims_the_end_too_early_is_not_believed()
    {
        var rig = new PostcopyRig(_postcopy);
        rig.Run(5000, () => rig.RunsAtDestination);
        for (int lane = 1; lane <= 3; lane++)
        {
            rig.Destination.LaneBarrier(lane, 0, rig.Now);
        }

        Assert.True(rig.Destination.IsDetached);
        Assert.Equal(MigrationOutcome.Pending, rig.Destination.Outcome);
    }

    [Fact]
    public void Percentiles_of_faults_are_right_to_an_eighth()
    {
        var clock = new FaultClock();
        for (int i = 1; i <= 1000; i++)
        {
            var page = new PageNumber(i);
            clock.Asked(0, page, TimeSpan.Zero);
            Assert.False(clock.Asked(0, page, TimeSpan.FromMilliseconds(9)));
            clock.Given(0, page, TimeSpan.FromMilliseconds(i));
        }

        FaultReport report = clock.Report();
        Assert.Equal(1000, report.Count);
        Assert.Equal(500.5, report.Mean.TotalMilliseconds, 3);
        Assert.InRange(report.Median.TotalMilliseconds, 500, 570);
        Assert.InRange(report.Worst99.TotalMilliseconds, 990, 1000);
        Assert.Equal(1000, report.Longest.TotalMilliseconds);
        Assert.Empty(clock.Waiting);
    }

    // All that is missing is in memory which the shell holds: QEMU, whose copy stands still, is not needed for it.
    [Fact]
    public void A_source_qemu_that_ends_behind_the_guest_takes_nothing_with_it()
    {
        var rig = new PostcopyRig(_postcopy);
        rig.Run(5000, () => rig.RunsAtDestination);
        rig.Source.QemuFailed("killed.", rig.Now);
        rig.Run(5000);
        Assert.Equal(MigrationOutcome.Completed, rig.Source.Snapshot(rig.Now).Outcome);
        Assert.Equal(rig.SourceMemory.Select(page => (int?)page), rig.DestinationMemory);

        var before = new PostcopyRig(_postcopy);
        before.Run(5000, () => before.PagesSentInPrecopy > 0);
        before.Source.QemuFailed("killed.", before.Now);
        Assert.Equal(MigrationOutcome.Failed, before.Source.Snapshot(before.Now).Outcome);
    }
}
