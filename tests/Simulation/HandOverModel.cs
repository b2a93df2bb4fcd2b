using Godwit.Migration.HandOver;

namespace Godwit.Simulation;

/// <summary>Two hosts at the end of a move, as small as it gets, with every crash and cut that can meet them.</summary>
/// <remarks>
/// What is decided is decided by <see cref="HandOverRules"/> and <see cref="HandOverRecord.MayFollow"/>; what is
/// modelled is when each step becomes durable, what a crash leaves behind, and that QEMU resumes a guest whose stream
/// breaks. <see cref="Mistake"/> plants a mistake that the exploration has to find.
/// </remarks>
internal sealed record HandOverModel
{
    /// <summary>Mistakes of the kind that a change of the code could make.</summary>
    internal enum Mistake
    {
        None,
        CommitSentBeforeItIsRecorded,
        StreamNotHeld,
        GuestRunBeforeItIsRecorded,
        CopyEndedBeforeTheAnswer,
        UnknownTakenForRuns,
        RefusedAndStillWaiting,
        CommitFoundInTheJournalTold,
    }

    // The source.
    public GuestCopy SourceCopy { get; init; } = GuestCopy.Running;
    public HandOverState? SourceRecord { get; init; }
    public bool SourceUp { get; init; } = true;
    public bool SourceMoves { get; init; } = true;
    public bool Held { get; init; }
    public bool CommitSent { get; init; }
    /// <summary>The daemon that lives has recorded the commit itself.</summary>
    public bool CommitKnown { get; init; }
    /// <summary>A commit that nobody acts on stands in the journal: only a restart would find it.</summary>
    public bool IsLeftOver { get; init; }

    // The destination.
    public GuestCopy DestinationCopy { get; init; } = GuestCopy.Paused;
    public HandOverState? DestinationRecord { get; init; }
    public bool DestinationUp { get; init; } = true;
    public bool DestinationMoves { get; init; } = true;
    public bool Told { get; init; }

    // Between them.
    public bool LinkUp { get; init; } = true;
    public bool LoadedInFlight { get; init; }
    public bool CommitInFlight { get; init; }
    public bool RunningInFlight { get; init; }

    // History.
    public bool RanAtDestination { get; init; }
    /// <summary>Behind the pause.</summary>
    public bool RanOnAtSource { get; init; }
    public bool QemuKilled { get; init; }
    public int Faults { get; init; }

    /// <summary>Why this may never be, or null.</summary>
    public string? Violation =>
        SourceCopy == GuestCopy.Running && DestinationCopy == GuestCopy.Running ? "the guest runs twice"
        : SourceCopy == GuestCopy.Running && RanAtDestination ? "the source runs a guest that has run elsewhere since"
        : DestinationCopy == GuestCopy.Running && RanOnAtSource ? "the destination runs a guest that has run on since"
        : null;

    /// <summary>True if the guest is in one place, as it has to be once nothing is under way any more.</summary>
    public bool IsSettled => QemuKilled
        ? SourceCopy != GuestCopy.Paused && DestinationCopy != GuestCopy.Paused
        : (SourceCopy, DestinationCopy) is (GuestCopy.Running, GuestCopy.Gone) or (GuestCopy.Gone, GuestCopy.Running);

    /// <summary>Everything the two hosts may do next when nothing fails.</summary>
    public IEnumerable<HandOverModel> Steps(Mistake mistake)
    {
        bool asks = SourceUp && !SourceMoves && SourceRecord is HandOverState.Committed && LinkUp && DestinationUp;
        if (asks && HasToldByAsking(mistake))
        {
            // The question says so, and is answered when the destination has recorded that it runs the guest.
            yield return this with { DestinationRecord = HandOverState.Resuming };
        }

        foreach (HandOverModel next in SourceSteps(mistake).Concat(DestinationSteps(mistake)))
        {
            yield return next;
        }

        if (asks)
        {
            yield return Ask(mistake);
        }
    }

