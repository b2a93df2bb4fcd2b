using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Migration;

// From the pause to the end: last pages, device state, commit, confirmation, and every way to fail.
public sealed partial class SourceEngine
{
    // With the guest paused and the link dead or crawling there is nothing to wait for: the guest has to run again.
    private static readonly TimeSpan PauseGrace = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan ConfirmMax = TimeSpan.FromSeconds(3);
    private static readonly TimeSpan ConfirmInPostcopyMax = TimeSpan.FromMinutes(1);

    private TimeSpan _pausedAt;
    private TimeSpan _loadedAt;
    private TimeSpan _committedAt;
    private TimeSpan _endedAt;
    private TimeSpan _downtime;
    private BlackoutParts _parts = BlackoutParts.None;
    private TimeSpan _destinationCpuTime;
    private bool _feedEnded;
    private bool _budgetChecked;
    private bool _budgetWaived;
    private bool _loaded;
    // True while the commit is being written. What fails meanwhile waits in _failure: whether there is a commit to take
    // back is known only when that write has ended.
    private bool _committing;
    private (MigrationOutcome Outcome, string Code, string Text)? _failure;
    private string _errorCode = "";
    private string _error = "";

    private void Pause(TimeSpan at)
    {
        if (Phase == MigrationPhase.Copying)
        {
            Phase = MigrationPhase.Switchover;
            _pausedAt = at;
            _limit.Set(_bandwidth, _now);
            if (!_switchoverRequested)
            {
                _queue!.BeginLastRound();
            }
        }
        else if (Phase == MigrationPhase.Switchover && at < _pausedAt)
        {
            // The event and the stream tell the same on two connections; the earlier one is nearer the truth.
            _pausedAt = at;
        }
    }

    private void StepPaused()
    {
        if (Phase == MigrationPhase.Committed)
        {
            // In postcopy QEMU may need pages before it can answer, and they come as long as the link holds.
            TimeSpan most = _postcopy ? ConfirmInPostcopyMax : ConfirmMax;
            if (!_confirmed && _now - _committedAt > most)
            {
                Unsettled($"{_options.To} has not confirmed within {most.TotalSeconds:0} s that the guest runs.");
            }

            return;
        }

        if (_loaded || _budgetWaived)
        {
            return;
        }

        TimeSpan paused = _now - _pausedAt;
        if (_feedEnded && !_budgetChecked && !_postcopy)
        {
            _budgetChecked = true;
            TimeSpan expected = paused + ExpectedDowntime();
            // A guest so small that the rate is not known yet is not turned back on a guess; the limit below holds.
            if (expected > _downtimeMax && _link.Trusted)
            {
                Fail(MigrationOutcome.NotConverged, "pause-budget",
                    $"With {_options.Guest} paused, {WireBytesWaiting() / 1e6:0.0} MB were left to send: a pause of "
                    + $"{expected.TotalMilliseconds:0} ms; {_downtimeMax.TotalMilliseconds:0} ms are allowed. "
                    + "Allow a longer pause (--max-downtime) or accept any (--on-stall pause).");
                return;
            }
        }

        TimeSpan limit = (2 * _downtimeMax) + PauseGrace;
        if (paused > limit)
        {
            Fail(MigrationOutcome.NotConverged, "pause-budget",
                $"{_options.Guest} has been paused for {paused.TotalMilliseconds:0} ms and {_options.To} has not "
                + $"loaded it yet; {_downtimeMax.TotalMilliseconds:0} ms are allowed.");
        }
    }

    private void Confirmed(ControlMessage.Running message)
    {
        _downtime = _now - _pausedAt;
        _parts = _parts with { Resume = message.Resume, Announcement = message.Announcement };
        _destinationCpuTime = message.CpuTime;
        _confirmed = true;
        if (_postcopy)
        {
            // It runs there and lacks pages that only this host has.
            return;
        }

        CloseLastRound();
        Outcome = MigrationOutcome.Completed;
        Do(new Effect.ConfirmToQemu());
        Ended();
    }

    private void CloseLastRound()
    {
        if (_roundPages > 0 && _queue is not null)
        {
            CloseRound();
        }
    }

