using Godwit.Migration.Convergence;
using Godwit.Pages;

namespace Godwit.Migration.Tests.Convergence;

public class LadderTests
{
    private static readonly TimeSpan Long = TimeSpan.FromMinutes(5);

    private static MigrationPolicy With(params LadderStep[] steps) => new() { Steps = steps };

    [Fact]
    public void A_guest_that_writes_a_little_too_fast_is_slowed_by_no_more_than_is_needed()
    {
        // 24,000 pages a second over a link for 20,000: a ratio of 1.2.
        var rig = new SourceRig(
            With(new LadderStep(LadderAction.Throttle, 80)), pages: 32_000, dirtyPagesPerSecond: 24_000,
            dirtyRange: 32_000, linkBytesPerSecond: 20_000 * 4096.0);
        MigrationSnapshot end = rig.Run(Long, each =>
        {
            if (each.Effects.OfType<Effect.Throttle>().LastOrDefault() is { } throttle)
            {
                each.DirtyPagesPerSecond = 24_000 * (1 - (throttle.Percent / 100.0));
            }
        });
        Effect.Throttle only = Assert.Single(rig.Effects.OfType<Effect.Throttle>());
        Assert.InRange(only.Percent, 30, 60);
        Assert.Equal(MigrationOutcome.Completed, end.Outcome);
        Assert.Equal(only.Percent, end.ThrottlePercent);
        Assert.Contains("slow the guest by", Assert.Single(end.StepsTaken), StringComparison.Ordinal);
    }

    // Goal: the few pages that any guest writes all the time do not count for thousands. Method: beside 4,000 pages a
    // second, 40 are written all the time.
    [Fact]
    public void A_page_that_is_always_dirty_counts_once_in_a_while()
    {
        var rig = new SourceRig(
            pages: 32_000, dirtyPagesPerSecond: 4_000, dirtyRange: 31_000, linkBytesPerSecond: 10_000 * 4096.0)
        {
            AlwaysWritten = [.. Enumerable.Range(31_500, 40)],
        };
        MigrationSnapshot end = rig.Run(Long);
        Assert.Equal(MigrationOutcome.Completed, end.Outcome);
        Assert.InRange(end.Rounds[1].DirtyBytesPerSecond / 4096, 3_500, 4_500);
    }

    // Goal: a guest that has processor time to spare writes as fast as before, until that is used up.
    [Fact]
    public void A_throttle_that_was_not_enough_goes_further()
    {
        var rig = new SourceRig(
            With(new LadderStep(LadderAction.Throttle, 99)), pages: 32_000, dirtyPagesPerSecond: 24_000,
            dirtyRange: 32_000, linkBytesPerSecond: 20_000 * 4096.0);
        MigrationSnapshot end = rig.Run(Long, each =>
        {
            int percent = each.Effects.OfType<Effect.Throttle>().LastOrDefault()?.Percent ?? 0;
            each.DirtyPagesPerSecond = Math.Min(24_000, 80_000 * (1 - (percent / 100.0)));
        });
        Assert.Equal(MigrationOutcome.Completed, end.Outcome);
        int[] percents = [.. rig.Effects.OfType<Effect.Throttle>().Select(throttle => throttle.Percent)];
        Assert.InRange(percents.Length, 2, 4);
        Assert.Equal(percents.Order(), percents);
        Assert.InRange(end.ThrottlePercent, 70, 95);
    }

    [Fact]
    public void Rounds_that_leave_now_more_and_now_less_have_stalled()
    {
        var model = new ConvergenceModel();
        foreach (long left in (long[])[10_000, 12_000, 10_500, 12_000, 10_500])
        {
            model.RoundEnded(left, dirtyBytesPerSecond: 12e6, linkBytesPerSecond: 10e6, fits: false);
        }

        Assert.Equal(4, model.StalledRounds);
        // Slowly, but it shrinks: a tenth in three rounds.
        foreach (long left in (long[])[9_500, 9_200, 8_900])
        {
            model.RoundEnded(left, dirtyBytesPerSecond: 12e6, linkBytesPerSecond: 10e6, fits: false);
        }

        Assert.Equal((0, 0), (model.StalledRounds, model.RoundsInVain));
        // A guest that slows down for a round looks as if the next would leave less.
        for (int i = 0; i < 20; i++)
        {
            model.RoundEnded(9_000, i % 3 == 0 ? 8e6 : 12e6, linkBytesPerSecond: 10e6, fits: false);
        }

        Assert.Equal((1, 20), (model.StalledRounds, model.RoundsInVain));
    }

