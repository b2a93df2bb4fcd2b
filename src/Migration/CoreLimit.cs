namespace Godwit.Migration;

/// <summary>A token bucket of processor time over all lanes: work may begin while it is not in debt.</summary>
public sealed class CoreLimit(double cores, TimeSpan now)
{
    private static readonly TimeSpan Burst = TimeSpan.FromMilliseconds(10);
    private TimeSpan _left = Burst * cores;
    private TimeSpan _last = now;

    /// <summary>How long until the next batch may be worked on; zero if it may be now.</summary>
    public TimeSpan Wait(TimeSpan now)
    {
        if (cores <= 0)
        {
            return TimeSpan.Zero;
        }

        TimeSpan filled = _left + ((now - _last) * cores);
        _left = filled < Burst * cores ? filled : Burst * cores;
        _last = now;
        return _left < TimeSpan.Zero ? -_left / cores : TimeSpan.Zero;
    }

    public void Pay(TimeSpan time) => _left -= cores > 0 ? time : TimeSpan.Zero;
}
