using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;

namespace Godwit.Simulation;

/// <summary>The command line: one seed with its story, or many.</summary>
internal static class Commands
{
    private const string Usage = """
        godwit-simulate --seed N              one seed, with everything that happens in it
        godwit-simulate --seeds N [--from N]  N seeds; stops at the first that fails and says which
        [--canary NAME]                       with a planted mistake
        """;

    /// <returns>0 if nothing was wrong, 1 if something was, 2 for a usage error.</returns>
    internal static int Run(string[] arguments)
    {
        int? seed = null;
        int seeds = 0;
        int from = 0;
        var canary = Canary.None;
        for (int i = 0; i < arguments.Length; i++)
        {
            string value = i + 1 < arguments.Length ? arguments[i + 1] : "";
            bool isNumber = int.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out int number);
            switch (arguments[i++])
            {
                case "--seed" when isNumber:
                    seed = number;
                    break;
                case "--seeds" when isNumber:
                    seeds = number;
                    break;
                case "--from" when isNumber:
                    from = number;
                    break;
                case "--canary" when Enum.TryParse(value, out canary) && Enum.IsDefined(canary):
                    break;
                default:
                    Console.Error.WriteLine(Usage);
                    Console.Error.WriteLine($"Canaries: {string.Join(", ", Enum.GetNames<Canary>())}");
                    return 2;
            }
        }

        return seed is { } one ? Tell(one, canary) : Play(from, seeds > 0 ? seeds : 10_000, canary);
    }

    private static int Tell(int seed, Canary canary)
    {
        var world = new World(seed, canary, keepsLog: true);
        string? violation = world.Run();
        Console.WriteLine(world.Log);
        Console.WriteLine(violation is null ? $"seed {seed}: nothing is wrong" : $"seed {seed}: {violation}");
        return violation is null ? 0 : 1;
    }

    private static int Play(int from, int seeds, Canary canary)
    {
        long begun = Stopwatch.GetTimestamp();
        using var bar = new ProgressBar(seeds);
        SwarmResult result = Swarm.Play(from, seeds, canary, bar.Advance);
        bar.Dispose();
        double seconds = Stopwatch.GetElapsedTime(begun).TotalSeconds;
        Console.WriteLine($"{result.Played} seeds, {result.Steps} steps, {result.Faults} faults in {seconds:0.0} s: "
            + $"{result.Played / seconds:0} seeds a second");
        foreach ((string what, long count) in result.Counts.OrderBy(each => each.Key, StringComparer.Ordinal))
        {
            Console.WriteLine($"  {count,9} {what}");
        }

        if (result.Seed is not { } seed)
        {
            return 0;
        }

        Console.WriteLine($"seed {seed}: {result.Violation}");
        Console.WriteLine($"Its story: ./test simulate --seed {seed}"
            + (canary == Canary.None ? "" : $" --canary {canary}"));
        return 1;
    }
}