    // Goal: a round that fitted is not thrown away for one that may fit no more, because the turn comes a moment later.
    [Fact]
    public void What_fitted_is_switched_over_as_soon_as_the_turn_comes()
    {
        var rig = new SourceRig(
            new MigrationPolicy { DowntimeMax = TimeSpan.FromSeconds(2) }, pages: 16_000, dirtyPagesPerSecond: 60_000,
            dirtyRange: 6_000, linkBytesPerSecond: 5_000 * 4096.0, asksForTurn: true);
        for (int i = 0; i < 60_000 && !rig.Effects.OfType<Effect.AskForTurn>().Any(); i++)
        {
            rig.Run(TimeSpan.FromMilliseconds(1));
        }

        Assert.DoesNotContain(rig.Effects, effect => effect is Effect.ReleaseSwitchover);
        rig.Engine.TurnGranted(rig.Now);
        rig.Run(TimeSpan.FromMilliseconds(1));
        Assert.Contains(rig.Effects, effect => effect is Effect.ReleaseSwitchover);
        Assert.Equal(MigrationOutcome.Completed, rig.Run(Long).Outcome);
        Assert.InRange(rig.PausedFor.TotalSeconds, 0, 2);
    }

    [Fact]
    public void A_guest_that_no_throttle_would_slow_enough_is_not_slowed_in_vain()
    {
        var rig = new SourceRig(
            With(new LadderStep(LadderAction.Throttle, 30), new LadderStep(LadderAction.Pause, 60_000)),
            pages: 8192, dirtyPagesPerSecond: 60_000, dirtyRange: 8192, linkBytesPerSecond: 20e6);
        MigrationSnapshot end = rig.Run(Long);
        Assert.Empty(rig.Effects.OfType<Effect.Throttle>());
        Assert.Equal(MigrationOutcome.Completed, end.Outcome);
        Assert.Equal(TimeSpan.FromMinutes(1), end.DowntimeMax);
    }

    [Fact]
    public void Without_a_step_that_helps_the_guest_is_left_where_it_is()
    {
        var rig = new SourceRig(
            With(new LadderStep(LadderAction.Postcopy, 0), new LadderStep(LadderAction.Abort, 0)),
            dirtyPagesPerSecond: 60_000, linkBytesPerSecond: 20e6);
        MigrationSnapshot end = rig.Run(Long);
        Assert.Equal("migration-not-converged", end.ErrorCode);
        Assert.Equal(TimeSpan.Zero, rig.PausedFor);
        Assert.Contains("give up", Assert.Single(end.StepsTaken), StringComparison.Ordinal);
    }

    // The host's shares are told anew every few seconds, whether or not they have changed.
    [Fact]
    public void A_cap_that_stays_as_it_is_says_nothing_about_convergence()
    {
        var rig = new SourceRig(
            With(new LadderStep(LadderAction.Abort, 0)),
            pages: 32_000, dirtyPagesPerSecond: 60_000, dirtyRange: 32_000, linkBytesPerSecond: 20e6);
        TimeSpan told = default;
        MigrationSnapshot end = rig.Run(Long, each =>
        {
            // More often than a round ends.
            if (each.Now - told > TimeSpan.FromSeconds(1))
            {
                told = each.Now;
                each.Engine.SetBandwidth(0, each.Now);
            }
        });
        Assert.Contains("give up", Assert.Single(end.StepsTaken), StringComparison.Ordinal);
    }

    [Fact]
    public void What_is_written_in_every_round_is_left_for_the_end()
    {
        // A hot set of 600 pages, and everything else written once in a while.
        var rig = new SourceRig(pages: 16_000, linkBytesPerSecond: 8_000 * 4096.0);
        long cold = 600;
        MigrationSnapshot end = rig.Run(Long, each =>
        {
            each.Touch(Enumerable.Range(0, 600).Select(page => (long)page));
            each.Touch([cold, cold + 1]);
            cold = cold + 2 >= 15_990 ? 600 : cold + 2;
        });
        Assert.Equal(MigrationOutcome.Completed, end.Outcome);
        Assert.Equal(rig.Pages, rig.Destination.AsSpan(0, rig.Pages.Length).ToArray());
        long sentAgain = end.Rounds.Skip(1).Sum(round => round.Pages);
        Assert.True(
            sentAgain < (end.Rounds.Count - 1) * 600 * 0.7 + 16_000,
            $"{sentAgain} pages in {end.Rounds.Count - 1} rounds");
    }

