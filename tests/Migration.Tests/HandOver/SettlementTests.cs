using Godwit.Migration.HandOver;

namespace Godwit.Migration.Tests.HandOver;

public class SettlementTests
{
    private static readonly HandOverRecord _committed = new(
        HandOverState.Committed, "m1", new Guid("0a1b2c3d-0000-4000-8000-000000000001"), "b", 7,
        new Guid("0a1b2c3d-0000-4000-8000-000000000003"));

    private static TimeSpan Seconds(double seconds) => TimeSpan.FromSeconds(seconds);

    [Fact]
    public void A_confirmed_commit_gives_the_guest_away_record_first()
    {
        var settlement = new Settlement(_committed, CommitFate.Confirmed, "a", default);
        Assert.Equal(
            [
                new SettlementStep.Write(_committed with { State = HandOverState.Left }), new SettlementStep.EndCopy(),
                new SettlementStep.Own(new GuestOwnership("b", 7, GuestIntent.Stopped)),
                new SettlementStep.Settled(SettledGuest.RunsThere, HasDecided: false, ""),
            ],
            StepsOf(settlement));
    }

    [Fact]
    public void Nobody_is_asked_about_a_commit_that_nobody_was_told_of()
    {
        var settlement = new Settlement(_committed, CommitFate.Untold, "a", default);
        Assert.Equal(
            [
                new SettlementStep.Write(_committed with { State = HandOverState.Reclaimed }),
                new SettlementStep.RunCopy(),
            ],
            StepsOf(settlement));
        settlement.CopyRuns(true);
        Assert.Equal([new SettlementStep.Settled(SettledGuest.RunsHere, false, "")], StepsOf(settlement));
    }

    [Fact]
    public void The_destination_is_asked_until_it_answers_and_after_ten_seconds_that_is_reported()
    {
        var settlement = new Settlement(_committed, CommitFate.InDoubt, "a", default);
        TimeSpan now = default;
        int asked = 0;
        int reported = 0;
        while (now < Seconds(30))
        {
            switch (settlement.Next(now))
            {
                case SettlementStep.Ask ask:
                    Assert.False(ask.Fence);
                    asked++;
                    settlement.Answered(HandOverAnswer.None, "no route", now);
                    break;
                case SettlementStep.Wait wait:
                    Assert.InRange(wait.For, TimeSpan.FromTicks(1), Seconds(5));
                    now += wait.For;
                    break;
                case SettlementStep.ReportUnsettled report:
                    Assert.Equal("no route", report.Detail);
                    Assert.True(now >= Seconds(10));
                    reported++;
                    settlement.Done();
                    break;
            }
        }

        Assert.Equal(1, reported);
        Assert.InRange(asked, 8, 20);
        settlement.Answered(HandOverAnswer.Died, "it crashed", now);
        Assert.Equal(
            new SettlementStep.Settled(SettledGuest.DiedThere, false, "it crashed"),
            StepsOf(settlement, now + Seconds(5))[^1]);
    }

    // Its disks may be ahead of what the copy remembers.
    [Fact]
    public void An_operator_who_takes_a_guest_back_has_it_started_anew()
    {
        var settlement = new Settlement(_committed, CommitFate.InDoubt, "a", default);
        Assert.True(settlement.Decide("a", resumesCopy: false, Seconds(11)));
        Assert.False(settlement.Decide("b", resumesCopy: false, Seconds(11)));
        HandOverRecord overruled = _committed with { State = HandOverState.Overruled, Epoch = 8 };
        Assert.Equal(
            [
                new SettlementStep.EndCopy(), new SettlementStep.Write(overruled),
                new SettlementStep.Own(new GuestOwnership("a", 8, GuestIntent.Running)), new SettlementStep.StartAnew(),
            ],
            StepsOf(settlement, Seconds(11)));
        settlement.CopyRuns(true);
        Assert.Equal(
            [new SettlementStep.Settled(SettledGuest.StartedHere, HasDecided: true, "")],
            StepsOf(settlement, Seconds(11)));

        // From then on the other host is told, until it has answered.
        Assert.Equal(new SettlementStep.Ask(Fence: true, Commits: false), settlement.Next(Seconds(11)));
        settlement.Answered(HandOverAnswer.Refused, "", Seconds(12));
        Assert.Equal(
            [new SettlementStep.Write(overruled with { State = HandOverState.Reclaimed })],
            StepsOf(settlement, Seconds(12)));
        Assert.Equal(new SettlementStep.End(), settlement.Next(Seconds(12)));
    }

