namespace Godwit.Migration.HandOver;

/// <summary>What the end of a transfer says about a commit that stands in the source's journal.</summary>
public enum CommitFate
{
    /// <summary>The destination has confirmed that it runs the guest.</summary>
    Confirmed,
    /// <summary>The destination may run it, and has not said so; the copy has stood still since.</summary>
    Told,
    /// <summary>
    /// As <see cref="Told"/>, or found in the journal at a start: then it may be one that could not be recorded whole,
    /// and the copy may have run on since.
    /// </summary>
    InDoubt,
    /// <summary>Nobody has been told of it.</summary>
    Untold,
}

/// <summary>Where a guest is once its hand-over is settled.</summary>
public enum SettledGuest
{
    RunsThere,
    /// <summary>It is the destination's, and does not run there any more.</summary>
    DiedThere,
    RunsHere,
    /// <summary>It was started anew here, from its disks, by an operator's decision.</summary>
    StartedHere,
    /// <summary>It is this host's, whose copy has ended meanwhile.</summary>
    DiedHere,
}

/// <summary>One thing for the shell to do; <see cref="Settlement"/> says how it is reported back.</summary>
public abstract record SettlementStep
{
    /// <summary>Nothing for this long, unless an operator decides before.</summary>
    public sealed record Wait(TimeSpan For) : SettlementStep;

    /// <summary>Ask the destination, and report with <see cref="Settlement.Answered"/>.</summary>
    /// <param name="Fence">Tell it that its copy is void.</param>
    /// <param name="Commits">Tell it that the commit stands, for the lanes may not have brought it that.</param>
    public sealed record Ask(bool Fence, bool Commits) : SettlementStep;

    /// <summary>
    /// Bring the guest at the destination the memory that it lacks, until it has all or the link breaks;
    /// <see cref="Settlement.Done"/>. Then it is asked again.
    /// </summary>
    public sealed record Serve : SettlementStep;

    /// <summary>Record durably; <see cref="Settlement.Done"/> or <see cref="Settlement.Failed"/>.</summary>
    public sealed record Write(HandOverRecord Record) : SettlementStep;

    /// <summary>End the paused copy by force; <see cref="Settlement.Done"/>.</summary>
    public sealed record EndCopy : SettlementStep;

    /// <summary>Let the copy run; <see cref="Settlement.CopyRuns"/>.</summary>
    public sealed record RunCopy : SettlementStep;

    /// <summary>Start the guest anew, from its disks; <see cref="Settlement.CopyRuns"/>.</summary>
    public sealed record StartAnew : SettlementStep;

    /// <summary>
    /// Store this in the registry; <see cref="Settlement.Done"/> even if it could not be stored: the journal has it.
    /// </summary>
    public sealed record Own(GuestOwnership Owned) : SettlementStep;

    /// <summary>Report that it is unsettled; <see cref="Settlement.Done"/>. The asking goes on.</summary>
    public sealed record ReportUnsettled(string Detail) : SettlementStep;

    /// <summary>The guest's place is known: report it; <see cref="Settlement.Done"/>.</summary>
    /// <param name="HasDecided">An operator has, and not the destination.</param>
    /// <param name="Detail">The destination's words.</param>
    public sealed record Settled(SettledGuest Guest, bool HasDecided, string Detail) : SettlementStep;

    /// <summary>There is nothing left to do.</summary>
    public sealed record End : SettlementStep;
}

/// <summary>The source's way from a commit to one host that runs the guest.</summary>
/// <remarks>
/// A synchronous state machine like the engines. The shell does what <see cref="Next"/> gives, reports it, and asks
/// for the next thing; a daemon that starts makes a new one of what its journal says and goes on.
/// Source: docs/formats/hand-over.md.
/// </remarks>
public sealed class Settlement
{
    private static readonly TimeSpan AskAgainMin = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan AskAgainMax = TimeSpan.FromSeconds(5);
    // A move that has not been settled by then is reported as unsettled.
    private static readonly TimeSpan UnsettledAfter = TimeSpan.FromSeconds(10);

    private readonly string _host;
    private readonly bool _isTold;
    private readonly TimeSpan _begun;
    private readonly Queue<SettlementStep> _steps = new();
    private HandOverRecord _record;
    private TimeSpan _notBefore;
    private TimeSpan _wait = AskAgainMin;
    private bool _isReported;
    // The destination has said that it runs the guest and lacks memory.
    private bool _isFetching;
    private bool _hasDecided;

    /// <param name="record">As the journal has it: committed or overruled.</param>
    /// <param name="fate">What is known of the commit.</param>
    /// <param name="host">This host.</param>
    /// <param name="now">Time of the shell's clock, as in all that follows.</param>
    public Settlement(HandOverRecord record, CommitFate fate, string host, TimeSpan now)
    {
        if (!record.IsOutstanding)
        {
            throw new ArgumentException($"Migration {record.Migration} is {record.State}: there is nothing to settle.");
        }

        _record = record;
        _host = host;
        _isTold = fate == CommitFate.Told;
        _begun = _notBefore = now;
        switch (fate)
        {
            case CommitFate.Confirmed:
                Take(HandOverAnswer.Runs, "");
                break;
            case CommitFate.Untold:
                Write(HandOverState.Reclaimed, record.Epoch);
                _steps.Enqueue(new SettlementStep.RunCopy());
                break;
        }
    }