    /// <summary>The guest waits at the destination for a commit that its source can tell it of.</summary>
    public bool IsToArrive => HasToldByAsking(Mistake.None) && SourceUp && SourceRecord is HandOverState.Committed
        && DestinationUp;

    private bool HasToldByAsking(Mistake mistake) =>
        (CommitKnown || mistake == Mistake.CommitFoundInTheJournalTold)
        && DestinationMoves && Told && DestinationRecord is null && DestinationCopy == GuestCopy.Paused;

    /// <summary>Every fault that may strike now.</summary>
    public IEnumerable<HandOverModel> Strikes(Mistake mistake)
    {
        HandOverModel struck = this with { Faults = Faults + 1 };
        if (LinkUp)
        {
            // What was sent may still arrive, or not.
            foreach (HandOverModel cut in (struck with { LinkUp = false }).Notices().Concat((struck with
            {
                LinkUp = false, LoadedInFlight = false, CommitInFlight = false, RunningInFlight = false,
            }).Notices()))
            {
                yield return cut;
            }

        }

        if (SourceUp)
        {
            bool goesOn = SourceCopy == GuestCopy.Paused && (!Held || mistake == Mistake.StreamNotHeld);
            yield return struck with
            {
                SourceUp = false,
                SourceMoves = false,
                CommitKnown = false,
                SourceCopy = goesOn ? GuestCopy.Running : SourceCopy,
                RanOnAtSource = RanOnAtSource || goesOn,
            };
            if (IsLeftOver)
            {
                yield return struck with
                {
                    SourceUp = false,
                    SourceRecord = HandOverState.Committed,
                    CommitSent = true,
                    CommitKnown = false,
                    IsLeftOver = false,
                };
            }

            // The whole host.
            HandOverModel off = struck with
            {
                SourceUp = false,
                SourceMoves = false,
                CommitKnown = false,
                SourceCopy = GuestCopy.Gone,
                QemuKilled = true,
            };
            yield return off;
            if (IsLeftOver)
            {
                yield return off with
                {
                    SourceRecord = HandOverState.Committed, CommitSent = true, IsLeftOver = false,
                };
            }
        }

        if (DestinationUp)
        {
            yield return struck with { DestinationUp = false, DestinationMoves = false };
            yield return struck with
            {
                DestinationUp = false, DestinationMoves = false, DestinationCopy = GuestCopy.Gone,
                QemuKilled = QemuKilled || DestinationRecord is not null,
            };
        }

        if (SourceCopy != GuestCopy.Gone)
        {
            HandOverModel gone = struck with { SourceCopy = GuestCopy.Gone, QemuKilled = true };
            // Last: it is noticed only when the commit has been recorded.
            foreach (HandOverModel noticed in gone.Notices())
            {
                yield return noticed;
            }
        }

        if (DestinationCopy != GuestCopy.Gone)
        {
            yield return (struck with
            {
                DestinationCopy = GuestCopy.Gone,
                // Before it has recorded that it runs it, the destination's copy is nobody's only one.
                QemuKilled = QemuKilled || DestinationRecord is not null,
            }).NoticeDestinationCopyGone();
            if (DestinationRecord is null)
            {
                // It is noticed only when the resume has been recorded.
                yield return struck with { DestinationCopy = GuestCopy.Gone };
            }
        }
    }

    /// <summary>Everything that is down comes back.</summary>
    public HandOverModel Healed()
    {
        HandOverModel healed = this with { LinkUp = true };
        if (!SourceUp)
        {
            healed = healed.RestartSource();
        }

        return healed.DestinationUp ? healed : healed.RestartDestination();
    }