    [Fact]
    public void An_answer_that_comes_behind_a_decision_changes_nothing()
    {
        var settlement = new Settlement(_committed, CommitFate.InDoubt, "a", default);
        Assert.Equal(new SettlementStep.Ask(Fence: false, Commits: false), settlement.Next(default));
        settlement.Decide("a", resumesCopy: true, Seconds(1));
        settlement.Answered(HandOverAnswer.Runs, "", Seconds(1));
        Assert.Equal(
            new SettlementStep.Write(_committed with { State = HandOverState.Overruled, Epoch = 8 }),
            settlement.Next(Seconds(1)));
    }

    // A commit that is found at a start may be left of one that could not be recorded: the guest may have run on here.
    [Theory]
    [InlineData(CommitFate.Told, true)]
    [InlineData(CommitFate.InDoubt, false)]
    public void Only_a_daemon_that_has_recorded_the_commit_itself_tells_it_again(CommitFate fate, bool tells)
    {
        var settlement = new Settlement(_committed, fate, "a", default);
        Assert.Equal(new SettlementStep.Ask(Fence: false, Commits: tells), settlement.Next(default));
    }

    [Fact]
    public void A_journal_that_cannot_be_written_is_tried_again()
    {
        var settlement = new Settlement(_committed, CommitFate.Confirmed, "a", default);
        SettlementStep write = settlement.Next(default);
        settlement.Failed(default);
        Assert.IsType<SettlementStep.Wait>(settlement.Next(default));
        Assert.Same(write, settlement.Next(Seconds(1)));
    }

    // A registry that did not take what the journal did: the guest runs here, and a restart may not end it.
    [Theory]
    [InlineData(HandOverState.Resuming)]
    [InlineData(HandOverState.Closed)]
    public void A_guest_that_was_handed_over_is_kept_whatever_the_registry_says(HandOverState state)
    {
        var expected = GuestOwnership.Arriving("a", 6);
        HandOverRecord record = _committed with { State = state, Peer = "a" };
        Assert.Equal(
            new Recovery(RecoveryDuty.Adopt, new GuestOwnership("b", 7, GuestIntent.Running)),
            HandOverRules.Recover("b", expected, record, GuestCopy.Running));
        Assert.Equal(
            new Recovery(RecoveryDuty.RunArrival, new GuestOwnership("b", 7, GuestIntent.Running)),
            HandOverRules.Recover("b", expected, record, GuestCopy.Paused));
        Assert.Equal(
            new Recovery(RecoveryDuty.NoteDeath, new GuestOwnership("b", 7, GuestIntent.Stopped)),
            HandOverRules.Recover("b", expected, record, GuestCopy.Gone));
    }

    [Theory]
    [InlineData(null)]
    [InlineData(HandOverState.Refused)]
    public void A_guest_that_was_not_handed_over_is_dropped(HandOverState? state)
    {
        HandOverRecord? record = state is { } known ? _committed with { State = known, Peer = "a" } : null;
        foreach (GuestCopy copy in Enum.GetValues<GuestCopy>())
        {
            Assert.Equal(
                RecoveryDuty.DropArrival,
                HandOverRules.Recover("b", GuestOwnership.Arriving("a", 6), record, copy).Duty);
        }
    }

    [Fact]
    public void A_guest_that_has_moved_on_did_not_die()
    {
        HandOverJournal journal = HandOverJournal.Open(new MemoryJournalFile(), Guid.Empty);
        journal.Record(_committed with { State = HandOverState.Resuming, Peer = "a" });
        Assert.Equal(HandOverAnswer.Runs, HandOverRules.Answer(
            "b", new GuestOwnership("c", 8, GuestIntent.Stopped), hasDied: false, GuestCopy.Gone, journal, "m1", 7));
        // Hearsay about a move that is not in the journal is no answer.
        Assert.Equal(HandOverAnswer.Refused, HandOverRules.Answer(
            "b", new GuestOwnership("c", 8, GuestIntent.Stopped), hasDied: false, GuestCopy.Gone, journal, "m2", 7));
    }

    [Fact]
    public void A_fence_is_for_a_guest_that_came_by_the_migration_it_names()
    {
        HandOverRecord resuming = _committed with { State = HandOverState.Resuming, Peer = "a" };
        Assert.True(HandOverRules.IsFenced(resuming, resuming.Guest));
        Assert.False(HandOverRules.IsFenced(null, resuming.Guest));
        Assert.False(HandOverRules.IsFenced(resuming, Guid.Empty));
        Assert.False(HandOverRules.IsFenced(resuming with { State = HandOverState.Closed }, resuming.Guest));
    }

    private static List<SettlementStep> StepsOf(Settlement settlement, TimeSpan now = default)
    {
        var steps = new List<SettlementStep>();
        while (settlement.Next(now)
            is not (SettlementStep.Ask or SettlementStep.Wait or SettlementStep.End) and var step)
        {
            steps.Add(step);
            if (step is SettlementStep.RunCopy or SettlementStep.StartAnew)
            {
                break;
            }

            settlement.Done();
        }

        return steps;
    }
}
