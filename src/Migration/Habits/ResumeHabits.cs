namespace Godwit.Migration.Habits;

/// <summary>A sleep of a guest that has ended.</summary>
public sealed record PastSleep(
    string SuspendedOn, DateTimeOffset Suspended, string ResumedOn, DateTimeOffset Resumed);

/// <summary>What speaks for a host.</summary>
/// <param name="Resumes">Sleeps that ended there.</param>
/// <param name="Alike">Of them, those that began on the same host, at about the same time of a like day.</param>
/// <param name="Weight">Of all of them, by age and likeness; one that is fresh and alike weighs 1.</param>
/// <param name="Share">Of the weight of all hosts, and of what is not known.</param>
public sealed record HostEvidence(string Host, int Resumes, int Alike, double Weight, double Share);

/// <summary>Where and when a guest is likely to be resumed.</summary>
/// <param name="Evidence">The likeliest host first.</param>
/// <param name="Resumed">In the local time of the question.</param>
public sealed record ExpectedResume(IReadOnlyList<HostEvidence> Evidence, DateTimeOffset Resumed)
{
    public string Host => Evidence[0].Host;

    public double Share => Evidence[0].Share;
}

/// <summary>Predicts a guest's next resume from its past ones, so that every number can be checked by hand.</summary>
/// <remarks>
/// Each past sleep speaks for the host on which it ended, with a weight: half of it for every two weeks of age, a
/// quarter if it began on another host, less the further its beginning is from the hour now, half if that was on a
/// weekend and this is not, or the other way round.
/// </remarks>
public static class ResumeHabits
{
    /// <summary>A share at which it is worth acting upon.</summary>
    public const double ShareWorthwhile = 0.5;

    // As if half a sleep had ended on a host that nobody has heard of: one sleep alone is no habit.
    private const double Unknown = 0.5;
    private const double AlikeMin = 0.99;
    private static readonly TimeSpan HalfLife = TimeSpan.FromDays(14);

    // Shorter sleeps are naps: they last about as long as the last ones. Longer ones end at their time of day.
    private static readonly TimeSpan NapMax = TimeSpan.FromHours(6);

    /// <summary>Predicts how a sleep ends.</summary>
    /// <param name="past">In any order; instants are taken to the local time of <paramref name="suspended"/>.</param>
    /// <param name="suspendedOn">Where it begins.</param>
    /// <param name="suspended">When, in local time.</param>
    /// <returns>Null if nothing is known.</returns>
    public static ExpectedResume? Predict(
        IReadOnlyList<PastSleep> past, string suspendedOn, DateTimeOffset suspended)
    {
        var votes = past.Select(sleep => (Sleep: sleep, Likeness: Likeness(sleep, suspendedOn, suspended),
            Weight: Likeness(sleep, suspendedOn, suspended) * Freshness(sleep, suspended))).ToList();
        double all = Unknown + votes.Sum(vote => vote.Weight);
        List<HostEvidence> evidence =
        [
            .. votes.GroupBy(vote => vote.Sleep.ResumedOn)
                .Select(host => new HostEvidence(
                    host.Key, host.Count(), host.Count(vote => vote.Likeness > AlikeMin),
                    host.Sum(vote => vote.Weight), host.Sum(vote => vote.Weight) / all))
                .OrderByDescending(one => one.Weight).ThenBy(one => one.Host, StringComparer.Ordinal),
        ];
        return evidence.Count == 0 ? null : new ExpectedResume(evidence, Median(
            [
                .. votes.Where(vote => vote.Sleep.ResumedOn == evidence[0].Host)
                    .Select(vote => (End(vote.Sleep, suspended), vote.Weight)),
            ]));
    }

    private static double Freshness(PastSleep sleep, DateTimeOffset now) =>
        Math.Pow(0.5, Math.Max(0, (now - sleep.Resumed) / HalfLife));

    private static double Likeness(PastSleep sleep, string suspendedOn, DateTimeOffset suspended)
    {
        DateTimeOffset began = sleep.Suspended.ToOffset(suspended.Offset);
        double hours = Math.Abs((began.TimeOfDay - suspended.TimeOfDay).TotalHours);
        hours = Math.Min(hours, 24 - hours);
        return (sleep.SuspendedOn == suspendedOn ? 1 : 0.25) * (hours <= 2 ? 1 : hours <= 6 ? 0.5 : 0.25)
            * (IsWeekend(began) == IsWeekend(suspended) ? 1 : 0.5);
    }

    // When a sleep that begins now would end if it were like that one.
    private static DateTimeOffset End(PastSleep sleep, DateTimeOffset suspended)
    {
        TimeSpan slept = sleep.Resumed - sleep.Suspended;
        if (slept < NapMax)
        {
            return suspended + (slept > TimeSpan.Zero ? slept : TimeSpan.Zero);
        }

        DateTimeOffset ended = sleep.Resumed.ToOffset(suspended.Offset);
        DateTimeOffset next = suspended - suspended.TimeOfDay + ended.TimeOfDay;
        while (next <= suspended || IsWeekend(next) != IsWeekend(ended))
        {
            next = next.AddDays(1);
        }

        return next;
    }

    private static DateTimeOffset Median(List<(DateTimeOffset At, double Weight)> votes)
    {
        votes.Sort();
        double half = votes.Sum(vote => vote.Weight) / 2;
        foreach ((DateTimeOffset at, double weight) in votes)
        {
            half -= weight;
            if (half <= 0)
            {
                return at;
            }
        }

        return votes[^1].At;
    }

    private static bool IsWeekend(DateTimeOffset day) => day.DayOfWeek is DayOfWeek.Saturday or DayOfWeek.Sunday;
}
