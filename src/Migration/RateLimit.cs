namespace Godwit.Migration;

/// <summary>A token bucket over all lanes: bytes may be sent while it is not in debt.</summary>
/// <remarks>
/// A batch's coded size is known only after the fact, so a lane pays afterwards and the next batch waits for the debt
/// to be worked off. The burst is small: a cap that is exceeded for a second is no cap to the link's other users.
/// </remarks>
internal sealed class RateLimit
{
    private const double BurstSeconds = 0.01;

    // TLS records and the headers of TCP and IP, at 1448 bytes of content in a packet of 1500.
    public const double OnTheWire = 1.04;
    private double _tokens;
    private TimeSpan _last;

    /// <summary>Bits per second; 0 for no limit.</summary>
    public long BitsPerSecond { get; private set; }

    public void Set(long bitsPerSecond, TimeSpan now)
    {
        Refill(now);
        BitsPerSecond = bitsPerSecond;
        _tokens = Math.Min(_tokens, Burst);
    }

    /// <summary>How long until the next batch may go; zero if it may go now.</summary>
    public TimeSpan Wait(TimeSpan now)
    {
        Refill(now);
        return BitsPerSecond == 0 || _tokens >= 0
            ? TimeSpan.Zero
            : TimeSpan.FromSeconds(-_tokens * 8 / BitsPerSecond);
    }

    /// <summary>A frame of so many bytes is sent; what the layers below add to it is paid too.</summary>
    public void Pay(long bytes)
    {
        if (BitsPerSecond != 0)
        {
            _tokens -= bytes * OnTheWire;
        }
    }

    private double Burst => BitsPerSecond / 8.0 * BurstSeconds;

    private void Refill(TimeSpan now)
    {
        if (BitsPerSecond != 0)
        {
            _tokens = Math.Min(Burst, _tokens + ((now - _last).TotalSeconds * BitsPerSecond / 8));
        }

        _last = now;
    }
}
