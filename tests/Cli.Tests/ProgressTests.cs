using CsCheck;
using Godwit.Api.V1;
using Godwit.Cli.Progress;

namespace Godwit.Cli.Tests;

public class ProgressTests
{
    // Goal: whatever a daemon sends, in whatever order, the screen never runs backwards and never shows more than all.
    // Method: any sequence of messages, with fractions, phases, rounds and bytes that jump freely.
    [Fact]
    public void Progress_never_runs_backwards()
    {
        var message = Gen.Select(
            Gen.Double, Gen.Int[0, 4], Gen.Int[0, 5], Gen.ULong[0, 1ul << 40], Gen.Int[0, 6], Gen.Double[-5, 1e6],
            (fraction, phase, outcome, sent, rounds, seconds) =>
            {
                var migration = new Migration
                {
                    Phase = (MigrationPhase)phase,
                    Outcome = (MigrationOutcome)outcome,
                    TotalSeconds = seconds,
                    SavedBytes = { ["zero"] = sent / 2 },
                    Progress =
                        new Godwit.Api.V1.Progress { Fraction = fraction, SentBytes = sent, SecondsLeft = seconds },
                };
                for (int i = 0; i < rounds; i++)
                {
                    migration.Rounds.Add(new Round { Number = (uint)i });
                }

                return migration;
            });
        message.List[1, 30].Sample(messages =>
        {
            var state = new ProgressState();
            var former = (
                Fraction: 0.0, Phase: MigrationPhase.Preparing, Round: 0, Sent: 0ul, Saved: 0ul, Elapsed: 0.0);
            foreach (var next in messages)
            {
                state.Update(next);
                Assert.InRange(state.Fraction, former.Fraction, 1);
                Assert.True(state.Phase >= former.Phase);
                Assert.True(state.Round >= former.Round);
                Assert.True(state.SentBytes >= former.Sent && state.SavedBytes >= former.Saved);
                Assert.True(state.ElapsedSeconds >= former.Elapsed);
                Assert.DoesNotContain('\n', state.ToLine());
                former = (state.Fraction, state.Phase, state.Round, state.SentBytes, state.SavedBytes,
                    state.ElapsedSeconds);
            }
        });
    }

    [Fact]
    public void Only_a_completed_move_shows_a_hundred_percent()
    {
        var state = new ProgressState();
        var migration = Samples.Migration(MigrationOutcome.Pending, MigrationPhase.Copying);
        migration.Progress.Fraction = 1;
        state.Update(migration);
        Assert.Equal(0.99, state.Fraction);
        state.Update(Samples.Migration(MigrationOutcome.Failed));
        Assert.Equal(0.99, state.Fraction);
        var completed = new ProgressState();
        completed.Update(Samples.Migration());
        Assert.Equal(1, completed.Fraction);
    }

    [Fact]
    public void A_line_says_everything_about_the_round()
    {
        var state = new ProgressState();
        state.Update(Samples.Migration(MigrationOutcome.Pending, MigrationPhase.Copying));
        Assert.Equal(
            "  12.3 s   88%  copying round 2  sent 179 MiB  saved 341 MiB  dirty 1 MiB/s  wire 94.4 Mbit/s"
            + "  pause 210 of 300 ms  left 2.5 s  converging",
            state.ToLine());
    }

    [Fact]
    public void Lines_come_at_changes_and_every_few_seconds_only()
    {
        var clock = new ManualClock();
        var output = new StringWriter();
        using var lines = new LineProgress(output, clock);
        var migration = Samples.Migration(MigrationOutcome.Pending, MigrationPhase.Copying);
        int Count() => output.ToString().Split('\n').Length - 1;
        lines.Show(migration);
        Assert.Equal(1, Count());
        lines.Show(migration);
        clock.Advance(TimeSpan.FromSeconds(2.9));
        lines.Show(migration);
        Assert.Equal(1, Count());
        clock.Advance(TimeSpan.FromSeconds(0.2));
        lines.Show(migration);
        Assert.Equal(2, Count());
        migration.Rounds.Add(new Round());
        lines.Show(migration);
        Assert.Equal(3, Count());
        migration.Phase = MigrationPhase.Switchover;
        lines.Show(migration);
        Assert.Equal(4, Count());
    }

    // Goal: the redrawn block leaves nothing behind, so that the answer stands alone in the scroll-back.
    [Fact]
    public void A_live_view_wipes_as_many_lines_as_it_drew()
    {
        var output = new StringWriter();
        var live = new LiveProgress(output, "web1: a to b");
        live.Show(Samples.Migration(MigrationOutcome.Pending, MigrationPhase.Copying));
        live.Show(Samples.Migration(MigrationOutcome.Pending, MigrationPhase.Copying));
        live.Note("a note");
        live.Dispose();
        string text = output.ToString();
        int drawn = text.Split('\n').Length - 1 - 1;
        int wiped = System.Text.RegularExpressions.Regex.Matches(text, "\e\\[([0-9]+)F")
            .Sum(match => int.Parse(match.Groups[1].Value, null));
        Assert.Equal(drawn, wiped);
        Assert.Contains("88%", text, StringComparison.Ordinal);
        Assert.Contains("210 ms expected, 300 ms allowed; converging", text, StringComparison.Ordinal);
        Assert.EndsWith("\e[?25h", text, StringComparison.Ordinal);
    }

    private sealed class ManualClock : TimeProvider
    {
        private long _now;

        public override long TimestampFrequency => TimeSpan.TicksPerSecond;

        public override long GetTimestamp() => _now;

        public void Advance(TimeSpan time) => _now += time.Ticks;
    }
}
