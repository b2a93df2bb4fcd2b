namespace Godwit.Migration;

/// <summary>Whether a lane codes its next batch: only when that gets pages across sooner.</summary>
/// <remarks>
/// Coding B bytes at C bytes per second to a share r of them pays on a link of W bytes per second when
/// B/C + rB/W &lt; B/W, that is when W &lt; C(1 - r). All three are measured on this lane as it goes; every so
/// often the other way is tried again, because the guest's pages and the link change.
/// </remarks>
public sealed class CodingChoice(bool allowed)
{
    private const int TryAgainEvery = 64;
    private const double Keep = 0.9;
    private double _coderRate;
    private double _share = 0.5;
    private double _linkRate;
    private bool _linkBusy;
    private int _batches;

    /// <summary>The lane had to wait for the link: time spent coding costs nothing then.</summary>
    public void LinkWasBusy() => _linkBusy = true;

    public bool Codes(int contentPages)
    {
        if (!allowed || contentPages == 0)
        {
            return false;
        }

        _batches++;
        if (_coderRate == 0 || _linkRate == 0 || _batches % TryAgainEvery == 0)
        {
            return true;
        }

        bool busy = _linkBusy;
        _linkBusy = false;
        return _share < 0.97 && (busy || _linkRate < _coderRate * (1 - _share));
    }

    /// <summary>What a batch cost.</summary>
    public void Measured(bool coded, int rawBytes, int wireBytes, TimeSpan codingTime, TimeSpan writingTime)
    {
        if (rawBytes == 0)
        {
            return;
        }

        if (coded)
        {
            Blend(ref _coderRate, rawBytes / Math.Max(codingTime.TotalSeconds, 1e-7));
            _share = (_share * Keep) + ((double)wireBytes / rawBytes * (1 - Keep));
        }

        Blend(ref _linkRate, wireBytes / Math.Max(writingTime.TotalSeconds, 1e-7));
    }

    private static void Blend(ref double average, double sample) =>
        average = average == 0 ? sample : (average * Keep) + (sample * (1 - Keep));
}
