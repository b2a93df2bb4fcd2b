using System.Globalization;

namespace Godwit.Migration.Convergence;

/// <summary>What is known of a guest and a link before a move.</summary>
public sealed record ForecastFacts
{
    /// <summary>Pages that somebody has written.</summary>
    public required long UsedPages { get; init; }
    /// <summary>What a page of a sample takes on the wire, coded.</summary>
    public required double WireBytesPerPage { get; init; }
    /// <summary>What a page takes that is sent again, often a delta; 0 if nothing tells.</summary>
    public double AgainBytesPerPage { get; init; }
    /// <summary>What the processors take for the first round, however fast the link is.</summary>
    public TimeSpan FirstRoundLeast { get; init; }
    /// <summary>Pages that change per second, while none has changed twice.</summary>
    public required double DirtyPagesPerSecond { get; init; }
    /// <summary>Pages that change at all; the more the guest writes, the nearer it comes to them.</summary>
    public required double WorkingSetPages { get; init; }
    public required double LinkBytesPerSecond { get; init; }
    /// <summary>Postcopy is possible between the two hosts.</summary>
    public required bool Postcopy { get; init; }
    public TimeSpan RoundTrip { get; init; }
    /// <summary>The first round comes last to what the guest writes before its turn.</summary>
    public bool HoldsWritten { get; init; }
    /// <summary>All of the guest's memory; 0 if only <see cref="UsedPages"/> is known.</summary>
    public long TotalPages { get; init; }
}

/// <summary>Plays a move through on paper: rounds, the ladder's steps, the pause.</summary>
/// <param name="Method">precopy, hybrid or postcopy; empty if the move would not end.</param>
public sealed record Forecast(string Method, ForecastReport Report, IReadOnlyList<string> Steps)
{
    /// <summary>What the guest's pause may be by the end of the steps; null for as long as it takes.</summary>
    public TimeSpan? PauseMax { get; private init; }
    /// <summary>By how much the guest has to be slowed for rounds to end, in percent; 0 if it need not be.</summary>
    public int ThrottlePercent { get; private init; }
    /// <summary>What a page took that is sent again, in the sample; 0 if nothing tells.</summary>
    public double AgainBytesPerPage { get; private init; }
    /// <summary>Why this method, with the numbers that speak for it.</summary>
    public string Reason { get; private init; } = "";

    private const int RoundsMax = 60;
    // More than a lifetime: a number that fits everywhere.
    private const double SecondsMax = 1e9;
    private const double RatioMax = 0.9;
    // The models' own errors, as seen on the lab's guests.
    private const double Low = 0.8;
    private const double High = 1.25;
    // Of what a guest writes in a minute a second has seldom shown less than the eighth part.
    private const double Unseen = 8;
    // The lanes' beginning, the looks at what little is left, and the hand-over.
    private const double BesidesSeconds = 0.15;
    // A hybrid goes on with rounds as long as each leaves so much less.
    private const double ShrinkWanted = 0.7;
    private const int PolishRounds = 4;
    // Slowing the guest may send so many times what postcopy would, which risks it for a while.
    private const double SlowingWorth = 1.5;
    private const double QuietSeconds = 0.004;
    private const double CatchUpSeconds = 0.3;
    // A round of next to nothing lasts until QEMU has looked at its bitmap.
    private const double RoundSeconds = 0.05;

    /// <summary>What comes of the move under this policy, by the rules of <see cref="SourceEngine"/>.</summary>
    public static Forecast Of(ForecastFacts facts, MigrationPolicy policy) =>
        Weigh(facts, policy) with { AgainBytesPerPage = facts.AgainBytesPerPage };

