using Godwit.ChunkStore;
using Godwit.Migration.Convergence;
using Godwit.Pages;

namespace Godwit.Migration;

// Rounds and pacing: when the feed is read, when a round ends, when the rest fits the pause budget.
public sealed partial class SourceEngine
{
    private const int CarriedReserve = 512;

    // A QEMU that holds its switchover re-scans its bitmap for every section it writes, so the feed is opened only
    // now and then while a round drains: often enough that pages dirtied again before their turn are sent once.
    private static readonly TimeSpan CatchUpEvery = TimeSpan.FromMilliseconds(300);

    // The final rounds are worth their cost only while each one shortens the pause noticeably.
    private const double ShrinkWanted = 0.7;
    private const int PolishRoundsMax = 4;
    // With every step taken, rounds go on for as long: the coders and the guest may still change their minds.
    private const int StuckRoundsMax = 8;
    // Some of them looked as if the next would leave less.
    private const int VainRoundsMax = 16;
    private static readonly TimeSpan WorthChoosing = TimeSpan.FromMilliseconds(200);
    private static readonly TimeSpan QuietEnough = TimeSpan.FromMilliseconds(4);

    // The share of the budget planned for: what QEMU finds dirty after our decision has to fit into the rest.
    private const double BudgetPlanned = 0.8;

    // Device state, its loading, commit and resume, as measured with stock QEMU; replaced by nothing better before
    // the pause itself.
    private static readonly TimeSpan HandOverCost = TimeSpan.FromMilliseconds(25);

    /// <summary>No pause budget below it can be kept, whatever the guest.</summary>
    public static TimeSpan DowntimeLeast => HandOverCost + QuietEnough;

    /// <summary>What a pause takes when nothing is left to send.</summary>
    public static TimeSpan DowntimeOfHandOver => HandOverCost;

    /// <summary>What of a pause budget is planned for.</summary>
    /// <remarks>
    /// Of a short one nearly all goes to the hand-over, which no round makes shorter: a share left free would keep the
    /// guest from ever being paused.
    /// </remarks>
    public static TimeSpan DowntimePlanned(TimeSpan budget)
    {
        TimeSpan share = budget * BudgetPlanned;
        TimeSpan least = HandOverCost + (QuietEnough / 2);
        return share >= least ? share : budget >= DowntimeLeast ? least : share;
    }

    // QEMU looks at its bitmap every few milliseconds at best: no rate can be told from less.
    private const double LookSeconds = 0.005;
    private const int AgainPagesTrusted = 256;
    private const int UntrustedBytesMax = 256 << 10;

    private const int DowntimeLimitNever = 1;
    private const int DowntimeLimitAlways = 2_000_000;

    // Clark et al. 2005, section 5.3: first round at the minimum, then the dirty rate plus a step, up to the maximum.
    private const long AdaptiveMin = 100_000_000;
    private const long AdaptiveStep = 50_000_000;
    private const long AdaptiveMax = 500_000_000;
    private const long AdaptiveRemainder = 256 << 10;
    // What the guest writes over and over is not less for being sent once more.
    private const int AdaptiveRoundsAlike = 4;

    private readonly List<RoundReport> _rounds = [];
    private TimeSpan _roundStartedAt;
    private TimeSpan _lastCaughtUp;
    private TimeSpan _lookBeganAt;
    private bool _caughtUp;
    private bool _firstPassDone;
    private bool _firstRoundEnded;
    private bool _switchoverRequested;
    private bool _switchesWhenGranted;
    private int _qemuPass;
    private int _roundPass;
    private long _roundPages;
    private long _roundBytes;
    private long _roundZeroPages;
    private double _againPages;
    private double _againBytes;
    private readonly SavedBytes _saved = new();
    // Since when the writes of this round are counted, and what the queue's counters said then.
    private TimeSpan _countedSince;
    private long _countedBefore;
    private TimeSpan _firstLookAt;
    private long _firstLookCounted;
    private long _pagesSent;
    private long _zeroPagesSent;
    private long _contentFrameBytes;
    private long _previousSet = long.MaxValue;
    private int _polishRounds;
    private double _dirtyBytesPerSecond;
    private int _downtimeLimit = DowntimeLimitNever;

