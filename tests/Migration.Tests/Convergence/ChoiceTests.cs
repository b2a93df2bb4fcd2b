using Godwit.Migration.Convergence;

namespace Godwit.Migration.Tests.Convergence;

public class ChoiceTests
{
    private static readonly TimeSpan Long = TimeSpan.FromMinutes(5);
    private static readonly MigrationPolicy _default = new() { Steps = Ladder.Shipped[0].Steps };

    // 60,000 pages a second over a link for 5,000; no throttle that the policy allows would do.
    private static SourceRig Busy(MigrationPolicy? policy = null, bool postcopy = true, int written = 8192) => new(
        policy ?? _default, pages: 8192, dirtyPagesPerSecond: 60_000, dirtyRange: written, linkBytesPerSecond: 20e6,
        postcopy: postcopy);

    private static readonly ForecastFacts _busyFacts = new()
    {
        UsedPages = 8192, WireBytesPerPage = 4096, DirtyPagesPerSecond = 60_000, WorkingSetPages = 8192,
        LinkBytesPerSecond = 20e6, Postcopy = true,
    };

    private static void RunToTurn(SourceRig rig)
    {
        for (int i = 0; i < 60_000 && !rig.Engine.InPostcopy && rig.Engine.Phase != MigrationPhase.Ended; i++)
        {
            rig.Run(TimeSpan.FromMilliseconds(1));
        }
    }

    // What is written all the time would be sent in vain: of what the guest leaves alone every page has gone by then.
    [Theory]
    [InlineData(MigrationMethod.Auto)]
    [InlineData(MigrationMethod.Hybrid)]
    public void A_turn_that_was_expected_comes_before_what_the_guest_writes_is_sent(MigrationMethod method)
    {
        MigrationPolicy policy = _default with { Method = method };
        SourceRig rig = Busy(policy, written: 3000);
        Forecast forecast = Forecast.Of(
            _busyFacts with { WorkingSetPages = 3000, HoldsWritten = true }, policy);
        Assert.Equal("hybrid", forecast.Method);
        // Every page once.
        Assert.InRange(8192 * 4096L, forecast.Report.BytesLow, forecast.Report.BytesHigh);
        rig.Engine.Expect(forecast, rig.Now);
        RunToTurn(rig);
        MigrationSnapshot turned = rig.Engine.Snapshot(rig.Now);
        Assert.True(rig.Engine.InPostcopy);
        Assert.Empty(turned.Rounds);
        Assert.InRange(turned.WireBytes, 5192 * 4096L, (5192 + 1700) * 4096L);
        if (method == MigrationMethod.Auto)
        {
            Assert.Contains("would have to be slowed by", turned.Choice, StringComparison.Ordinal);
            Assert.Contains("50 % are allowed", turned.Choice, StringComparison.Ordinal);
            Assert.Contains("turn to postcopy", Assert.Single(turned.StepsTaken), StringComparison.Ordinal);
        }
    }

    // Goal: where rounds go on, the first one has sent every page, and what the guest writes last.
    [Fact]
    public void Without_a_turn_the_first_round_sends_every_page_once()
    {
        var rig = new SourceRig(pages: 8192, dirtyPagesPerSecond: 4_000, dirtyRange: 1000, linkBytesPerSecond: 20e6);
        MigrationSnapshot end = rig.Run(Long);
        Assert.Equal(MigrationOutcome.Completed, end.Outcome);
        Assert.Equal(8192, end.Rounds[0].Pages);
        Assert.Equal(rig.Pages, rig.Destination.AsSpan(0, rig.Pages.Length).ToArray());
    }

    // Goal: a guest is not slowed where that sends much more than postcopy does, and is where it does not.
    [Fact]
    public void What_slowing_the_guest_costs_in_rounds_is_weighed()
    {
        ForecastFacts eager = _busyFacts with
        {
            UsedPages = 29_000, WorkingSetPages = 16_000, DirtyPagesPerSecond = 3_000, LinkBytesPerSecond = 10e6,
            HoldsWritten = true,
        };
        Forecast turns = Forecast.Of(eager, _default);
        Assert.Equal(("hybrid", 0), (turns.Method, turns.ThrottlePercent));
        Assert.Matches("slowed by [0-9]+ % it would send [0-9.]+ times as much", turns.Reason);
        Forecast slows = Forecast.Of(eager with { Postcopy = false }, _default);
        Assert.InRange(slows.ThrottlePercent, 1, 50);
        Assert.True(slows.Report.BytesHigh > 1.5 * turns.Report.BytesHigh);
        // A small set that is written a little too fast is soon at its end.
        Forecast cheap = Forecast.Of(eager with { UsedPages = 300_000, WorkingSetPages = 5_000 }, _default);
        Assert.InRange(cheap.ThrottlePercent, 1, 50);
    }