    private static Forecast Weigh(ForecastFacts facts, MigrationPolicy policy)
    {
        Forecast climbed = Play(facts, policy);
        if (climbed.ThrottlePercent == 0 || !facts.Postcopy)
        {
            return climbed;
        }

        Forecast turned = Play(facts, policy with
        {
            Steps = [.. policy.Steps.Where(step => step.Action != LadderAction.Throttle)],
        });
        double more = climbed.Report.BytesHigh / (double)Math.Max(1, turned.Report.BytesHigh);
        return turned.Method != "hybrid" || more <= SlowingWorth ? climbed : turned with
        {
            Reason = string.Create(CultureInfo.InvariantCulture,
                $"{turned.Reason}; slowed by {climbed.ThrottlePercent} % it would send {more:0.0} times as much"),
        };
    }

    private static Forecast Play(ForecastFacts facts, MigrationPolicy policy)
    {
        double rate = facts.LinkBytesPerSecond;
        if (policy.BandwidthBitsPerSecond > 0)
        {
            rate = Math.Min(rate, policy.BandwidthBitsPerSecond / 8.0);
        }

        rate = Math.Max(rate, 1);
        double dirty = facts.DirtyPagesPerSecond;
        double budget = policy.DowntimeMax.TotalSeconds;
        double bytes = facts.UsedPages * facts.WireBytesPerPage;
        double seconds = Math.Max(bytes / rate, facts.FirstRoundLeast.TotalSeconds);
        double again = facts.AgainBytesPerPage > 0 ? facts.AgainBytesPerPage : facts.WireBytesPerPage;
        string writes = string.Create(
            CultureInfo.InvariantCulture,
            $"it writes {dirty * again / 1e6:0.0} MB/s as coded, the link carries "
            + $"{rate / 1e6:0.0} MB/s");
        var steps = new List<string>();
        if (policy.Method == MigrationMethod.Postcopy && facts.Postcopy && TurnKeeps(facts.UsedPages))
        {
            return Make("postcopy", bytes, seconds, Turn(facts.UsedPages), steps, "");
        }

        bool TurnKeeps(double missing) => Turn(missing) <= budget;
        double Turn(double missing) => SourceEngine.PostcopyDowntime(
            (long)missing, Math.Max(facts.UsedPages, facts.TotalPages), 0, rate, facts.RoundTrip).TotalSeconds;

        double set = Left(facts, dirty, facts.UsedPages, seconds);
        // A hybrid turns where rounds leave no less: not after all the rounds that show that they are in vain.
        (double Set, double Bytes, double Seconds)? early = facts.HoldsWritten ? TurnBeforeWritten(facts, rate) : null;
        (double Set, double Bytes, double Seconds)? turn = early;
        string vain = "";
        int step = 0;
        int slowed = 0;
        for (int round = 0, stalled = 0; round < RoundsMax; round++)
        {
            double setBytes = set * again;
            double pause = (setBytes / rate) + SourceEngine.DowntimeOfHandOver.TotalSeconds;
            if (pause <= SourceEngine.DowntimePlanned(TimeSpan.FromSeconds(budget)).TotalSeconds)
            {
                // As the engine does: a round more as long as it shortens the pause by much.
                for (int more = 0; more < PolishRounds && setBytes / rate > QuietSeconds; more++)
                {
                    double left = again * Left(
                        facts, dirty, setBytes / again, Math.Max(setBytes / rate, RoundSeconds));
                    if (left > setBytes * ShrinkWanted)
                    {
                        break;
                    }

                    bytes += setBytes;
                    seconds += setBytes / rate;
                    setBytes = left;
                }

                pause = (setBytes / rate) + SourceEngine.DowntimeOfHandOver.TotalSeconds;
                return Make(
                    "precopy", bytes + setBytes, seconds + (setBytes / rate), pause, steps,
                    steps.Count > 0 ? $"{writes}: {string.Join(", then ", steps)}"
                        : $"{writes}: rounds come to fit the pause") with
                {
                    PauseMax = TimeSpan.FromSeconds(budget),
                    ThrottlePercent = slowed,
                };
            }

            double next = Left(facts, dirty, set, setBytes / rate);
            turn = early ?? (Shrinks(facts, dirty, set, setBytes / rate) ? null : turn ?? (set, bytes, seconds));
            if (policy.Method == MigrationMethod.Hybrid && facts.Postcopy && turn is { } now && TurnKeeps(now.Set))
            {
                return Hybrid("");
            }

            bytes += setBytes;
            seconds += setBytes / rate;
            stalled = next > set * RatioMax ? stalled + 1 : 0;
            set = next;
            if (stalled < 2)
            {
                continue;
            }

            stalled = 0;
            if (step >= policy.Steps.Count)
            {
                break;
            }

            LadderStep taken = policy.Steps[step++];
            double ratio = dirty * again / rate;
            int needed = ConvergenceModel.ThrottleNeeded(ratio);
            switch (taken.Action)
            {
                case LadderAction.Throttle when needed <= taken.Value:
                    dirty *= 1 - (needed / 100.0);
                    slowed = Math.Max(slowed, needed);
                    steps.Add(string.Create(CultureInfo.InvariantCulture, $"slow the guest by {needed} %"));
                    break;
                case LadderAction.Throttle:
                    vain = string.Create(
                        CultureInfo.InvariantCulture,
                        $"; it would have to be slowed by {needed} %, and {taken.Value} % are allowed");
                    break;
                case LadderAction.Pause:
                    budget = Math.Max(budget, taken.Value / 1000.0);
                    steps.Add(taken.Text);
                    break;
                case LadderAction.Postcopy when facts.Postcopy && policy.Method != MigrationMethod.Precopy
                    && TurnKeeps(turn?.Set ?? set):
                    steps.Clear();
                    steps.Add(taken.Text);
                    return Hybrid($"{writes}: rounds would never fit the pause{vain}");
                case LadderAction.Abort:
                    return Make("", bytes, seconds, 0, steps, $"{writes}: rounds would never fit the pause{vain}");
            }
        }

        if (policy.OnStall == OnStall.Pause)
        {
            double rest = set * again;
            steps.Add("pause the guest for as long as it takes");
            return Make(
                "precopy", bytes + rest, seconds + (rest / rate), rest / rate, steps,
                $"{writes}: rounds would never fit the pause, and any is allowed");
        }

        return Make("", bytes, seconds, 0, steps, $"{writes}: rounds would never fit the pause{vain}");

        Forecast Hybrid(string reason)
        {
            (double left, double sent, double took) = turn ?? (set, bytes, seconds);
            // What follows the guest goes whole.
            double rest = left * Math.Max(again, facts.WireBytesPerPage);
            return Make("hybrid", sent + rest, took + (rest / rate), Turn(left), steps, reason);
        }
    }

