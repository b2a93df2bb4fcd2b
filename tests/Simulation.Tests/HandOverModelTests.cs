using Godwit.Migration.HandOver;
using static Godwit.Simulation.HandOverModel;

namespace Godwit.Simulation.Tests;

public class HandOverModelTests
{
    // Any order of steps, and any four faults at any instants.
    private const int FaultsMax = 4;

    // States in which the destination waits for a commit that the source has recorded and can tell it of.
    private int _toArrive;

    [Fact]
    public void The_guest_never_runs_twice_and_always_ends_in_one_place()
    {
        (int states, string? violation) = Explore(Mistake.None);
        Assert.True(violation is null, violation);
        // It did look.
        Assert.InRange(states, 1000, int.MaxValue);
        Assert.InRange(_toArrive, 1, int.MaxValue);
    }

    [Theory]
    [InlineData((int)Mistake.CommitSentBeforeItIsRecorded)]
    [InlineData((int)Mistake.StreamNotHeld)]
    [InlineData((int)Mistake.GuestRunBeforeItIsRecorded)]
    [InlineData((int)Mistake.CopyEndedBeforeTheAnswer)]
    [InlineData((int)Mistake.UnknownTakenForRuns)]
    [InlineData((int)Mistake.RefusedAndStillWaiting)]
    [InlineData((int)Mistake.CommitFoundInTheJournalTold)]
    public void A_planted_mistake_is_found(int mistake) => Assert.NotNull(Explore((Mistake)mistake).Violation);

    // Breadth first, so that the path printed is the shortest.
    private (int States, string? Violation) Explore(Mistake mistake)
    {
        var start = new HandOverModel();
        var from = new Dictionary<HandOverModel, HandOverModel?> { [start] = null };
        var queue = new Queue<HandOverModel>([start]);
        while (queue.TryDequeue(out HandOverModel? state))
        {
            if (state.Violation is { } violation)
            {
                return (from.Count, Path(violation, state, from));
            }

            if (Quiet(state, mistake) is { } unsettled)
            {
                return (from.Count, Path($"ends as {unsettled}", state, from));
            }

            if (mistake == Mistake.None && state is { IsToArrive: true, SourceMoves: false })
            {
                _toArrive++;
                if (End(state, mistake) is not { DestinationCopy: GuestCopy.Running })
                {
                    return (from.Count, Path("does not arrive", state, from));
                }
            }

            IEnumerable<HandOverModel> next = state.Steps(mistake);
            if (state.Faults < FaultsMax)
            {
                next = next.Concat(state.Strikes(mistake));
            }

            foreach (HandOverModel one in next)
            {
                if (from.TryAdd(one, state))
                {
                    queue.Enqueue(one);
                }
            }
        }

        return (from.Count, null);
    }

    // What becomes of it when everything comes back and nothing else fails; null if the guest is in one place then.
    private static HandOverModel? Quiet(HandOverModel state, Mistake mistake)
    {
        HandOverModel now = End(state, mistake);
        return now.Violation is null && (now.IsSettled || now.SourceMoves) ? null : now;
    }

    private static HandOverModel End(HandOverModel state, Mistake mistake)
    {
        HandOverModel now = state.Healed();
        for (int steps = 0; steps < 100; steps++)
        {
            HandOverModel? next = now.Steps(mistake).FirstOrDefault(one => one != now);
            if (next is null)
            {
                break;
            }

            now = next;
        }

        return now;
    }

    private static string Path(
        string what, HandOverModel end, Dictionary<HandOverModel, HandOverModel?> from)
    {
        var path = new List<string>();
        for (HandOverModel? at = end; at is not null; at = from[at])
        {
            path.Add(at.ToString());
        }

        path.Reverse();
        return $"{what}\n{string.Join("\n", path)}";
    }
}
