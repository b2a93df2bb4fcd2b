using System.Numerics;
using Godwit.Pages;

namespace Godwit.Migration.Postcopy;

/// <summary>How long a guest waits for each page that it touches before it is there.</summary>
/// <remarks>
/// Durations are kept in classes that grow by an eighth, so that a percentile is right to 6 % and costs no memory
/// however many faults there are.
/// </remarks>
public sealed class FaultClock
{
    private const int ClassesPerDoubling = 8;
    private readonly Dictionary<(int Block, long Page), TimeSpan> _waiting = [];
    private readonly long[] _classes = new long[64 * ClassesPerDoubling];
    private long _count;
    private TimeSpan _total;
    private TimeSpan _longest;

    /// <summary>Pages that the guest waits for now.</summary>
    public IEnumerable<(int Block, PageNumber Page)> Waiting =>
        _waiting.Keys.Select(key => (key.Block, new PageNumber(key.Page)));

    /// <summary>QEMU asks for a page. One that it waits for already counts once.</summary>
    /// <returns>False if it does.</returns>
    public bool Asked(int block, PageNumber page, TimeSpan now) => _waiting.TryAdd((block, page.Value), now);

    /// <summary>The page is in QEMU's hands.</summary>
    public void Given(int block, PageNumber page, TimeSpan now)
    {
        if (_waiting.Count == 0 || !_waiting.Remove((block, page.Value), out TimeSpan asked))
        {
            return;
        }

        TimeSpan waited = now - asked;
        _count++;
        _total += waited;
        _longest = waited > _longest ? waited : _longest;
        _classes[ClassOf(waited)]++;
    }

    public FaultReport Report() => new(
        _count, _count == 0 ? TimeSpan.Zero : _total / _count, Percentile(0.5), Percentile(0.99), _longest);

    private TimeSpan Percentile(double share)
    {
        long left = (long)Math.Ceiling(_count * share);
        for (int i = 0; i < _classes.Length; i++)
        {
            left -= _classes[i];
            if (left <= 0 && _count > 0)
            {
                long ticks = TicksOf(i + 1);
                return ticks < _longest.Ticks ? TimeSpan.FromTicks(ticks) : _longest;
            }
        }

        return _longest;
    }

    // Classes of one doubling divide it evenly.
    private static int ClassOf(TimeSpan duration)
    {
        long ticks = Math.Max(1, duration.Ticks);
        int doubling = BitOperations.Log2((ulong)ticks);
        long within = doubling >= 3 ? (ticks >> (doubling - 3)) & 7 : (ticks << (3 - doubling)) & 7;
        return (doubling * ClassesPerDoubling) + (int)within;
    }

    private static long TicksOf(int index)
    {
        int doubling = index / ClassesPerDoubling;
        long eighths = 8 + (index % ClassesPerDoubling);
        return doubling >= 3 ? eighths << (doubling - 3) : eighths >> (3 - doubling);
    }
}