    // The first round sends what the guest leaves alone, and all else would be written again before it has gone. What
    // is written before its turn makes that part of the round shorter, which leaves less time for it to be written.
    private static (double Set, double Bytes, double Seconds)? TurnBeforeWritten(ForecastFacts facts, double rate)
    {
        double dirty = facts.DirtyPagesPerSecond;
        double held = 0;
        double bytes = 0;
        double seconds = 0;
        for (int i = 0; i < 20; i++)
        {
            bytes = (facts.UsedPages - held) * facts.WireBytesPerPage;
            seconds = Math.Max(bytes / rate, facts.FirstRoundLeast.TotalSeconds);
            held = (held + Math.Min(Left(facts, dirty, facts.UsedPages, seconds), facts.UsedPages)) / 2;
        }

        double set = Math.Max(held, Distinct(facts, dirty, seconds));
        return Shrinks(facts, dirty, set, set * facts.WireBytesPerPage / rate) ? null : (set, bytes, seconds);
    }

    // A page that is written twice counts once: the set fills up like an urn.
    internal static double Distinct(ForecastFacts facts, double dirtyPerSecond, double seconds) =>
        facts.WorkingSetPages < 1 ? 0
        : facts.WorkingSetPages * (1 - Math.Exp(-dirtyPerSecond * seconds / facts.WorkingSetPages));

