namespace Godwit.Simulation;

/// <summary>Virtual time: what is to happen, in order, and the one source of chance.</summary>
/// <remarks>Two runs with one seed are the same run: nothing here looks at a clock or at an address.</remarks>
internal sealed class Timeline(int seed)
{
    private readonly PriorityQueue<Action, (long Ticks, long Number)> _events = new();
    private long _number;

    public TimeSpan Now { get; private set; }

    public Random Chance { get; } = new(seed);

    /// <summary>Events that have happened.</summary>
    public long Steps { get; private set; }

    public void After(TimeSpan delay, Action what) =>
        _events.Enqueue(what, ((Now + (delay < TimeSpan.Zero ? TimeSpan.Zero : delay)).Ticks, _number++));

    /// <summary>Lets the next event happen; false if nothing is left to happen.</summary>
    public bool Step()
    {
        if (!_events.TryDequeue(out Action? what, out (long Ticks, long Number) at))
        {
            return false;
        }

        Now = TimeSpan.FromTicks(Math.Max(Now.Ticks, at.Ticks));
        Steps++;
        what();
        return true;
    }

    public bool Happens(double probability) => probability > 0 && Chance.NextDouble() < probability;

    /// <summary>A span between two bounds.</summary>
    public TimeSpan Between(double minMilliseconds, double maxMilliseconds) => TimeSpan.FromMilliseconds(
        minMilliseconds + (Chance.NextDouble() * (maxMilliseconds - minMilliseconds)));
}
