using CsCheck;
using Godwit.Migration.Habits;

namespace Godwit.Migration.Tests.Habits;

public sealed class ResumeHabitsTests
{
    // A Monday.
    private static readonly DateTimeOffset Monday = new(2026, 3, 2, 0, 0, 0, TimeSpan.FromHours(2));

    private static readonly Gen<PastSleep> AnySleep =
        from host in Gen.Int[0, 3]
        from to in Gen.Int[0, 3]
        from minutes in Gen.Int[0, 60 * 24 * 60]
        from slept in Gen.Int[0, 60 * 24 * 5]
        select new PastSleep(
            $"h{host}", Monday.AddMinutes(minutes), $"h{to}", Monday.AddMinutes(minutes + slept));

    [Fact]
    public void Nothing_is_said_of_a_guest_that_never_slept() =>
        Assert.Null(ResumeHabits.Predict([], "a", Monday));

    [Fact]
    public void Who_works_in_the_office_by_day_and_at_home_by_night_is_expected_there()
    {
        List<PastSleep> past = [.. Enumerable.Range(0, 5).SelectMany(day => Day(Monday.AddDays(day)))];
        ExpectedResume evening = ResumeHabits.Predict(past, "office", Monday.AddDays(7).AddHours(18.5))!;
        Assert.Equal("home", evening.Host);
        Assert.InRange(evening.Share, 0.7, 0.95);
        Assert.Equal(Monday.AddDays(7).AddHours(20), evening.Resumed);
        Assert.Equal((5, 5), (evening.Evidence[0].Resumes, evening.Evidence[0].Alike));

        ExpectedResume night = ResumeHabits.Predict(past, "home", Monday.AddDays(7).AddHours(23))!;
        Assert.Equal("office", night.Host);
        Assert.Equal(Monday.AddDays(8).AddHours(9), night.Resumed);

        // Over the weekend too, which is no workday.
        ExpectedResume weekend = ResumeHabits.Predict(past, "home", Monday.AddDays(4).AddHours(23))!;
        Assert.Equal(("office", Monday.AddDays(7).AddHours(9)), (weekend.Host, weekend.Resumed));
    }

    [Fact]
    public void A_new_habit_takes_the_place_of_an_old_one()
    {
        List<PastSleep> past = [.. Enumerable.Range(0, 20).Select(day => Night(Monday.AddDays(day), "a", "b"))];
        DateTimeOffset now = Monday.AddDays(60).AddHours(18);
        Assert.Equal("b", ResumeHabits.Predict(past, "a", now)!.Host);
        past.AddRange(Enumerable.Range(53, 6).Select(day => Night(Monday.AddDays(day), "a", "c")));
        Assert.Equal("c", ResumeHabits.Predict(past, "a", now)!.Host);
    }

    [Fact]
    public void One_sleep_is_worth_a_try_and_two_that_contradict_each_other_are_not()
    {
        DateTimeOffset now = Monday.AddDays(2).AddHours(18);
        PastSleep first = Night(Monday.AddDays(1), "a", "b");
        Assert.True(ResumeHabits.Predict([first], "a", now)!.Share >= ResumeHabits.ShareWorthwhile);
        Assert.True(ResumeHabits.Predict([first, Night(Monday, "a", "c")], "a", now)!.Share
            < ResumeHabits.ShareWorthwhile);
        // What it did when it left another host says little.
        Assert.True(ResumeHabits.Predict([first with { SuspendedOn = "x" }], "a", now)!.Share
            < ResumeHabits.ShareWorthwhile);
    }

    [Fact]
    public void A_nap_is_expected_to_last_as_long_as_the_last_ones()
    {
        DateTimeOffset noon = Monday.AddHours(12);
        List<PastSleep> past = [new("a", noon, "a", noon.AddMinutes(10)), new("a", noon, "a", noon.AddMinutes(30))];
        past.Add(past[1]);
        Assert.Equal(noon.AddHours(2.5), ResumeHabits.Predict(past, "a", noon.AddHours(2))!.Resumed);
    }

    [Fact]
    public void It_depends_on_what_happened_and_on_nothing_else() =>
        Gen.Select(AnySleep.List[1, 40], Gen.Int[0, 60 * 24 * 90], Gen.Int[0, 3]).Sample((past, minutes, host) =>
        {
            DateTimeOffset now = Monday.AddMinutes(minutes);
            ExpectedResume first = ResumeHabits.Predict(past, $"h{host}", now)!;
            Assert.Contains(past, sleep => sleep.ResumedOn == first.Host);
            Assert.InRange(first.Evidence.Sum(one => one.Share), 0, 1);
            Assert.Equal(past.Count, first.Evidence.Sum(one => one.Resumes));
            Assert.All(first.Evidence, one => Assert.InRange(one.Alike, 0, one.Resumes));
            Assert.True(first.Resumed >= now);
            past.Reverse();
            ExpectedResume again = ResumeHabits.Predict(past, $"h{host}", now)!;
            Assert.Equal((first.Host, first.Resumed), (again.Host, again.Resumed));
            // A further resume there speaks for it.
            past.Add(new PastSleep($"h{host}", now.AddDays(-1), first.Host, now.AddHours(-14)));
            ExpectedResume more = ResumeHabits.Predict(past, $"h{host}", now)!;
            Assert.Equal(first.Host, more.Host);
            Assert.True(more.Share > first.Share);
        });

    private static PastSleep[] Day(DateTimeOffset midnight) =>
    [
        new("office", midnight.AddHours(18), "home", midnight.AddHours(19.5)),
        new("home", midnight.AddHours(23), "office", midnight.AddDays(midnight.DayOfWeek is DayOfWeek.Friday ? 3 : 1)
            .AddHours(9)),
    ];

    private static PastSleep Night(DateTimeOffset midnight, string from, string to) =>
        new(from, midnight.AddHours(18), to, midnight.AddHours(33));
}
