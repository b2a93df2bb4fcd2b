using Godwit.Migration.Postcopy;
using Godwit.Pages;

namespace Godwit.Migration.Tests.Postcopy;

public class PostcopyTests
{
    private static readonly MigrationPolicy _postcopy = new() { Method = MigrationMethod.Postcopy };
    private static readonly MigrationPolicy _hybrid = new() { Method = MigrationMethod.Hybrid };

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
        var rig = new PostcopyRig(_hybrid);
        rig.Run(10);
        for (int page = 100; page < 160; page++)
        {
            rig.Write(page);
        }

        rig.Run(5000);
        MigrationSnapshot end = rig.Source.Snapshot(rig.Now);
        Assert.Equal((MigrationOutcome.Completed, "hybrid"), (end.Outcome, end.Method));
        Assert.Equal(rig.SourceMemory.Select(page => (int?)page), rig.DestinationMemory);
        Assert.Equal(rig.Pages, rig.PagesSentInPrecopy);
        Assert.Equal(Enumerable.Range(100, 60).Select(page => (long)page), rig.Delivered.Order());
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
        var rig = new PostcopyRig(_hybrid);
        rig.Run(10);
        for (int page = 0; page < 900; page++)
        {
            rig.Write(page);
        }

        rig.Run(5000, () => rig.RunsAtDestination);
        // As a hole of the destination's memory file: the source sent it as zero, and nothing was put there.
        rig.DestinationMemory[1000] = null;
        rig.Touch(1000);
        Assert.Equal(0, rig.DestinationMemory[1000]);
        rig.Run(5000);
        Assert.Equal(MigrationOutcome.Completed, rig.Source.Outcome);
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
}
