using System.Collections.Concurrent;

namespace Godwit.Simulation;

/// <summary>What came of many seeds.</summary>
/// <param name="Seed">The lowest that failed; null if none did.</param>
/// <param name="Counts">How moves and guests ended.</param>
internal sealed record SwarmResult(
    int? Seed, string? Violation, int Played, long Steps, long Faults, IReadOnlyDictionary<string, long> Counts);

/// <summary>Plays many seeds on all processors.</summary>
internal static class Swarm
{
    /// <param name="played">Called now and then with the number of seeds that are over.</param>
    internal static SwarmResult Play(int from, int seeds, Canary canary, Action<int>? played = null)
    {
        var counts = new ConcurrentDictionary<string, long>();
        var failures = new ConcurrentBag<(int Seed, string Violation)>();
        long steps = 0;
        long faults = 0;
        int over = 0;
        Parallel.For(from, from + seeds, (seed, state) =>
        {
            // Seeds below the lowest failure are still played: the lowest is the one to name.
            if (state.ShouldExitCurrentIteration && state.LowestBreakIteration < seed)
            {
                return;
            }

            var world = new World(seed, canary);
            string? violation;
            try
            {
                violation = world.Run();
            }
            catch (Exception e)
            {
                violation = e.ToString();
            }

            if (violation is not null)
            {
                failures.Add((seed, violation));
                state.Break();
            }

            Interlocked.Add(ref steps, world.Report.Steps);
            Interlocked.Add(ref faults, world.Report.Faults);
            foreach ((string what, int count) in world.Report.Counts)
            {
                counts.AddOrUpdate(what, count, (_, before) => before + count);
            }

            int done = Interlocked.Increment(ref over);
            if (done % 100 == 0)
            {
                played?.Invoke(done);
            }
        });
        (int Seed, string Violation)? first = failures.IsEmpty ? null : failures.MinBy(failure => failure.Seed);
        return new SwarmResult(first?.Seed, first?.Violation, over, steps, faults, counts);
    }
}
