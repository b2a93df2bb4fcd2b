namespace Godwit.Simulation;

/// <summary>What happened in a seed, to see that the seeds meet what they are made for.</summary>
internal sealed class SeedReport
{
    public Dictionary<string, int> Counts { get; } = [];

    public int Faults { get; set; }

    public long Steps { get; set; }

    public void Count(string what) => Counts[what] = Counts.GetValueOrDefault(what) + 1;
}
