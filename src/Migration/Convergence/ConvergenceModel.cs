namespace Godwit.Migration.Convergence;

/// <summary>Predicts what further rounds would leave to send.</summary>
/// <remarks>
/// A round that sends S bytes at rate R takes S / R, in which the guest dirties D S / R anew: each round leaves
/// D / R of the one before, a geometric series while D is below R. A guest that writes a small set over and over
/// dirties less than that, because the same page twice counts once; so what a round really left counts too.
/// </remarks>
public sealed class ConvergenceModel
{
    // Above it a series of rounds sends more than ten times what is left.
    private const double RatioMax = 0.9;
    private const double WantedRatio = 0.67;
    private long _least = long.MaxValue;

    /// <summary>Rounds since the last that left less than all before it, or could be expected to.</summary>
    public int StalledRounds { get; private set; }

    /// <summary>Rounds since the last that left less than all before it, whatever could be expected.</summary>
    public int RoundsInVain { get; private set; }

    /// <summary>The same, whether what is left fits the pause or not.</summary>
    public int RoundsAlike { get; private set; }

    /// <summary>D / R: what the next round leaves of this one.</summary>
    public double Ratio { get; private set; }

    /// <summary>A round is over.</summary>
    /// <param name="pages">Left to send.</param>
    /// <param name="dirtyBytesPerSecond">As they would cross the wire.</param>
    /// <param name="linkBytesPerSecond">0 if not known.</param>
    /// <param name="fits">What is left fits the pause.</param>
    public void RoundEnded(long pages, double dirtyBytesPerSecond, double linkBytesPerSecond, bool fits)
    {
        Ratio = linkBytesPerSecond > 0 ? dirtyBytesPerSecond / linkBytesPerSecond : 0;
        // Less than ever: rounds that leave now more and now less, for ever, come to nothing.
        bool shrinks = pages < _least * RatioMax;
        _least = shrinks ? pages : _least;
        RoundsAlike = shrinks ? 0 : RoundsAlike + 1;
        RoundsInVain = fits || shrinks ? 0 : RoundsInVain + 1;
        StalledRounds = RoundsInVain == 0 || Ratio < RatioMax ? 0 : StalledRounds + 1;
    }

    /// <summary>Something was done about it: what came before says nothing any more.</summary>
    public void Reset()
    {
        StalledRounds = RoundsInVain = RoundsAlike = 0;
        _least = long.MaxValue;
    }

    /// <summary>By how much, in percent, the guest has to write less for rounds to shrink by a third.</summary>
    public static int ThrottleNeeded(double unslowedRatio) =>
        unslowedRatio <= WantedRatio ? 1 : (int)Math.Ceiling(100 * (1 - (WantedRatio / unslowedRatio)));
}
