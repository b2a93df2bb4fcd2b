namespace Godwit.Migration;

/// <summary>Whether a lane codes its next batch: only when that gets pages across sooner.</summary>
/// <remarks>
/// Coding and decoding B bytes, together at C bytes per second, to a share r of them pays on a link of W bytes per
/// second when B/C + rB/W &lt; B/W, that is when W &lt; C(1 - r). C and r are measured on this lane as it goes, W where
/// the destination acknowledges; every so often a batch is coded anyway, because the guest's pages change.
/// </remarks>
public sealed class CodingChoice(bool allowed)
{
    private const int TryAgainEvery = 64;
    private const double Keep = 0.9;
    // LZ4 decodes about three times as fast as it codes.
    private const double CodingShare = 0.75;
    private double _coderRate;
    private double _share = 0.5;
    private int _batches;

    /// <param name="contentPages">Pages in the batch that are not zero.</param>
    /// <param name="linkRate">This lane's share of what the link carries, in bytes per second; 0 if not known.</param>
    public bool Codes(int contentPages, double linkRate)
    {
        if (!allowed || contentPages == 0)
        {
            return false;
        }

        _batches++;
        return _coderRate == 0 || linkRate <= 0 || _batches % TryAgainEvery == 0
            || linkRate < _coderRate * CodingShare * (1 - _share);
    }

    /// <summary>What coding a batch cost and gave.</summary>
    public void Coded(int rawBytes, int codedBytes, TimeSpan time)
    {
        double rate = rawBytes / Math.Max(time.TotalSeconds, 1e-7);
        _coderRate = _coderRate == 0 ? rate : (_coderRate * Keep) + (rate * (1 - Keep));
        _share = (_share * Keep) + ((double)codedBytes / rawBytes * (1 - Keep));
    }
}
