using System.Globalization;

namespace Godwit.Migration.Convergence;

/// <summary>What is known of a guest and a link before a move.</summary>
public sealed record ForecastFacts
{
    /// <summary>Pages that somebody has written.</summary>
    public required long UsedPages { get; init; }
    /// <summary>What a page of a sample takes on the wire, coded.</summary>
    public required double WireBytesPerPage { get; init; }
    /// <summary>Pages that change per second, while none has changed twice.</summary>
    public required double DirtyPagesPerSecond { get; init; }
    /// <summary>Pages that change at all; the more the guest writes, the nearer it comes to them.</summary>
    public required double WorkingSetPages { get; init; }
    public required double LinkBytesPerSecond { get; init; }
    /// <summary>Postcopy is possible between the two hosts.</summary>
    public required bool Postcopy { get; init; }
}

/// <summary>Plays a move through on paper: rounds, the ladder's steps, the pause.</summary>
/// <param name="Method">precopy, hybrid or postcopy; empty if the move would not end.</param>
public sealed record Forecast(string Method, ForecastReport Report, IReadOnlyList<string> Steps)
{
    /// <summary>What the guest's pause may be by the end of the steps; null for as long as it takes.</summary>
    public TimeSpan? PauseMax { get; private init; }

    private const int RoundsMax = 60;
    // More than a lifetime: a number that fits everywhere.
    private const double SecondsMax = 1e9;
    private const double RatioMax = 0.9;
    // The models' own errors, as seen on the lab's guests.
    private const double Low = 0.8;
    private const double High = 1.25;
    private const double BudgetPlanned = 0.8;
    // A package of device state, and a processor that waits for its first pages.
    private static readonly TimeSpan PostcopyPause = TimeSpan.FromMilliseconds(60);

    public static Forecast Of(ForecastFacts facts, MigrationPolicy policy)
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
        double seconds = bytes / rate;
        var steps = new List<string>();
        if (policy.Method == MigrationMethod.Postcopy && facts.Postcopy)
        {
            return Make("postcopy", bytes, seconds, PostcopyPause.TotalSeconds, steps);
        }

        double set = Distinct(facts, dirty, seconds);
        int step = 0;
        for (int round = 0, stalled = 0; round < RoundsMax; round++)
        {
            double setBytes = set * facts.WireBytesPerPage;
            double pause = (setBytes / rate) + SourceEngine.DowntimeLeast.TotalSeconds;
            if (policy.Method == MigrationMethod.Hybrid && facts.Postcopy)
            {
                return Make("hybrid", bytes + setBytes, seconds + (setBytes / rate), PostcopyPause.TotalSeconds, steps);
            }

            if (pause <= budget * BudgetPlanned)
            {
                return Make("precopy", bytes + setBytes, seconds + (setBytes / rate), pause, steps) with
                {
                    PauseMax = TimeSpan.FromSeconds(budget),
                };
            }

            double next = Distinct(facts, dirty, setBytes / rate);
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
            double ratio = dirty * facts.WireBytesPerPage / rate;
            int needed = ConvergenceModel.ThrottleNeeded(ratio);
            switch (taken.Action)
            {
                case LadderAction.Throttle when needed <= taken.Value:
                    dirty *= 1 - (needed / 100.0);
                    steps.Add(string.Create(CultureInfo.InvariantCulture, $"slow the guest by {needed} %"));
                    break;
                case LadderAction.Pause:
                    budget = Math.Max(budget, taken.Value / 1000.0);
                    steps.Add(taken.Text);
                    break;
                case LadderAction.Postcopy when facts.Postcopy:
                    steps.Add(taken.Text);
                    double rest = set * facts.WireBytesPerPage;
                    return Make("hybrid", bytes + rest, seconds + (rest / rate), PostcopyPause.TotalSeconds, steps);
                case LadderAction.Abort:
                    return Make("", bytes, seconds, 0, steps);
            }
        }

        if (policy.OnStall == OnStall.Pause)
        {
            double rest = set * facts.WireBytesPerPage;
            steps.Add("pause the guest for as long as it takes");
            return Make("precopy", bytes + rest, seconds + (rest / rate), rest / rate, steps);
        }

        return Make("", bytes, seconds, 0, steps);
    }

    // A page that is written twice counts once: the set fills up like an urn.
    private static double Distinct(ForecastFacts facts, double dirtyPerSecond, double seconds) =>
        facts.WorkingSetPages < 1 ? 0
        : facts.WorkingSetPages * (1 - Math.Exp(-dirtyPerSecond * seconds / facts.WorkingSetPages));

    private static Forecast Make(
        string method, double bytes, double seconds, double pause, IReadOnlyList<string> steps) => new(
        method,
        new ForecastReport(
            (long)(bytes * Low), (long)(bytes * High), Span(seconds * Low), Span((seconds * High) + 0.5),
            Span(pause * Low), Span(pause * High)),
        steps);

    private static TimeSpan Span(double seconds) => TimeSpan.FromSeconds(Math.Min(seconds, SecondsMax));

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
        // Had each change been another page, the late share would be the early one times the times' ratio.
        double fresh = early <= 0 ? 1 : Math.Min(1, late / (early * lateSeconds / earlySeconds));
        double set = fresh > 0.9 ? pages : pages * late / Math.Max(0.1, 1 - (fresh * fresh));
        return (perSecond, Math.Min(set, pages));
    }
}