    [Fact]
    public void Without_a_forecast_it_takes_two_rounds_to_see_that_they_are_in_vain()
    {
        SourceRig rig = Busy();
        RunToTurn(rig);
        Assert.True(rig.Engine.InPostcopy);
        Assert.InRange(rig.Engine.Snapshot(rig.Now).Rounds.Count, 2, 3);
    }

    [Fact]
    public void A_forecast_that_proves_wrong_is_not_followed()
    {
        var rig = new SourceRig(
            _default, pages: 8192, dirtyPagesPerSecond: 200, linkBytesPerSecond: 20e6, postcopy: true);
        rig.Engine.Expect(Forecast.Of(_busyFacts, _default), rig.Now);
        MigrationSnapshot end = rig.Run(Long);
        Assert.Equal((MigrationOutcome.Completed, "precopy"), (end.Outcome, end.Method));
        Assert.Empty(end.StepsTaken);
    }

    [Fact]
    public void Where_the_policy_or_the_hosts_have_no_postcopy_the_ladder_goes_on_as_before()
    {
        SourceRig impossible = Busy(postcopy: false);
        impossible.Engine.Expect(Forecast.Of(_busyFacts with { Postcopy = false }, _default), impossible.Now);
        Assert.Equal("migration-not-converged", impossible.Run(Long).ErrorCode);
        Ladder strict = Ladder.Shipped.Single(ladder => ladder.Name == "strict");
        SourceRig forbidden = Busy(new MigrationPolicy { Steps = strict.Steps });
        Assert.Equal("migration-not-converged", forbidden.Run(Long).ErrorCode);
        Assert.False(forbidden.Engine.InPostcopy);
        Assert.Equal(TimeSpan.Zero, forbidden.PausedFor);
    }

    // A list of missing pages, a package of device state and its loading take longer than that.
    [Fact]
    public void A_budget_that_no_turn_keeps_forbids_the_turn()
    {
        SourceRig rig = Busy(_default with { DowntimeMax = TimeSpan.FromMilliseconds(50) });
        MigrationSnapshot end = rig.Run(Long);
        Assert.Equal("migration-not-converged", end.ErrorCode);
        Assert.Contains("turning to postcopy would pause the guest for", end.Error, StringComparison.Ordinal);
        Assert.Equal((TimeSpan.Zero, false), (rig.PausedFor, rig.Engine.InPostcopy));
    }

    [Fact]
    public void A_hybrid_of_which_the_rest_fits_the_pause_needs_no_postcopy()
    {
        var rig = new SourceRig(
            new MigrationPolicy { Method = MigrationMethod.Hybrid }, pages: 8192, dirtyPagesPerSecond: 200,
            linkBytesPerSecond: 20e6, postcopy: true);
        MigrationSnapshot end = rig.Run(Long);
        Assert.Equal((MigrationOutcome.Completed, "precopy"), (end.Outcome, end.Method));
    }

    // Rounds that leave two thirds of the one before come to fit: nobody has to risk a guest for that.
    [Fact]
    public void A_hybrid_goes_on_with_rounds_while_they_leave_much_less()
    {
        var rig = new SourceRig(
            new MigrationPolicy { Method = MigrationMethod.Hybrid, DowntimeMax = TimeSpan.FromMilliseconds(120) },
            pages: 32_000, dirtyPagesPerSecond: 4_000, dirtyRange: 32_000, linkBytesPerSecond: 25e6, postcopy: true);
        MigrationSnapshot end = rig.Run(Long);
        Assert.Equal((MigrationOutcome.Completed, "precopy"), (end.Outcome, end.Method));
        Assert.InRange(rig.PausedFor.TotalMilliseconds, 0, 120);
    }

