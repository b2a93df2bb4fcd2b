using System.Globalization;
using Godwit.Migration.Convergence;
using Godwit.Pages;

namespace Godwit.Migration;

// Which method: the forecast's, until what has been measured says another; and whether a turn keeps the pause budget.
public sealed partial class SourceEngine
{
    // What is sent again is often a delta, which the first round tells nothing of: so many pages tell.
    private const int AgainPagesTold = 1024;
    // Device state of a small guest; what it really takes is known only when the guest stands still.
    private const int PackageBytes = 128 << 10;
    // One round may be an accident, but no burst of writes lasts as long as this.
    private static readonly TimeSpan RoundOfNoAccident = TimeSpan.FromSeconds(3);
    // The package's loading, the commit, and a processor that waits for the first pages it needs.
    private static readonly TimeSpan PostcopyHandOver = TimeSpan.FromMilliseconds(60);

    private string _expectedMethod = "";
    private bool _expectsThrottle;
    private double _expectedAgainBytes;
    private int _throttleLooks;
    private string _choice = "";
    // The engine's own, from what it has measured.
    private bool _hasChosen;
    private string _turnRefused = "";
    // Looks in a row at which rounds were found to be hopeless.
    private int _hopelessLooks;
    private bool _lookedInRound;
    private bool _turnsWhenGranted;
    private long _roundSet;
    private long _roundWritten;
    private TimeSpan _roundTook;

    /// <summary>No pause budget below it can be kept by a turn to postcopy, whatever the guest.</summary>
    public static TimeSpan PostcopyDowntimeLeast => PostcopyHandOver;

    /// <summary>
    /// The pause of a turn to postcopy: what is on its way, the list of what is missing, device state, and its loading.
    /// </summary>
    /// <param name="missingPages">That the destination will lack.</param>
    /// <param name="bytesPerSecond">Of the link; 0 if not known.</param>
    public static TimeSpan PostcopyDowntime(
        long missingPages, long totalPages, long bytesInFlight, double bytesPerSecond, TimeSpan roundTrip)
    {
        long regions = Math.Min(missingPages, (totalPages / Page.RegionPages) + 1);
        double bytes = bytesInFlight + PackageBytes + (regions * Wire.ControlMessage.PagesMissing.EntryBytes);
        double seconds = bytesPerSecond <= 0 ? 0 : Math.Min(bytes / bytesPerSecond, 1e6);
        return PostcopyHandOver + (2 * roundTrip) + TimeSpan.FromSeconds(seconds);
    }

    /// <summary>What was expected of the move before it began: method auto follows it until it knows better.</summary>
    public void Expect(Forecast forecast, TimeSpan now)
    {
        _now = now;
        _expectedMethod = forecast.Method;
        _expectedAgainBytes = forecast.AgainBytesPerPage;
        _expectsThrottle = forecast.ThrottlePercent > 0;
        if (!_hasChosen)
        {
            _choice = forecast.Reason;
        }
    }

    private void Choose(string reason)
    {
        _choice = reason;
        _hasChosen = true;
    }

    private int LooksWanted(bool wasExpected) => wasExpected || _roundTook >= RoundOfNoAccident ? 1 : 2;

    private bool TurnKeepsBudget()
    {
        if (EffectiveRate() <= 0)
        {
            return false;
        }

        TimeSpan pause = PostcopyDowntime(
            _queue!.Waiting, _queue.TotalPages, _link.InFlight, EffectiveRate(), _link.RoundTrip);
        _turnRefused = pause <= _downtimeMax ? "" : string.Create(
            CultureInfo.InvariantCulture,
            $"turning to postcopy would pause the guest for {pause.TotalMilliseconds:0} ms, and "
            + $"{_downtimeMax.TotalMilliseconds:0} ms are allowed");
        return _turnRefused.Length == 0;
    }

    // All that waits will be missing: a round that leaves much less is worth its time.
    private bool NextRoundShrinks()
    {
        double rate = EffectiveRate();
        if (rate <= 0)
        {
            return false;
        }

        ForecastFacts facts = Measured();
        return Forecast.Shrinks(
            facts, facts.DirtyPagesPerSecond, _queue!.Waiting, _queue.Waiting * facts.WireBytesPerPage / rate);
    }

    /// <summary>The guest and the link as this move has found them.</summary>
    private ForecastFacts Measured()
    {
        double dirty = _writtenBytesPerSecond / Page.Size;
        double written = dirty * Math.Max(_roundTook.TotalSeconds, LookSeconds);
        return new ForecastFacts
        {
            UsedPages = _roundSet,
            WireBytesPerPage = WireBytesPerDirtyPage(),
            DirtyPagesPerSecond = dirty,
            WorkingSetPages = Forecast.WorkingSet(_roundWritten, written, _queue!.TotalPages),
            LinkBytesPerSecond = EffectiveRate(),
            Postcopy = CanTurnToPostcopy,
            RoundTrip = _link.RoundTrip,
            TotalPages = _queue.TotalPages,
        };
    }