    /// <summary>A round of so many pages is worth its time: far fewer are written in it.</summary>
    internal static bool Shrinks(ForecastFacts facts, double dirtyPerSecond, double set, double seconds) =>
        Distinct(facts, dirtyPerSecond, seconds) <= set * ShrinkWanted;

    /// <summary>Pages that a round of <paramref name="set"/> leaves to send.</summary>
    /// <remarks>
    /// Of its own those count that are written after their turn, which comes anywhere in it; of the others all that are
    /// written. What is written before a turn is known only as often as the feed is caught up with.
    /// </remarks>
    internal static double Left(ForecastFacts facts, double dirtyPerSecond, double set, double seconds)
    {
        double written = Distinct(facts, dirtyPerSecond, seconds);
        double turns = dirtyPerSecond * seconds / Math.Max(1, facts.WorkingSetPages);
        if (turns < 1e-6)
        {
            return written;
        }

        double sent = Math.Min(1, set / facts.WorkingSetPages);
        double behind = facts.WorkingSetPages * (1 - ((1 - Math.Exp(-turns)) / turns));
        return Math.Max(
            Distinct(facts, dirtyPerSecond, Math.Min(seconds, CatchUpSeconds)),
            (sent * behind) + ((1 - sent) * written));
    }

    private static Forecast Make(
        string method, double bytes, double seconds, double pause, IReadOnlyList<string> steps, string reason) => new(
        method,
        new ForecastReport(
            (long)(bytes * Low), (long)(bytes * High), Span((seconds + BesidesSeconds) * Low),
            Span((seconds + BesidesSeconds) * High),
            Span(pause * Low), Span(pause * High)),
        steps)
    {
        Reason = reason,
    };

    private static TimeSpan Span(double seconds) => TimeSpan.FromSeconds(Math.Min(seconds, SecondsMax));

    /// <summary>Of how many pages <paramref name="writes"/> at random hit <paramref name="distinct"/> ones.</summary>
    public static double WorkingSet(double distinct, double writes, long pagesMax)
    {
        if (distinct < 1 || writes <= distinct * 1.05)
        {
            return distinct < 1 ? 0 : pagesMax;
        }

        // distinct = set (1 - e^(-writes / set)) grows with the set.
        (double low, double high) = (distinct, Math.Max(distinct, pagesMax));
        for (int i = 0; i < 40; i++)
        {
            double middle = (low + high) / 2;
            if (middle * (1 - Math.Exp(-writes / middle)) < distinct)
            {
                low = middle;
            }
            else
            {
                high = middle;
            }
        }

        return high;
    }

    /// <summary>The working set and its rate, from what share of a sample had changed at two instants.</summary>
    /// <param name="pages">That the sample stands for.</param>
    /// <param name="early">Share that had changed after <paramref name="earlySeconds"/>.</param>
    /// <param name="late">Share that had changed after <paramref name="lateSeconds"/>.</param>
    public static (double PagesPerSecond, double WorkingSetPages) FromSample(
        long pages, double early, double earlySeconds, double late, double lateSeconds)
    {
        late = Math.Max(early, late);
        if (late <= 0)
        {
            return (0, 0);
        }

        double perSecond = Math.Max(early / earlySeconds, late / lateSeconds) * pages;
        double share = Math.Min(SetOf(early, earlySeconds, late, lateSeconds), Unseen * late);
        return (perSecond, Math.Min(pages * share, pages));
    }

    // Two points of an urn that fills up: early = set (1 - x), late = set (1 - x^k), k being the times' ratio.
    private static double SetOf(double early, double earlySeconds, double late, double lateSeconds)
    {
        double times = lateSeconds / earlySeconds;
        if (early <= 0 || late / early >= times * 0.98)
        {
            return 1;
        }

        (double low, double high) = (0, 1);
        for (int i = 0; i < 40; i++)
        {
            double middle = (low + high) / 2;
            if ((1 - Math.Pow(middle, times)) / (1 - middle) < late / early)
            {
                low = middle;
            }
            else
            {
                high = middle;
            }
        }

        return early / (1 - low);
    }
}
