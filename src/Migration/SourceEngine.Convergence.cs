using System.Globalization;
using Godwit.Migration.Convergence;
using Godwit.Pages;

namespace Godwit.Migration;

// What is done about rounds that do not shrink, and what a user may change while the migration runs.
public sealed partial class SourceEngine
{
    // QEMU slows the guest at its own looks, a second apart, and only after two of them: no judging before.
    private static readonly TimeSpan ThrottlePatience = TimeSpan.FromSeconds(4);

    private readonly ConvergenceModel _model = new();
    private readonly List<string> _stepsTaken = [];
    private TimeSpan _downtimeMax;
    private long _bandwidth;
    private int _nextStep;
    private TimeSpan _steppedAt = TimeSpan.MinValue;
    private double _unslowedRatio;
    // Pages that were written again before they were sent count too.
    private double _writtenBytesPerSecond;
    private int _throttleMax;
    private int _throttled;
    private bool _suspended;
    private TimeSpan _suspendedAt;
    private TimeSpan _suspendedFor;
    private bool _turnAsked;
    private bool _hasTurn;
    // Rounds of a migration that only waited for its turn, and how long they took: no bound counts them.
    private int _waitingRounds;
    private TimeSpan _waitedFor;

    private TimeSpan Running(TimeSpan now) =>
        now - _startedAt - _suspendedFor - _waitedFor - (_suspended ? now - _suspendedAt : TimeSpan.Zero);

    /// <summary>Changes the cap on all lanes together, in bits per second; 0 for none.</summary>
    public void SetBandwidth(long bitsPerSecond, TimeSpan now)
    {
        _now = now;
        if (bitsPerSecond == _bandwidth)
        {
            return;
        }

        _bandwidth = bitsPerSecond;
        if (_policy.Pacing == Pacing.Full || Phase >= MigrationPhase.Switchover)
        {
            _limit.Set(bitsPerSecond, now);
        }

        _model.Reset();
    }

    /// <summary>Changes the pause budget.</summary>
    /// <returns>False if the guest is paused already.</returns>
    public bool SetDowntimeMax(TimeSpan most, TimeSpan now)
    {
        _now = now;
        if (Phase >= MigrationPhase.Switchover || _switchoverRequested)
        {
            return false;
        }

        _downtimeMax = most;
        _model.Reset();
        return true;
    }

    /// <summary>QEMU says by how much it slows the guest, in percent.</summary>
    public void Throttled(int percent) => _throttled = Math.Max(_throttled, percent);

    /// <summary>Stops sending, or goes on with it; the guest runs.</summary>
    /// <returns>False if it is too late: the guest is paused, or about to be.</returns>
    public bool Suspend(bool suspended, TimeSpan now)
    {
        _now = now;
        if (Phase > MigrationPhase.Copying || _switchoverRequested)
        {
            return false;
        }

        if (suspended && !_suspended)
        {
            _suspendedAt = now;
            GiveTurnBack();
        }
        else if (!suspended && _suspended)
        {
            _suspendedFor += now - _suspendedAt;
            _model.Reset();
        }

        _suspended = suspended;
        return true;
    }

    /// <summary>No other migration of this host is about to pause its guest: this one may.</summary>
    public void TurnGranted(TimeSpan now)
    {
        _now = now;
        _hasTurn = true;
        if (_suspended)
        {
            GiveTurnBack();
        }

        Step();
    }

    // One that is asked for and not granted yet comes, and goes back when a round ends that does not fit the pause.
    private void GiveTurnBack()
    {
        if (_hasTurn)
        {
            _turnAsked = _hasTurn = false;
            Do(new Effect.GiveTurnBack());
        }
    }

    // Rounds of nothing but what was written meanwhile: no more often than they are worth.
    private static readonly TimeSpan WaitingRound = TimeSpan.FromMilliseconds(100);

    private bool WaitsForTurn => _turnAsked && !_hasTurn;

    private bool MaySwitchOver()
    {
        if (!_options.AsksForTurn || _hasTurn)
        {
            return true;
        }

        if (!_turnAsked)
        {
            _turnAsked = true;
            Do(new Effect.AskForTurn());
        }

        return false;
    }

    /// <summary>Takes the next step of the ladder when its time has come.</summary>
    /// <returns>True if the migration is not to be judged any further now.</returns>
    private bool ClimbsNow()
    {
        if (_steppedAt > TimeSpan.MinValue && _throttleMax > 0 && _now - _steppedAt < ThrottlePatience)
        {
            return true;
        }

        return _nextStep < _policy.Steps.Count
            && _model.StalledRounds >= _policy.Steps[_nextStep].StalledRounds
            && Climb();
    }