    private IEnumerable<HandOverModel> SourceSteps(Mistake mistake)
    {
        if (!SourceUp)
        {
            yield return RestartSource();
            yield break;
        }

        if (SourceRecord is not null && Do(AtSource(SourceRecord)) is var done && done != this)
        {
            // Behind the record, and a crash may come between the two.
            yield return done;
        }

        if (IsLeftOver)
        {
            yield return this with { IsLeftOver = false };
        }

        if (!SourceMoves)
        {
            yield break;
        }

        if (!DestinationMoves)
        {
            // Its lanes have closed, or nothing has come for too long.
            yield return SourceRecord is null ? Abort() : this with { SourceMoves = false };
        }

        if (SourceCopy == GuestCopy.Running && SourceRecord is null)
        {
            yield return this with { SourceCopy = GuestCopy.Paused };
        }

        if (SourceCopy == GuestCopy.Paused && SourceRecord is null)
        {
            // A cancel, a pause that takes too long, a disk that is full.
            yield return Abort();
            if (Held)
            {
                // The commit could not be recorded, and what is left of it could not be taken away.
                yield return Abort() with { IsLeftOver = true };
            }

            if (LoadedInFlight && !Held)
            {
                yield return this with { Held = true };
            }

            if (Held)
            {
                yield return mistake == Mistake.CommitSentBeforeItIsRecorded && !CommitSent
                    ? this with { CommitSent = true, CommitInFlight = LinkUp }
                    : this with { SourceRecord = HandOverState.Committed };
            }
        }

        if (SourceCopy == GuestCopy.Gone && SourceRecord is null)
        {
            yield return Abort();
            if (Held)
            {
                yield return this with { SourceRecord = HandOverState.Committed };
            }
        }

        if (SourceRecord == HandOverState.Committed && !CommitSent)
        {
            yield return this with { CommitSent = true, CommitKnown = true, CommitInFlight = LinkUp };
            // What failed while it was recorded takes it back.
            yield return Record(HandOverState.Reclaimed);
        }

        if (mistake == Mistake.CopyEndedBeforeTheAnswer && SourceRecord == HandOverState.Committed && CommitSent)
        {
            yield return this with { SourceCopy = GuestCopy.Gone };
        }

        if (RunningInFlight && SourceRecord == HandOverState.Committed)
        {
            yield return Record(HandOverState.Left);
        }
    }

    private IEnumerable<HandOverModel> DestinationSteps(Mistake mistake)
    {
        if (!DestinationUp)
        {
            yield return RestartDestination();
            yield break;
        }

        if (DestinationMoves && !Told && LinkUp
            && DestinationCopy == GuestCopy.Paused && SourceCopy == GuestCopy.Paused)
        {
            yield return this with { Told = true, LoadedInFlight = true };
        }

        if (DestinationMoves && DestinationCopy == GuestCopy.Gone && DestinationRecord is null)
        {
            yield return GiveUp();
            if (CommitInFlight)
            {
                // If the daemon dies now, nobody knows that the guest did not run.
                yield return this with { DestinationRecord = HandOverState.Resuming, QemuKilled = true };
            }
        }

        if (CommitInFlight && DestinationMoves && DestinationCopy == GuestCopy.Paused && DestinationRecord is null)
        {
            yield return mistake == Mistake.GuestRunBeforeItIsRecorded
                ? this with { DestinationCopy = GuestCopy.Running, RanAtDestination = true }
                : this with { DestinationRecord = HandOverState.Resuming };
        }

        if (CommitInFlight && DestinationMoves && DestinationRecord is null)
        {
            // It cannot record that it would.
            yield return GiveUp();
        }

        if (DestinationRecord == HandOverState.Resuming && DestinationCopy == GuestCopy.Paused)
        {
            yield return this with
            {
                DestinationCopy = GuestCopy.Running, RanAtDestination = true, RunningInFlight = LinkUp,
            };
        }

        if (DestinationRecord == HandOverState.Resuming && !RanAtDestination && DestinationMoves)
        {
            // Its QEMU does not run it.
            yield return this with { DestinationRecord = HandOverState.Refused, DestinationMoves = false };
        }

        if (DestinationRecord == HandOverState.Refused && DestinationCopy == GuestCopy.Paused)
        {
            yield return this with { DestinationCopy = GuestCopy.Gone };
        }

        if (mistake == Mistake.GuestRunBeforeItIsRecorded && DestinationCopy == GuestCopy.Running
            && DestinationRecord is null)
        {
            yield return this with { DestinationRecord = HandOverState.Resuming, RunningInFlight = LinkUp };
        }

        if (DestinationMoves && DestinationRecord is null && !SourceMoves)
        {
            // The control lane has ended, or nothing has come for too long.
            yield return GiveUp();
        }
    }