    [Fact]
    public void A_pause_stops_the_lanes_and_not_the_guest()
    {
        var rig = new SourceRig(pages: 20_000);
        rig.Run(TimeSpan.FromMilliseconds(200));
        Assert.True(rig.Engine.Suspend(true, rig.Now));
        rig.Run(TimeSpan.FromMilliseconds(200));
        long sent = rig.Engine.Snapshot(rig.Now).WireBytes;
        rig.Run(TimeSpan.FromSeconds(5));
        MigrationSnapshot still = rig.Engine.Snapshot(rig.Now);
        Assert.Equal(("paused", sent), (still.Verdict, still.WireBytes));
        Assert.True(rig.GuestRuns);
        Assert.True(rig.Engine.Suspend(false, rig.Now));
        Assert.Equal(MigrationOutcome.Completed, rig.Run(Long).Outcome);
        Assert.False(rig.Engine.Suspend(true, rig.Now));
    }

    [Theory]
    [InlineData(40_000_000)]
    [InlineData(160_000_000)]
    public void A_cap_that_is_set_on_the_way_holds_within_a_twentieth(long bitsPerSecond)
    {
        var rig = new SourceRig(pages: 60_000);
        rig.Run(TimeSpan.FromMilliseconds(100));
        rig.Engine.SetBandwidth(bitsPerSecond, rig.Now);
        rig.Run(TimeSpan.FromMilliseconds(500));
        long before = rig.Engine.Snapshot(rig.Now).WireBytes;
        rig.Run(TimeSpan.FromSeconds(2));
        // What headers below us add is part of the cap.
        double bits = (rig.Engine.Snapshot(rig.Now).WireBytes - before) * 8 * 1.04 / 2;
        Assert.InRange(bits, bitsPerSecond * 0.95, bitsPerSecond * 1.05);
    }

    [Fact]
    public void Two_guests_of_a_host_are_paused_one_after_the_other()
    {
        var rig = new SourceRig(asksForTurn: true);
        rig.Run(TimeSpan.FromSeconds(5));
        Assert.Equal(MigrationPhase.Copying, rig.Engine.Phase);
        Assert.Single(rig.Effects.OfType<Effect.AskForTurn>());
        Assert.Equal("waiting for its turn", rig.Engine.Snapshot(rig.Now).Verdict);
        rig.Engine.TurnGranted(rig.Now);
        Assert.Equal(MigrationOutcome.Completed, rig.Run(Long).Outcome);
    }

    [Fact]
    public void A_turn_that_is_not_used_is_given_back()
    {
        var rig = new SourceRig(asksForTurn: true);
        rig.Run(TimeSpan.FromSeconds(5));
        Assert.True(rig.Engine.Suspend(true, rig.Now));
        rig.Engine.TurnGranted(rig.Now);
        rig.Run(TimeSpan.FromSeconds(1));
        Assert.Single(rig.Effects.OfType<Effect.GiveTurnBack>());
        Assert.Equal((MigrationPhase.Copying, true), (rig.Engine.Phase, rig.GuestRuns));
        // It asks again when it goes on.
        Assert.True(rig.Engine.Suspend(false, rig.Now));
        rig.Run(TimeSpan.FromSeconds(5));
        Assert.Equal(2, rig.Effects.OfType<Effect.AskForTurn>().Count());
        rig.Engine.TurnGranted(rig.Now);
        Assert.Equal(MigrationOutcome.Completed, rig.Run(Long).Outcome);
    }

    [Fact]
    public void Rounds_spent_in_waiting_for_a_turn_use_up_no_bound()
    {
        var rig = new SourceRig(new MigrationPolicy { RoundsMax = 20 }, asksForTurn: true);
        rig.Run(TimeSpan.FromSeconds(20));
        Assert.True(rig.Engine.Snapshot(rig.Now).Rounds.Count > 20);
        rig.Engine.TurnGranted(rig.Now);
        Assert.Equal(MigrationOutcome.Completed, rig.Run(Long).Outcome);
    }