    /// <summary>Takes the next step that can do anything; false if there is none.</summary>
    private bool Climb()
    {
        while (_nextStep < _policy.Steps.Count)
        {
            LadderStep step = _policy.Steps[_nextStep++];
            bool taken = step.Action switch
            {
                LadderAction.Throttle => ForecastFrom(_nextStep - 1).Method != "hybrid" && Throttle(step),
                LadderAction.Pause => AllowPause(step),
                LadderAction.Postcopy => TurnToPostcopy(step),
                _ => GiveUp(step),
            };
            if (taken)
            {
                // It stays the next step: it may have to go further.
                _nextStep -= step.Action == LadderAction.Throttle ? 1 : 0;
                return true;
            }
        }

        return false;
    }

    private bool AllowPause(LadderStep step)
    {
        if (step.Value <= _downtimeMax.TotalMilliseconds || (_switchoverRequested && !_options.HoldsSwitchover))
        {
            return false;
        }

        _downtimeMax = TimeSpan.FromMilliseconds(step.Value);
        Took(step.Text);
        return true;
    }

    private bool TurnToPostcopy(LadderStep step)
    {
        if (!CanTurnToPostcopy || !TurnKeepsBudget())
        {
            return false;
        }

        if (!MaySwitchOver())
        {
            // It comes again with the next round.
            _nextStep--;
            return true;
        }

        Took(step.Text);
        RequestPostcopy();
        return true;
    }

    private bool GiveUp(LadderStep step)
    {
        Took(step.Text);
        NotConverged("and its ladder says to give up then");
        return true;
    }

    // Only as much as rounds need to shrink, and more when that was not enough: a guest that has processor time to
    // spare writes as fast as before. Not at all if the most that is allowed would not do, for a guest that is slowed
    // in vain has lost twice.
    private bool Throttle(LadderStep step)
    {
        if (!_options.HoldsSwitchover || _model.Ratio <= 0)
        {
            return false;
        }

        // A guest that writes all of a set in every round is not known by the set: it may write it ten times as fast.
        double ratio = Math.Max(_model.Ratio, _writtenBytesPerSecond / Page.Size * WireBytesPerDirtyPage()
            / Math.Max(1, EffectiveRate()));
        _unslowedRatio = Math.Max(_unslowedRatio, ratio / (1 - (_throttleMax / 100.0)));
        int needed = ConvergenceModel.ThrottleNeeded(_unslowedRatio);
        if (needed > step.Value)
        {
            return false;
        }

        int percent = Math.Max(needed, 1);
        if (percent <= _throttleMax)
        {
            return false;
        }

        _throttleMax = percent;
        Do(new Effect.Throttle(percent));
        Took($"slow the guest by {percent} % ({step.Value} % allowed)");
        return true;
    }

    private void Took(string what)
    {
        _steppedAt = _now;
        _stepsTaken.Add(string.Create(
            CultureInfo.InvariantCulture,
            $"{Running(_now).TotalSeconds:0.0} s, round {_rounds.Count}: {what}; the guest dirtied "
            + $"{_dirtyBytesPerSecond / 1e6:0.0} MB/s, the link carried {EffectiveRate() / 1e6:0.0} MB/s"));
        _model.Reset();
    }

    private string Verdict(bool ended, bool stalled) =>
        ended ? "ended"
        : _fetching ? "fetching"
        : Phase >= MigrationPhase.Switchover || _switchoverRequested ? "switching over"
        : _suspended ? "paused"
        : Phase == MigrationPhase.Preparing ? "preparing"
        : WaitsForTurn ? "waiting for its turn"
        : !stalled ? "converging"
        : _nextStep < _policy.Steps.Count || _policy.OnStall == OnStall.Pause ? "stalled"
        : "hopeless";

    private string NextText()
    {
        if (_fetching)
        {
            return $"{_options.Guest} runs on {_options.To}; the rest of its memory follows";
        }

        if (Phase != MigrationPhase.Copying || _switchoverRequested || _suspended || !_firstRoundEnded)
        {
            return !_suspended ? ""
                : "'godwit migration resume' goes on with it"
                    + (_throttleMax > 0 ? $"; until its end the guest is slowed by up to {_throttleMax} %" : "");
        }

        if (_turnRefused.Length > 0)
        {
            return $"{_turnRefused}: rounds go on";
        }

        if (_model.StalledRounds == 0)
        {
            return "";
        }

        bool stepLeft = _nextStep < _policy.Steps.Count;
        int after = stepLeft ? _policy.Steps[_nextStep].StalledRounds : StuckRoundsMax;
        string what = stepLeft ? _policy.Steps[_nextStep].Text
            : _policy.OnStall == OnStall.Pause ? "pause the guest for as long as it takes" : "give up";
        return $"{what} after {Math.Max(0, after - _model.StalledRounds)} more rounds that do not shrink";
    }
}