    /// <summary>Pages that are taken now go for the first time, and the guest has written them before that.</summary>
    public bool SendsWritten => _queue is { SendsWritten: true };

    private long AdaptiveCeiling => _bandwidth > 0 ? _bandwidth : AdaptiveMax;

    private long StartRate() => _policy.Pacing == Pacing.Adaptive
        ? Math.Min(AdaptiveMin, AdaptiveCeiling)
        : _bandwidth;

    private bool CarriedRoom() => _carried.Free >= CarriedReserve;

    private bool FeedWanted()
    {
        if (_queue is null || _switchoverRequested || Phase >= MigrationPhase.Switchover)
        {
            return true;
        }

        if (!_options.HoldsSwitchover)
        {
            // This QEMU stops the guest when it likes. Whatever waits here then is part of the pause, so no more is
            // ever taken in than the link drains within a small part of the budget.
            return WireBytesWaiting() < GatedBacklogMax();
        }

        return !_firstPassDone || _queue.Current == 0 || _now - _lastCaughtUp >= CatchUpEvery;
    }

    private double GatedBacklogMax()
    {
        double seconds = Math.Min(0.03, _downtimeMax.TotalSeconds / 4);
        return _link.Window + (EffectiveRate() * seconds);
    }

    /// <summary>
    /// Bytes per second that pages can be expected to cross with: the wire's, or the cap if that is lower.
    /// </summary>
    private double EffectiveRate()
    {
        double cap = _bandwidth / 8.0 / RateLimit.OnTheWire;
        return cap > 0 && (_link.Rate <= 0 || cap < _link.Rate) ? cap : _link.Rate;
    }

    /// <summary>
    /// Bytes per second at which pages cross now: adaptive pacing may hold them below what the pause can expect.
    /// </summary>
    private double LimitedRate() => _limit.BitsPerSecond == 0
        ? EffectiveRate()
        : Math.Min(EffectiveRate(), _limit.BitsPerSecond / 8.0 / RateLimit.OnTheWire);

    private double WireBytesPerPage() =>
        _pagesSent == 0 ? Page.Size : Math.Max(1, (double)_contentFrameBytes / _pagesSent);

    // Pages that are sent again cost much less than the first time, when nothing was there to refer to: what later
    // rounds tell counts, newer ones more, as soon as there is enough of it. A page that was known to the destination
    // cost its name; one that the guest has written since will cost more. What the guest writes may be of quite another
    // kind than what it leaves alone: the forecast has seen some of both.
    private double WireBytesPerDirtyPage() => Math.Max(1,
        _againPages + AgainNow >= AgainPagesTrusted
            ? (_againBytes + (_firstRoundEnded ? _roundBytes : 0)) / (_againPages + AgainNow)
            : _pagesSent - _zeroPagesSent - _knownSent <= 0 ? Page.Size
            : Math.Max(_expectedAgainBytes, (double)(_contentFrameBytes - (_knownSent * ContentName.Size))
                / (_pagesSent - _zeroPagesSent - _knownSent)));

    private long AgainNow => _firstRoundEnded ? _roundPages - _roundZeroPages : 0;

    // Zero pages cost bits and the others kilobytes: an average over both would hide megabytes that still wait.
    private double WireBytesWaiting() => _queue is null
        ? 0
        : _link.InFlight + ((_queue.Waiting - _queue.ZeroWaiting) * WireBytesPerDirtyPage());

    private TimeSpan DrainTime()
    {
        double rate = EffectiveRate();
        double waiting = WireBytesWaiting();
        return waiting < 1 ? TimeSpan.Zero
            : rate <= 0 ? TimeSpan.FromHours(1)
            : TimeSpan.FromSeconds(Math.Min(waiting / rate, 1e6));
    }

    private TimeSpan ExpectedDowntime() => DrainTime() + HandOver() + (2 * _link.RoundTrip);

    private TimeSpan HandOver() => _feedEnded ? HandOverCost : HandOverCost + _options.MemoryCheck.GetValueOrDefault();

    private void Step()
    {
        if (_queue is null || Phase == MigrationPhase.Ended)
        {
            return;
        }

        if (Phase == MigrationPhase.Copying)
        {
            StepRound();
        }
        else
        {
            StepPaused();
        }
    }