    /// <summary>Which the guest has by what has been recorded so far.</summary>
    public long Epoch => _record.Epoch;

    /// <summary>What to do now; the same until it has been reported.</summary>
    public SettlementStep Next(TimeSpan now) =>
        now < _notBefore ? new SettlementStep.Wait(_notBefore - now)
        : _steps.TryPeek(out SettlementStep? step) ? step
        : _record.State == HandOverState.Overruled ? new SettlementStep.Ask(Fence: true, Commits: false)
        : _record.IsOutstanding ? new SettlementStep.Ask(Fence: false, Commits: _isTold)
        : new SettlementStep.End();

    /// <summary>The step has been done.</summary>
    public void Done()
    {
        if (_steps.Dequeue() is SettlementStep.Write write)
        {
            _record = write.Record;
        }
    }

    /// <summary>The step could not be done; it comes again.</summary>
    public void Failed(TimeSpan now) => Pause(now);

    /// <summary>The copy runs, or it cannot.</summary>
    public void CopyRuns(bool runs)
    {
        bool isNew = _steps.Dequeue() is SettlementStep.StartAnew;
        _steps.Enqueue(new SettlementStep.Settled(
            !runs ? SettledGuest.DiedHere : isNew ? SettledGuest.StartedHere : SettledGuest.RunsHere, _hasDecided, ""));
    }

    /// <summary>The destination has answered, or not.</summary>
    /// <param name="detail">Its words, or why there is no answer.</param>
    public void Answered(HandOverAnswer answer, string detail, TimeSpan now)
    {
        // An operator may have been faster.
        if (_steps.Count > 0)
        {
            return;
        }

        if (answer == HandOverAnswer.Fetching && _record.State == HandOverState.Committed)
        {
            // The copy is all that has those pages. Nobody is in doubt about who runs the guest.
            _isFetching = true;
            _wait = AskAgainMin;
            _notBefore = now;
            _steps.Enqueue(new SettlementStep.Serve());
            return;
        }

        if (HandOverRules.OnAnswer(_record.State, answer) is not null)
        {
            Take(answer, detail);
            return;
        }

        Pause(now);
        if (_record.State == HandOverState.Committed && !_isReported && !_isFetching && now - _begun >= UnsettledAfter)
        {
            _isReported = true;
            _notBefore = now;
            _steps.Enqueue(new SettlementStep.ReportUnsettled(detail));
        }
    }

    /// <summary>An operator says where the guest runs.</summary>
    /// <param name="resumesCopy">
    /// If it is here: the destination certainly never ran it, so the paused copy goes on. A copy that goes on although
    /// the guest has run elsewhere since would write an old state over disks that are ahead of it; without that
    /// certainty the guest is started anew from its disks.
    /// </param>
    /// <returns>False if the destination has answered by now.</returns>
    public bool Decide(string host, bool resumesCopy, TimeSpan now)
    {
        if (_record.State != HandOverState.Committed || _hasDecided
            || _steps.Any(step => step is not SettlementStep.ReportUnsettled))
        {
            return false;
        }

        _hasDecided = true;
        _notBefore = now;
        if (host == _record.Peer)
        {
            Take(HandOverAnswer.Runs, "");
            return true;
        }

        if (!resumesCopy)
        {
            // Before the record: a daemon that starts lets the copy of an overruled guest go on.
            _steps.Enqueue(new SettlementStep.EndCopy());
        }

        Write(HandOverState.Overruled, _record.Epoch + 1);
        _steps.Enqueue(new SettlementStep.Own(
            GuestOwnership.Overruling(_host, _record with { Epoch = _record.Epoch + 1 })));
        _steps.Enqueue(resumesCopy ? new SettlementStep.RunCopy() : new SettlementStep.StartAnew());
        return true;
    }

    private void Take(HandOverAnswer answer, string detail)
    {
        bool isFenced = _record.State == HandOverState.Overruled;
        HandOverState state = HandOverRules.OnAnswer(_record.State, answer)!.Value;
        Write(state, _record.Epoch);
        if (state == HandOverState.Left)
        {
            _steps.Enqueue(new SettlementStep.EndCopy());
            _steps.Enqueue(new SettlementStep.Own(GuestOwnership.Given(_record)));
            _steps.Enqueue(new SettlementStep.Settled(
                answer == HandOverAnswer.Died ? SettledGuest.DiedThere : SettledGuest.RunsThere, _hasDecided, detail));
        }
        else if (!isFenced)
        {
            _steps.Enqueue(new SettlementStep.RunCopy());
        }
    }

    private void Write(HandOverState state, long epoch) =>
        _steps.Enqueue(new SettlementStep.Write(_record with { State = state, Epoch = epoch }));

    private void Pause(TimeSpan now)
    {
        _notBefore = now + _wait;
        _wait = _wait * 2 < AskAgainMax ? _wait * 2 : AskAgainMax;
    }
}