    [Fact]
    public void The_default_does_not_slow_a_guest_in_vain()
    {
        var rig = new SourceRig(
            new MigrationPolicy { Steps = Ladder.Shipped[0].Steps },
            pages: 8192, dirtyPagesPerSecond: 60_000, dirtyRange: 8192, linkBytesPerSecond: 20e6);
        Assert.Equal("migration-not-converged", rig.Run(Long).ErrorCode);
        Assert.Empty(rig.Effects.OfType<Effect.Throttle>());
    }

    [Fact]
    public void Shipped_ladders_make_sense_and_others_do_not()
    {
        Assert.All(Ladder.Shipped, ladder => Assert.Null(ladder.Fault()));
        Assert.Equal(Ladder.Shipped.Count, Ladder.Shipped.Select(ladder => ladder.Name).Distinct().Count());
        LadderStep[] bad =
        [
            new(LadderAction.Throttle, 0), new(LadderAction.Throttle, 100), new(LadderAction.Pause, 0),
            new(LadderAction.Postcopy, 5), new(LadderAction.Abort, 0, 0),
        ];
        Assert.All(bad, step => Assert.NotNull(new Ladder("x", "", [step]).Fault()));
    }

    [Fact]
    public void A_forecast_chooses_the_method_that_the_engine_comes_to()
    {
        ForecastFacts calm = new()
        {
            UsedPages = 60_000, WireBytesPerPage = 2000, DirtyPagesPerSecond = 500, WorkingSetPages = 4000,
            LinkBytesPerSecond = 100e6, Postcopy = true,
        };
        MigrationPolicy policy = new() { Steps = Ladder.Shipped[0].Steps };
        Forecast easy = Forecast.Of(calm, policy);
        Assert.Equal("precopy", easy.Method);
        Assert.InRange(easy.Report.BytesLow, 60e6, 130e6);
        Assert.True(easy.Report.LongestPause < policy.DowntimeMax);
        ForecastFacts busy = calm with { DirtyPagesPerSecond = 200_000, WorkingSetPages = 50_000 };
        MigrationPolicy gentle = new() { Steps = Ladder.Shipped.Single(ladder => ladder.Name == "gentle").Steps };
        Assert.Equal("hybrid", Forecast.Of(busy, gentle).Method);
        Assert.Equal("", Forecast.Of(busy with { Postcopy = false }, gentle).Method);
        Assert.Equal("postcopy", Forecast.Of(calm, policy with { Method = MigrationMethod.Postcopy }).Method);
        // What the pause may be in the end, not in the beginning; and a number for a link that carries nothing.
        Assert.Equal(policy.DowntimeMax, easy.PauseMax);
        Assert.Null(Forecast.Of(busy, new MigrationPolicy { OnStall = OnStall.Pause }).PauseMax);
        Assert.Equal(TimeSpan.FromSeconds(10), Forecast.Of(
            busy with { WorkingSetPages = 100_000, Postcopy = false, LinkBytesPerSecond = 50e6 },
            new MigrationPolicy { Steps = [new LadderStep(LadderAction.Pause, 10_000)] }).PauseMax);
        Forecast never = Forecast.Of(
            busy with { UsedPages = 1 << 22 },
            new MigrationPolicy { BandwidthBitsPerSecond = 8, OnStall = OnStall.Pause });
        Assert.InRange(never.Report.LongestPause.TotalSeconds, 1e6, 1e9);
        // A fifth above what the link carries: less throttle than the policy allows is enough.
        ForecastFacts eager = calm with { DirtyPagesPerSecond = 60_000, WorkingSetPages = 50_000, Postcopy = false };
        Assert.Contains("slow the guest", Assert.Single(Forecast.Of(eager, policy).Steps), StringComparison.Ordinal);
    }

    [Fact]
    public void A_sample_tells_a_small_hot_set_from_one_that_grows()
    {
        (double growing, double all) = Forecast.FromSample(100_000, 0.01, 0.25, 0.04, 1);
        Assert.Equal(4000, growing, 3);
        // Not all of memory: eight times what a second has shown.
        Assert.Equal(32_000, all, 3);
        (double hot, double set) = Forecast.FromSample(100_000, 0.05, 0.25, 0.055, 1);
        Assert.Equal(20_000, hot, 3);
        Assert.InRange(set, 5000, 7000);
        // A writer that goes round in its set, three quarters of it in a second.
        (_, double round) = Forecast.FromSample(100_000, 0.05, 0.25, 0.15, 1);
        Assert.InRange(round, 15_000, 32_000);
        Assert.Equal((0, 0), Forecast.FromSample(100_000, 0, 0.25, 0, 1));
    }
}
