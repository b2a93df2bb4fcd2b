namespace Godwit.Migration;

/// <summary>
/// What the wire carries, from the destination's acknowledgements, and how much may be on its way at once.
/// </summary>
/// <remarks>
/// Bytes accepted by a socket say nothing: buffers of megabytes lie between it and the wire. Only acknowledged bytes
/// count, and only over spans in which something was on its way, so an idle link is not taken for a slow one.
/// </remarks>
internal sealed class LinkEstimate
{
    private const double MemorySeconds = 0.5;
    private const long WindowBytesMin = 512 << 10;
    private const long WindowBytesStart = 4 << 20;
    private const long WindowBytesMax = 64 << 20;
    private const long TrustedBytes = 4 << 20;
    private static readonly TimeSpan RoundTripForget = TimeSpan.FromSeconds(10);

    // Half of it is what a receiver keeps unacknowledged at most then.
    private const long WindowBytesShort = 128 << 10;

    private bool _keepsShort;
    private double _bytes;
    private double _seconds;
    private TimeSpan _lastAcknowledged;
    private bool _wasBusy;
    private TimeSpan _roundTripMin = TimeSpan.MaxValue;
    private TimeSpan _roundTripMinAt;

    /// <summary>Bytes the lanes have sent, frame headers included.</summary>
    public long Sent { get; private set; }

    /// <summary>Bytes of them that the destination has taken in.</summary>
    public long Acknowledged { get; private set; }

    public long InFlight => Sent - Acknowledged;

    /// <summary>Bytes per second; 0 until known.</summary>
    public double Rate => _seconds > 0.002 ? _bytes / _seconds : 0;

    /// <summary>Enough has crossed for <see cref="Rate"/> to be held against a guest that is paused already.</summary>
    public bool Trusted => Acknowledged >= TrustedBytes;

    public TimeSpan RoundTrip => _roundTripMin == TimeSpan.MaxValue ? TimeSpan.Zero : _roundTripMin;

    /// <summary>
    /// Bytes that may be on their way: twice what the link holds, so that it never runs dry, and no more, so that the
    /// guest's own packets and the last pages before the switchover do not queue behind megabytes.
    /// </summary>
    public long Window => _keepsShort && Rate > 0
        ? Math.Clamp((long)(1.25 * Rate * (RoundTrip.TotalSeconds + 0.003)), WindowBytesShort, WindowBytesMax)
        : Rate <= 0
        ? WindowBytesStart
        : Math.Clamp(
            (long)(2 * Rate * (RoundTrip.TotalSeconds + 0.005)) + WindowBytesMin, WindowBytesMin, WindowBytesMax);

    /// <summary>From now on somebody waits for single pages: the link's queue is kept as short as can be.</summary>
    public void KeepShort() => _keepsShort = true;

    public void OnSent(long bytes, TimeSpan now)
    {
        if (InFlight == 0)
        {
            _lastAcknowledged = now;
            _wasBusy = true;
        }

        Sent += bytes;
    }

    /// <param name="totalBytes">Everything acknowledged so far.</param>
    /// <param name="now">When this was heard.</param>
    /// <param name="starved">
    /// There was nothing more to send: the sample then says how little was asked of the link, not how little it can do,
    /// and counts only if it is better than what is known (as in BBR's bandwidth filter).
    /// </param>
    public void OnAcknowledged(long totalBytes, TimeSpan now, bool starved)
    {
        long bytes = totalBytes - Acknowledged;
        if (bytes <= 0)
        {
            return;
        }

        Acknowledged = totalBytes;
        double seconds = (now - _lastAcknowledged).TotalSeconds;
        if (_wasBusy && seconds > 0 && (!starved || bytes / seconds > Rate))
        {
            double keep = Math.Exp(-seconds / MemorySeconds);
            _bytes = (_bytes * keep) + bytes;
            _seconds = (_seconds * keep) + seconds;
        }

        _lastAcknowledged = now;
        _wasBusy = InFlight > 0;
    }

    public void OnRoundTrip(TimeSpan roundTrip, TimeSpan now)
    {
        if (roundTrip <= _roundTripMin || now - _roundTripMinAt > RoundTripForget)
        {
            _roundTripMin = roundTrip;
            _roundTripMinAt = now;
        }
    }
}