    // The lanes are gone: each side does what it does then, and may be the first to know, or the only one for a while.
    private IEnumerable<HandOverModel> Notices() =>
        [NoticeAtSource().NoticeAtDestination(), NoticeAtSource(), NoticeAtDestination(), this];

    private HandOverModel NoticeAtSource() => SourceUp && SourceMoves
        ? SourceRecord is null ? Abort() : this with { SourceMoves = false } : this;

    private HandOverModel NoticeAtDestination() =>
        DestinationUp && DestinationMoves && DestinationRecord is null ? GiveUp() : this;

    private HandOverModel GiveUp() => this with { DestinationMoves = false, DestinationCopy = GuestCopy.Gone };

    private HandOverModel NoticeDestinationCopyGone() => DestinationUp && DestinationMoves && DestinationRecord is null
        ? NoticeAtSource().NoticeAtDestination() : this;

    private HandOverModel Abort() => this with
    {
        SourceMoves = false,
        Held = false,
        SourceCopy = SourceCopy == GuestCopy.Gone ? GuestCopy.Gone : GuestCopy.Running,
        RanOnAtSource = RanOnAtSource || SourceCopy == GuestCopy.Paused,
    };

    private HandOverModel RestartSource() => (this with { SourceUp = true }).Do(AtSource(SourceRecord));

    private HandOverModel RestartDestination()
    {
        HandOverModel up = this with { DestinationUp = true };
        return HandOverRules.AtDestination(DestinationRecord, DestinationCopy) switch
        {
            HandOverDuty.Run => up with { DestinationCopy = GuestCopy.Running, RanAtDestination = true },
            HandOverDuty.End => up with { DestinationCopy = GuestCopy.Gone },
            _ => up,
        };
    }

    private HandOverModel Ask(Mistake mistake)
    {
        // A destination that still waits for the commit and cannot follow it gives up before it answers.
        HandOverModel asked = DestinationMoves && DestinationRecord is null
            && mistake != Mistake.RefusedAndStillWaiting ? GiveUp() : this;
        HandOverAnswer answer = HandOverRules.Answer(asked.DestinationRecord, asked.DestinationCopy);
        if (mistake == Mistake.UnknownTakenForRuns && asked.DestinationRecord is null)
        {
            answer = HandOverAnswer.Runs;
        }

        return HandOverRules.OnAnswer(HandOverState.Committed, answer) is { } state ? asked.Record(state) : asked;
    }

    private HandOverModel Record(HandOverState state)
    {
        if (!HandOverRecord.MayFollow(SourceRecord, state))
        {
            throw new InvalidOperationException($"{state} after {SourceRecord}");
        }

        return this with { SourceRecord = state, SourceMoves = false };
    }

    // As the settlement does it; no operator decides here.
    private static HandOverDuty AtSource(HandOverState? state) => state switch
    {
        null or HandOverState.Reclaimed => HandOverDuty.Run,
        HandOverState.Left => HandOverDuty.End,
        _ => HandOverDuty.None,
    };

    private HandOverModel Do(HandOverDuty duty) => duty switch
    {
        HandOverDuty.Run when SourceCopy == GuestCopy.Paused =>
            this with { SourceCopy = GuestCopy.Running, Held = false, RanOnAtSource = true },
        HandOverDuty.End => this with { SourceCopy = GuestCopy.Gone },
        _ => this,
    };
}