    private void StepRound()
    {
        // A guest that reports free pages may leave some unnamed: then QEMU's second look at its bitmap tells.
        if (!_firstPassDone && (_queue!.AllNamed || _qemuPass >= 2))
        {
            FirstPassDone();
        }

        if (_suspended)
        {
            return;
        }

        if (_switchoverRequested)
        {
            CheckBounds();
            return;
        }

        if (_firstPassDone && _queue!.Current == 0 && _queue.HoldsWritten)
        {
            if (TurnsBeforeWritten())
            {
                return;
            }

            _queue.ReleaseWritten();
        }

        // A round is over when its pages have arrived, not when they have left: a guest that writes nothing would
        // otherwise use up its rounds while the first one is still on the wire.
        bool arrived = !_options.HoldsSwitchover || _link.InFlight == 0;
        bool drained = _queue!.Current == 0 && _firstPassDone && arrived;
        if (_policy.Method == MigrationMethod.Postcopy && TurnsToPostcopyNow())
        {
            Turn();
            return;
        }

        if (_queue.Current == 0 && !CarriedRoom() && arrived)
        {
            // Only sending what is carried for the next round makes room for what QEMU has to say about this one.
            if (_firstPassDone)
            {
                EndRound(isWhole: false);
            }
            else
            {
                _queue.BeginRound(mayHold: false);
                CheckBounds();
            }

            return;
        }

        bool passOver = _options.HoldsSwitchover ? _caughtUp : _qemuPass > _roundPass;
        if (!drained)
        {
            // What was caught up with before the round drained says nothing about its last pages.
            _caughtUp = false;
            if (!SwitchesAsDecided() && !TurnsAsDecided() && !DecidesInRound())
            {
                CheckBounds();
            }
        }
        else if (passOver && (!WaitsForTurn || _now - _roundStartedAt >= WaitingRound))
        {
            EndRound(isWhole: true);
        }
    }

    private void FirstPassDone()
    {
        _firstPassDone = true;
        if (_options.HoldsSwitchover)
        {
            // From here on QEMU shall look at its bitmap for every section, and stop the moment it is allowed to.
            SetDowntimeLimit(DowntimeLimitAlways);
        }
    }

    /// <param name="isWhole">QEMU has named everything that was written; otherwise there is more, and nobody knows how
    /// much: it does not fit any pause.</param>
    private void EndRound(bool isWhole)
    {
        TimeSpan took = _now - _roundStartedAt;
        CloseRound();
        // Without a held switchover pages go out in QEMU's order as they come, so the set is known only afterwards.
        long set = _options.HoldsSwitchover ? _queue!.Waiting : _queue!.ReportedThisRound;
        bool shrinking = set < _previousSet * ShrinkWanted;
        _previousSet = set;
        (_roundSet, _roundWritten, _roundTook, _lookedInRound) = (set, _queue.Written, took, false);
        _firstRoundEnded = true;
        TimeSpan expected = _options.HoldsSwitchover
            ? ExpectedDowntime()
            : ExpectedDowntime() + TimeSpan.FromSeconds(set * WireBytesPerDirtyPage() / Math.Max(1, EffectiveRate()));
        // A guest so small that hardly anything has crossed tells nothing of the link, but next to nothing waits
        // either.
        bool fits = isWhole && (_link.Trusted
            ? expected <= DowntimePlanned(_downtimeMax)
            : WireBytesWaiting() <= UntrustedBytesMax);
        _queue.BeginRound(mayHold: _options.HoldsSwitchover && isWhole && !fits);
        if (!fits)
        {
            GiveTurnBack();
        }

        _model.RoundEnded(set, DirtyWireRate(), EffectiveRate(), fits || !_link.Trusted);
        bool paceAllows = FollowDirtyRate(set);
        if (!_options.HoldsSwitchover)
        {
            WidenDowntimeLimit();
            CheckBounds();
            return;
        }

        // What fits the pause needs no postcopy, and takes no risk.
        _turnsWhenGranted = _switchesWhenGranted = false;
        if (!fits && TurnsToPostcopyNow())
        {
            Turn();
            return;
        }

        if (!fits && (TurnsWhenHopeless() || ThrottlesWhenNeeded()))
        {
            return;
        }

        if (fits && paceAllows)
        {
            bool polished = DrainTime() <= QuietEnough || !shrinking || !NextRoundLeavesLess()
                || _polishRounds >= PolishRoundsMax;
            bool may = MaySwitchOver();
            _switchesWhenGranted = polished && !may;
            if (polished && may)
            {
                RequestSwitchover();
                return;
            }

            _polishRounds += may ? 1 : 0;
        }

        CheckBounds();
    }