    private void Fail(MigrationOutcome outcome, string code, string text)
    {
        if (Phase == MigrationPhase.Ended)
        {
            return;
        }

        if (Phase == MigrationPhase.Committed)
        {
            if (_confirmed && _postcopy)
            {
                FetchingBroken(text);
                return;
            }

            Unsettled(text);
            return;
        }

        if (_committing)
        {
            _failure ??= (outcome, code, text);
            return;
        }

        Outcome = outcome;
        _errorCode = code;
        _error = $"{text} {_options.Guest} runs on {_options.From}, where it was.";
        Do(new Effect.Send(new ControlMessage.Abort(code, text)));
        Do(new Effect.AbandonQemu());
        Ended();
    }

    private void Unsettled(string text)
    {
        Outcome = MigrationOutcome.Unsettled;
        _errorCode = "migration-unsettled";
        _error = $"{text} {_options.Guest} was handed over to {_options.To}, which has not said whether it runs there; "
            + $"the paused copy on {_options.From} is kept until it has.";
        Ended();
    }

    private void Ended()
    {
        _endedAt = _now;
        Phase = MigrationPhase.Ended;
        Do(new Effect.End());
    }

    private double _fraction;

    /// <summary>Everything known now. Fraction never falls from one call to the next.</summary>
    public MigrationSnapshot Snapshot(TimeSpan now)
    {
        bool ended = Phase == MigrationPhase.Ended;
        TimeSpan elapsed = (ended ? _endedAt : now) - _startedAt;
        long waiting = _queue is null ? 0 : _queue.Waiting * Page.Size;
        double rate = LimitedRate();
        double dirtyWire = _fetching ? 0 : DirtyWireRate();
        bool stalled = _firstRoundEnded && rate > 0 && dirtyWire >= rate * 0.95 && Phase == MigrationPhase.Copying;
        TimeSpan? left = ended ? TimeSpan.Zero : _suspended ? null : TimeLeft(rate, dirtyWire, stalled);
        // A move that was cancelled or failed got as far as it got.
        double fraction = ended ? Outcome == MigrationOutcome.Completed ? 1 : _fraction
            : left is { } l && elapsed > TimeSpan.Zero ? Math.Min(0.99, elapsed / (elapsed + l))
            : _fraction;
        _fraction = Math.Max(_fraction, fraction);
        return new MigrationSnapshot
        {
            Phase = Phase,
            Outcome = Outcome,
            ErrorCode = _errorCode,
            Error = _error,
            Fraction = _fraction,
            TotalBytes = (_queue?.TotalPages ?? 0) * Page.Size,
            RemainingBytes = ended ? 0 : RemainingBytes(waiting),
            WireBytes = _link.Sent,
            WireBytesPerSecond = rate,
            DirtyBytesPerSecond = _dirtyBytesPerSecond,
            ExpectedDowntime = ended || rate <= 0 || _fetching ? TimeSpan.Zero : ExpectedDowntime(),
            TimeLeft = left,
            Verdict = Verdict(ended, stalled),
            Next = ended ? "" : NextText(),
            Method = _postcopy ? _policy.Method == MigrationMethod.Postcopy ? "postcopy" : "hybrid" : "precopy",
            Rounds = [.. _rounds],
            SavedBytes = SavedBytesByReason(),
            Elapsed = elapsed,
            Downtime = _downtime,
            Parts = _parts,
            SharedMemory = _shared.Any(s => s),
            DaemonCpuTime = _destinationCpuTime,
            Choice = _choice,
            MayTurnToPostcopy = _options.Postcopy,
            StepsTaken = [.. _stepsTaken],
            ThrottlePercent = _throttleMax,
            ThrottledPercent = _throttled,
            DowntimeMax = _downtimeMax,
            BandwidthBitsPerSecond = _bandwidth,
            Faults = _faults,
        };
    }

    private long RemainingBytes(long waiting) => _firstRoundEnded || _queue is null || _queue.AllNamed
        ? waiting
        : Math.Max(waiting, (_queue.TotalPages - _pagesSent) * Page.Size);

    private TimeSpan? TimeLeft(double rate, double dirtyWire, bool stalled)
    {
        if (rate <= 0 || stalled || _queue is null)
        {
            return null;
        }

        double unsent = _firstRoundEnded || _fetching
            ? WireBytesWaiting()
            : _link.InFlight + (Math.Max(0, _queue.TotalPages - _pagesSent) * WireBytesPerPage());
        // Each round leaves what was dirtied while it ran: a geometric series.
        double share = Math.Min(0.95, dirtyWire / rate);
        return TimeSpan.FromSeconds((unsent / rate / (1 - share)) + 0.1);
    }
}