    /// <summary>
    /// Method auto: true if rounds cannot come to fit the pause, whatever the ladder allows before postcopy.
    /// </summary>
    private bool RoundsAreHopeless()
    {
        // The forecast has tried on a sample what is sent again: where it expected this, no page has to tell first.
        bool wasExpected = _expectedMethod == "hybrid";
        if (_policy.Method != MigrationMethod.Auto || !CanTurnToPostcopy || !KnowsWhatRoundsLeave
            || !(wasExpected || KnowsWhatIsSentAgain))
        {
            return false;
        }

        Forecast now = ForecastFrom(_nextStep);
        _hopelessLooks = now.Method == "hybrid" ? _hopelessLooks + 1 : 0;
        if (_hopelessLooks == 0 && wasExpected)
        {
            Choose($"{now.Reason}; hybrid was expected before the move began");
        }

        bool hopeless = _hopelessLooks >= LooksWanted(wasExpected);
        if (hopeless)
        {
            Choose(now.Reason);
        }

        return hopeless;
    }

    private bool KnowsWhatRoundsLeave => _policy.Pacing == Pacing.Full && _link.Trusted
        && !(_throttleMax > 0 && _now - _steppedAt < ThrottlePatience);

    private bool KnowsWhatIsSentAgain =>
        !_policy.Compression || _againPages + AgainNow >= Math.Min(AgainPagesTold, _roundSet);

    /// <summary>What would come of going on from a step of the ladder, as all is now.</summary>
    private Forecast ForecastFrom(int step) => Forecast.Of(Measured(), _policy with
    {
        DowntimeMax = _downtimeMax,
        BandwidthBitsPerSecond = 0,
        Steps = [.. _policy.Steps.Skip(step)],
    });

    /// <summary>Slows the guest as soon as the model says that rounds end only so; by as much as it says.</summary>
    private bool ThrottlesWhenNeeded()
    {
        if (_nextStep >= _policy.Steps.Count || _policy.Steps[_nextStep].Action != LadderAction.Throttle
            || !KnowsWhatRoundsLeave || !KnowsWhatIsSentAgain)
        {
            return false;
        }

        _throttleLooks = ForecastFrom(_nextStep).ThrottlePercent > 0 ? _throttleLooks + 1 : 0;
        return _throttleLooks >= LooksWanted(_expectsThrottle) && Throttle(_policy.Steps[_nextStep]);
    }

    // What the first round has left is what the guest writes: where postcopy is to bring it, it need not go before.
    private bool TurnsBeforeWritten()
    {
        if (!CanTurnToPostcopy || !_link.Trusted || ExpectedDowntime() <= DowntimePlanned(_downtimeMax)
            || (_policy.Method == MigrationMethod.Auto && _expectedMethod != "hybrid"))
        {
            return false;
        }

        _roundSet = _queue!.Waiting;
        _roundWritten = _queue.Written;
        _roundTook = _now - _roundStartedAt;
        _writtenBytesPerSecond = WrittenBytesPerSecond();
        if (_policy.Method == MigrationMethod.Auto)
        {
            return TurnsWhenHopeless();
        }

        if (!TurnsToPostcopyNow())
        {
            return false;
        }

        Turn();
        return true;
    }

    // Once in a round before its end: as soon as enough has been sent again to know what that costs. The first round
    // could not be judged at its end, for want of that.
    private bool DecidesInRound()
    {
        if (_lookedInRound || !_firstRoundEnded || !KnowsWhatIsSentAgain
            || !(_expectedMethod == "hybrid" || _rounds.Count == 1))
        {
            return false;
        }

        _lookedInRound = true;
        return TurnsWhenHopeless() || ThrottlesWhenNeeded();
    }

    private bool TurnsWhenHopeless()
    {
        if (!RoundsAreHopeless() || NextRoundShrinks() || !TurnKeepsBudget() || !MayTurn())
        {
            return false;
        }

        Turn();
        return true;
    }

    // Its turn among the host's moves may come in the middle of a round: pages go on till then.
    private bool MayTurn()
    {
        bool may = MaySwitchOver();
        _turnsWhenGranted = !may;
        return may;
    }

    private bool TurnsAsDecided()
    {
        if (!_turnsWhenGranted || !_hasTurn || !CanTurnToPostcopy || !TurnKeepsBudget())
        {
            return false;
        }

        Turn();
        return true;
    }

    private void Turn()
    {
        _turnsWhenGranted = false;
        if (_policy.Method == MigrationMethod.Auto)
        {
            _nextStep = _policy.Steps.TakeWhile(step => step.Action != LadderAction.Postcopy).Count() + 1;
            Took(_policy.Steps[_nextStep - 1].Text);
        }

        RequestPostcopy();
    }

    // The package is made: what the pause will be is known better than at the turn, and nobody has been told yet.
    private bool PackageKeepsBudget(int packageBytes, long missingBytes)
    {
        double rate = EffectiveRate();
        TimeSpan paused = _now - _pausedAt;
        // No cap holds for the control lane, and under one nothing tells how fast the link is.
        double bytes = _bandwidth > 0 ? 0 : _link.InFlight + packageBytes + missingBytes;
        TimeSpan expected = paused + HandOverCost + (2 * _link.RoundTrip)
            + TimeSpan.FromSeconds(rate <= 0 ? 0 : Math.Min(bytes / rate, 1e6));
        if (expected <= _downtimeMax || !_link.Trusted)
        {
            return true;
        }

        Fail(MigrationOutcome.NotConverged, "pause-budget",
            $"With {_options.Guest} paused for postcopy after {paused.TotalMilliseconds:0} ms, "
            + $"{(packageBytes + missingBytes) / 1e3:0} kB of device state and of the list of missing pages were left "
            + $"to send: a pause of {expected.TotalMilliseconds:0} ms; {_downtimeMax.TotalMilliseconds:0} ms are "
            + "allowed. Allow a longer pause (--max-downtime).");
        return false;
    }
}