    // Another guest of the host is being paused: pages go on until the turn comes, and then no round is waited for.
    [Theory]
    [InlineData(MigrationMethod.Auto)]
    [InlineData(MigrationMethod.Hybrid)]
    [InlineData(MigrationMethod.Postcopy)]
    public void A_turn_that_was_decided_is_made_as_soon_as_it_is_granted(MigrationMethod method)
    {
        MigrationPolicy policy = _default with { Method = method };
        var rig = new SourceRig(
            policy, pages: 8192, dirtyPagesPerSecond: 60_000, dirtyRange: 8192, linkBytesPerSecond: 20e6,
            asksForTurn: true, postcopy: true);
        rig.Engine.Expect(Forecast.Of(_busyFacts, policy), rig.Now);
        rig.Run(TimeSpan.FromSeconds(10), each =>
        {
            if (each.Effects.OfType<Effect.AskForTurn>().Any())
            {
                each.Engine.Suspend(true, each.Now);
            }
        });
        Assert.Single(rig.Effects.OfType<Effect.AskForTurn>());
        Assert.True(rig.Engine.Suspend(false, rig.Now));
        int rounds = rig.Engine.Snapshot(rig.Now).Rounds.Count;
        Assert.False(rig.Engine.InPostcopy);
        rig.Engine.TurnGranted(rig.Now);
        Assert.True(rig.Engine.InPostcopy, rig.Engine.Snapshot(rig.Now).ToString());
        Assert.Equal((true, rounds), (rig.Engine.InPostcopy, rig.Engine.Snapshot(rig.Now).Rounds.Count));
    }

    [Fact]
    public void A_forecast_counts_no_rounds_that_a_hybrid_leaves_out()
    {
        Forecast forecast = Forecast.Of(_busyFacts, _default);
        Assert.Equal("hybrid", forecast.Method);
        // Everything once, and what was written meanwhile once more.
        Assert.InRange(2 * 8192 * 4096L, forecast.Report.BytesLow, forecast.Report.BytesHigh);
        Assert.Equal("", Forecast.Of(_busyFacts, _default with { DowntimeMax = TimeSpan.FromMilliseconds(50) }).Method);
        Assert.Equal("turn to postcopy", Assert.Single(forecast.Steps));
    }

    [Fact]
    public void A_working_set_is_told_from_how_often_its_pages_come_again()
    {
        Assert.Equal(1000, Forecast.WorkingSet(1000, 50_000, 1 << 20), 1.0);
        Assert.InRange(Forecast.WorkingSet(6321, 10_000, 1 << 20), 9_900, 10_100);
        Assert.Equal(1 << 20, Forecast.WorkingSet(1000, 1000, 1 << 20));
        Assert.Equal(0, Forecast.WorkingSet(0, 0, 1 << 20));
    }

    // 24,000 pages a second over a link for 20,000: half of that is what the policy allows, and enough.
    [Theory]
    [InlineData(true, 1)]
    [InlineData(false, 2)]
    public void A_guest_is_slowed_when_the_model_says_so_and_not_after_rounds_in_vain(bool expected, int rounds)
    {
        var rig = new SourceRig(
            _default, pages: 32_000, dirtyPagesPerSecond: 24_000, dirtyRange: 32_000,
            linkBytesPerSecond: 20_000 * 4096.0);
        if (expected)
        {
            Forecast forecast = Forecast.Of(
                _busyFacts with
                {
                    UsedPages = 32_000, WorkingSetPages = 32_000, DirtyPagesPerSecond = 24_000,
                    LinkBytesPerSecond = 20_000 * 4096.0, Postcopy = false,
                },
                _default);
            Assert.InRange(forecast.ThrottlePercent, 1, 50);
            rig.Engine.Expect(forecast, rig.Now);
        }

        for (int i = 0; i < 60_000 && !rig.Effects.OfType<Effect.Throttle>().Any(); i++)
        {
            rig.Run(TimeSpan.FromMilliseconds(1));
        }

        Assert.InRange(rig.Effects.OfType<Effect.Throttle>().Single().Percent, 30, 50);
        Assert.Equal(rounds, rig.Engine.Snapshot(rig.Now).Rounds.Count);
    }
}