    // A round that the guest outpaces leaves more than there was, and may never fit again.
    private bool NextRoundLeavesLess()
    {
        ForecastFacts facts = Measured();
        double seconds = DrainTime().TotalSeconds;
        return Forecast.Left(facts, facts.DirtyPagesPerSecond, _queue!.Waiting, seconds)
            <= _queue.Waiting * ShrinkWanted;
    }

    // The turn comes a moment after the round that fitted, and what was written since then is not known yet.
    private bool SwitchesAsDecided()
    {
        if (!_switchesWhenGranted || !_hasTurn)
        {
            return false;
        }

        _switchesWhenGranted = false;
        double written = DirtyWireRate() * (_now - _lastCaughtUp).TotalSeconds / Math.Max(1, EffectiveRate());
        if (ExpectedDowntime() + TimeSpan.FromSeconds(written) > DowntimePlanned(_downtimeMax))
        {
            return false;
        }

        RequestSwitchover();
        return true;
    }

    private void CloseRound()
    {
        TimeSpan duration = _now - _roundStartedAt;
        double seconds = Math.Max(duration.TotalSeconds, LookSeconds);
        _writtenBytesPerSecond = WrittenBytesPerSecond();
        _dirtyBytesPerSecond = WrittenAgain * (double)Page.Size / seconds;
        var round = new RoundReport(
            _rounds.Count, _roundPages, _roundBytes, duration, _writtenBytesPerSecond, _limit.BitsPerSecond,
            _coding.Reason);
        if (_firstRoundEnded)
        {
            _againPages = (_againPages / 2) + (_roundPages - _roundZeroPages);
            _againBytes = (_againBytes / 2) + _roundBytes;
        }

        _rounds.Add(round);
        if (WaitsForTurn)
        {
            _waitingRounds++;
            _waitedFor += duration;
        }

        Do(new Effect.RoundEnded(round));
        _roundStartedAt = _now;
        _roundPages = 0;
        _roundZeroPages = 0;
        _roundBytes = 0;
        (_countedSince, _countedBefore) = (_now, _queue!.Superseded);
        _roundPass = _qemuPass;
        _caughtUp = false;
    }

    private long WrittenAgain => _options.HoldsSwitchover ? _queue!.Next + _queue.HeldWritten
        : _rounds.Count == 0 ? 0 : _queue!.ReportedThisRound;

    private long WritesCounted => WrittenAgain + _queue!.Superseded;

    private double WrittenBytesPerSecond() => (WritesCounted - _countedBefore) * (double)Page.Size
        / Math.Max((_now - _countedSince).TotalSeconds, LookSeconds);

    // While QEMU names all memory for the first time it looks at nothing else: what is written meanwhile shows at once
    // when it is done, each page one time. A first round that goes on for long after that is counted from there.
    private void BeginLookIfDue()
    {
        if (_now - _lookBeganAt < CatchUpEvery)
        {
            return;
        }

        _lookBeganAt = _now;
        _queue?.BeginLook();
        if (!_firstPassDone || _rounds.Count > 0)
        {
            return;
        }

        if (_firstLookAt == TimeSpan.Zero)
        {
            (_firstLookAt, _firstLookCounted) = (_now, WritesCounted);
        }
        else if (_now - _firstLookAt >= 2 * CatchUpEvery)
        {
            (_countedSince, _countedBefore) = (_firstLookAt, _firstLookCounted);
        }
    }

    /// <summary>Adaptive pacing: sets the next round's rate; false while iterating on is still wanted.</summary>
    private bool FollowDirtyRate(long set)
    {
        if (_policy.Pacing != Pacing.Adaptive)
        {
            return true;
        }

        long wanted = (long)(_dirtyBytesPerSecond * 8) + AdaptiveStep;
        bool last = wanted > AdaptiveCeiling || set * WireBytesPerDirtyPage() < AdaptiveRemainder
            || _model.RoundsAlike >= AdaptiveRoundsAlike;
        _limit.Set(last ? AdaptiveCeiling : Math.Max(wanted, Math.Min(AdaptiveMin, AdaptiveCeiling)), _now);
        return last;
    }

