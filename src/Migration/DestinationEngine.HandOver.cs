using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Migration;

// From the commit to the guest that runs here, and every way to fail before and behind it.
public sealed partial class DestinationEngine
{
    /// <summary>The guest runs here.</summary>
    /// <param name="runningAt">When it did first.</param>
    /// <param name="announcedAt">When the first announcement left.</param>
    /// <param name="cpuTime">Processor time of this daemon on the move.</param>
    public void GuestRunning(TimeSpan runningAt, TimeSpan announcedAt, TimeSpan cpuTime, TimeSpan now)
    {
        _now = now;
        _runningAt = runningAt;
        _announcedAt = announcedAt;
        if (Phase == MigrationPhase.Ended)
        {
            return;
        }

        if (!_rejoined)
        {
            Do(new Effect.Send(new ControlMessage.Running(
                runningAt - _committedAt, announcedAt > runningAt ? announcedAt - runningAt : TimeSpan.Zero, cpuTime)));
        }

        _isRunning = true;
        if (_missingTold)
        {
            CompleteIfRunning();
            return;
        }

        Outcome = MigrationOutcome.Completed;
        Phase = MigrationPhase.Ended;
        Do(new Effect.End());
    }

    /// <summary>It stands on disk that the guest may run here.</summary>
    public void ResumingRecorded(TimeSpan now)
    {
        _now = now;
        if (_refusal is not null)
        {
            Do(new Effect.RecordRefusal());
            return;
        }

        _ordered = true;
        Do(new Effect.RunGuest());
        DetachIfLost();
    }

    /// <summary>That the guest may run here could not be recorded, so it does not.</summary>
    public void ResumingNotRecorded(string text, TimeSpan now)
    {
        _now = now;
        _refusal ??= text;
        Refuse();
    }

    /// <summary>QEMU has answered that it does not run the guest, so the guest has not run here.</summary>
    public void RunRefused(string text, TimeSpan now)
    {
        _now = now;
        if (Phase != MigrationPhase.Ended)
        {
            _refusal = text;
            Do(new Effect.RecordRefusal());
        }
    }

    /// <summary>It stands on disk that the guest has not run here and never will by this migration.</summary>
    public void RefusalRecorded(TimeSpan now)
    {
        _now = now;
        Refuse();
    }

    /// <summary>
    /// That could not be recorded: by this host's word the guest may have run here, and it is lost.
    /// </summary>
    public void RefusalNotRecorded(string text, TimeSpan now)
    {
        _now = now;
        Lose($"{_refusal} {text}");
    }

    /// <summary>QEMU failed or ended, with what it said.</summary>
    public void QemuFailed(string text, TimeSpan now)
    {
        _now = now;
        if (Phase != MigrationPhase.Committed)
        {
            Fail("destination-qemu", text, tellPeer: true);
        }
        else if (!_ordered)
        {
            // It has not been told to run, so it has not: the source has not lost its guest.
            _refusal ??= text;
        }
        else if (_refusal is null)
        {
            // It may have run already, so the source may not run it again.
            Lose(text);
        }
    }

    /// <summary>
    /// Nothing more comes on the control lane. Before the commit the guest will never run here; after it, it runs
    /// regardless.
    /// </summary>
    public void LinkLost(string text, TimeSpan now)
    {
        _now = now;
        if (Phase < MigrationPhase.Committed)
        {
            Fail("link-lost", _laneLost ?? text, tellPeer: true);
        }
        else if (_missingTold)
        {
            Lost(text);
        }
    }

    /// <summary>
    /// A page lane broke, or a word to the source could not be sent. What has come on the control lane and has not been
    /// read yet still counts: a source whose QEMU dies behind its commit closes every lane at once.
    /// </summary>
    public void LaneLost(string text, TimeSpan now)
    {
        if (_loaded && Phase < MigrationPhase.Committed)
        {
            _now = now;
            _laneLost ??= text;
            return;
        }

        LinkLost(text, now);
    }

    /// <summary>
    /// The source has lost the lanes and says in another way that it has recorded its commit. A guest that is loaded is
    /// run, and one that is not never will be.
    /// </summary>
    public void CommitTold(TimeSpan now)
    {
        string text = $"{_from} asks how the migration has ended.";
        if (_loaded && Phase < MigrationPhase.Committed)
        {
            _now = now;
            _laneLost ??= text;
            Commit();
            return;
        }

        Abandon(text, now);
    }

    /// <summary>What the source sent breaks the format.</summary>
    public void Broken(StreamFormatException error, TimeSpan now)
    {
        _now = now;
        if (Phase < MigrationPhase.Committed)
        {
            Fail("stream-format", $"{error.Message} (offset {error.Offset})", tellPeer: true);
        }
        else if (_missingTold)
        {
            Lost(error.Message);
        }
    }

    /// <summary>This host gives the guest up before the commit.</summary>
    /// <returns>True if the guest will not run here, though another may have ended the migration first.</returns>
    public bool Abandon(string reason, TimeSpan now)
    {
        _now = now;
        if (Phase == MigrationPhase.Ended)
        {
            return Outcome != MigrationOutcome.Completed;
        }

        if (Phase >= MigrationPhase.Committed)
        {
            return false;
        }

        Fail("migration-abandoned", reason, tellPeer: true);
        return true;
    }

    private void Commit()
    {
        Phase = MigrationPhase.Committed;
        _committedAt = _now;
        Do(new Effect.RecordResuming());
        if (_sentAll)
        {
            AllSent();
        }

        if (_missingTold && _laneLost is { } text)
        {
            Lost(text);
        }
    }

    private void Fail(string code, string text, bool tellPeer)
    {
        if (Phase == MigrationPhase.Ended)
        {
            return;
        }

        Outcome = MigrationOutcome.Failed;
        _errorCode = code;
        _error = $"{text} {_guest} runs on {_from}, where it was.";
        if (tellPeer)
        {
            Do(new Effect.Send(new ControlMessage.Abort(code, text)));
        }

        Phase = MigrationPhase.Ended;
        Do(new Effect.End());
    }

    private void Lose(string text)
    {
        Outcome = MigrationOutcome.Failed;
        _errorCode = "guest-lost";
        _error = $"{text} {_guest} had been handed over to this host and died here.";
        Phase = MigrationPhase.Ended;
        Do(new Effect.End());
    }

    private void Refuse()
    {
        Outcome = MigrationOutcome.Failed;
        _errorCode = "destination-resume";
        _error = $"{_refusal} {_guest} did not run here and never will by this migration: {_from} runs it again.";
        Do(new Effect.Send(new ControlMessage.Abort(_errorCode, _refusal!)));
        Phase = MigrationPhase.Ended;
        Do(new Effect.End());
    }
}
