namespace Godwit.Simulation.Tests;

// Goal: whatever fails at whatever instant, at most one copy of a guest runs, nothing is lost, and it comes to an end.
// Method: each seed is two hosts, a link, a guest that keeps writing, and a random set of faults; World checks after
// every step, and Conformance holds the engines and the rules against the model of the hand-over.
// Replay: ./test simulate --seed <the seed that the failure names>
public class SimulationTests
{
    private const int Seeds = 10_000;

    [Fact]
    public void Ten_thousand_seeds_find_nothing()
    {
        SwarmResult result = Swarm.Play(0, Seeds, Canary.None);
        Assert.True(result.Seed is null, $"./test simulate --seed {result.Seed}: {result.Violation}");
        Assert.Equal(Seeds, result.Played);
        // They met what they are made for.
        foreach (string end in (string[])
            ["Cancelled", "DiedHere", "DiedThere", "Failed", "NotConverged", "RunsHere", "RunsThere", "StartedHere",
                "decided", "guest died", "guest runs", "not prepared", "unsettled"])
        {
            Assert.True(result.Counts.GetValueOrDefault(end) > 0, $"no seed ended as '{end}'");
        }
    }

    public static TheoryData<string> Canaries =>
        [.. Enum.GetNames<Canary>().Where(name => name != nameof(Canary.None))];

    [Theory]
    [MemberData(nameof(Canaries))]
    public void A_planted_mistake_is_found_within_ten_thousand_seeds(string canary)
    {
        SwarmResult result = Swarm.Play(0, Seeds, Enum.Parse<Canary>(canary));
        Assert.NotNull(result.Seed);
    }

    [Fact]
    public void A_seed_replays_exactly()
    {
        for (int seed = 0; seed < 50; seed++)
        {
            var first = new World(seed, keepsLog: true);
            first.Run();
            var second = new World(seed, keepsLog: true);
            second.Run();
            Assert.Equal(first.Log, second.Log);
            Assert.Equal(first.Report.Steps, second.Report.Steps);
        }
    }

    [Fact]
    public void A_seed_without_faults_moves_its_guest()
    {
        int[] calm = [.. Enumerable.Range(0, 200).Where(seed => new World(seed).Plan.IsCalm)];
        Assert.NotEmpty(calm);
        foreach (int seed in calm)
        {
            var world = new World(seed);
            Assert.Null(world.Run());
            Assert.Equal(0, world.Report.Faults);
            Assert.DoesNotContain(world.Report.Counts.Keys, end => end is "Failed" or "unsettled" or "guest died");
        }
    }
}