    // Without the acknowledgement QEMU stops once its remainder fits bandwidth x limit by its own account, which is
    // the rate at which we read. 1 ms is all but never; a guest that keeps writing needs more, and may have as much as
    // the budget leaves after what waits here and the hand-over.
    private void WidenDowntimeLimit()
    {
        if (_rounds.Count < 3)
        {
            return;
        }

        TimeSpan left = (_downtimeMax * BudgetPlanned) - HandOver() - (2 * _link.RoundTrip)
            - TimeSpan.FromSeconds(GatedBacklogMax() / Math.Max(1, EffectiveRate()));
        double share = _rounds.Count < 6 ? 0.25 : _rounds.Count < 10 ? 0.5 : 1;
        int limit = Math.Max(DowntimeLimitNever, (int)(left.TotalMilliseconds * share));
        if (limit > _downtimeLimit)
        {
            SetDowntimeLimit(limit);
        }
    }

    private void SetDowntimeLimit(int milliseconds)
    {
        _downtimeLimit = milliseconds;
        Do(new Effect.SetDowntimeLimit(milliseconds));
    }

    private void RequestSwitchover()
    {
        _switchoverRequested = true;
        _queue!.BeginLastRound();
        if (_policy.Pacing == Pacing.Adaptive)
        {
            _limit.Set(_bandwidth, _now);
        }

        Do(new Effect.ReleaseSwitchover());
    }

    private double DirtyWireRate() => _dirtyBytesPerSecond / Page.Size * WireBytesPerDirtyPage();

    private void CheckBounds()
    {
        // Whoever waits for its turn goes on with rounds until it has it.
        if (_postcopy || WaitsForTurn || (_switchoverRequested && _budgetWaived))
        {
            return;
        }

        bool adapts = _policy.Pacing == Pacing.Full;
        if (!_switchoverRequested && adapts && ClimbsNow())
        {
            return;
        }

        string? bound =
            _rounds.Count - _waitingRounds >= _policy.RoundsMax
                ? $"{_rounds.Count - _waitingRounds} rounds (the limit is {_policy.RoundsMax})"
            : Running(_now) >= _policy.TimeMax ? $"{_policy.TimeMax.TotalSeconds:0} s (the time limit)"
            : _model.StalledRounds >= StuckRoundsMax && adapts
                ? $"{StuckRoundsMax} rounds in a row that did not shrink"
            : _model.RoundsInVain >= VainRoundsMax && adapts
                ? $"{VainRoundsMax} rounds of which none left less than those before"
            : null;
        if (bound is null || (!_switchoverRequested && Climb()))
        {
            return;
        }

        if (_policy.OnStall == OnStall.Pause)
        {
            _budgetWaived = true;
            if (!_switchoverRequested && _options.HoldsSwitchover)
            {
                // The round may be unfinished: its pages and the next one's all become the last round's.
                RequestSwitchover();
            }
            else if (!_options.HoldsSwitchover)
            {
                SetDowntimeLimit(DowntimeLimitAlways);
                _switchoverRequested = true;
                _queue!.BeginLastRound();
            }

            return;
        }

        NotConverged($"after {bound}");
    }

    private void NotConverged(string when)
    {
        double dirty = _dirtyBytesPerSecond / 1e6;
        double rate = EffectiveRate() / 1e6;
        Fail(MigrationOutcome.NotConverged, "migration-not-converged",
            $"The memory of {_options.Guest} did not converge {when}: it dirties {dirty:0.0} MB/s, the link "
            + $"carries {rate:0.0} MB/s, and pausing it now would take "
            + $"{ExpectedDowntime().TotalMilliseconds:0} ms of the {_downtimeMax.TotalMilliseconds:0} ms "
            + $"allowed{(_turnRefused.Length > 0 ? $"; {_turnRefused}" : "")}. Allow a longer pause (--max-downtime), "
            + "accept any (--on-stall pause), or give it more bandwidth.");
    }
}
