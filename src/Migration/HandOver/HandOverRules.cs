namespace Godwit.Migration.HandOver;

/// <summary>What is left of a guest's copy on a host.</summary>
public enum GuestCopy
{
    /// <summary>No QEMU of it.</summary>
    Gone,
    /// <summary>A QEMU that holds the guest and does not run it.</summary>
    Paused,
    Running,
    /// <summary>It runs the guest, which lacks memory that only its source has.</summary>
    Fetching,
}

/// <summary>What a destination answers when the source asks how a migration ended.</summary>
public enum HandOverAnswer
{
    /// <summary>Nothing that helps: no answer, an answer out of another journal, or not yet.</summary>
    None,
    /// <summary>The guest runs there.</summary>
    Runs,
    /// <summary>It may have run there and does not any more; it is the destination's to start again.</summary>
    Died,
    /// <summary>It never ran there and never will by this migration.</summary>
    Refused,
    /// <summary>It runs there and lacks memory that only the source's paused copy has.</summary>
    Fetching,
}

/// <summary>What a host has to do about a guest's copy.</summary>
public enum HandOverDuty
{
    /// <summary>Nothing: it is as it has to be.</summary>
    None,
    /// <summary>Run it, if it does not run.</summary>
    Run,
    /// <summary>End it.</summary>
    End,
}

/// <summary>What a daemon that starts does with a guest.</summary>
public enum RecoveryDuty
{
    None,
    /// <summary>It was committed to another host and the answer is out: keep it as it is, and ask.</summary>
    KeepPaused,
    /// <summary>It runs here: watch it, and end what is left of a migration in its QEMU.</summary>
    Adopt,
    /// <summary>A move that was never committed left it paused: end that in its QEMU and let it run.</summary>
    GoOn,
    /// <summary>It was handed over to this host and does not run yet: run it and announce it.</summary>
    RunArrival,
    /// <summary>It was on its way here and never will be handed over: end its QEMU, if there is one.</summary>
    DropArrival,
    /// <summary>It is another host's: kill the copy that is left here.</summary>
    EndCopy,
    /// <summary>It died while no daemon looked.</summary>
    NoteDeath,
}

/// <param name="Owned">What the registry has to say from now on.</param>
public sealed record Recovery(RecoveryDuty Duty, GuestOwnership Owned);

/// <summary>The decisions of a hand-over, apart from everything that carries them out.</summary>
/// <remarks>Source: docs/formats/hand-over.md. The daemon, the model and the simulator call the same ones.</remarks>
public static class HandOverRules
{
    /// <summary>What the end of a transfer of this daemon's says about a commit that stands in its journal.</summary>
    public static CommitFate FateOf(MigrationOutcome outcome) => outcome switch
    {
        MigrationOutcome.Completed => CommitFate.Confirmed,
        MigrationOutcome.Unsettled => CommitFate.Told,
        // The daemon ends.
        MigrationOutcome.Pending => CommitFate.InDoubt,
        // It ended while the commit was being recorded.
        _ => CommitFate.Untold,
    };

    /// <summary>What a destination does, after its daemon's restart, with a guest that was arriving.</summary>
    /// <param name="state">Null if it recorded nothing.</param>
    public static HandOverDuty AtDestination(HandOverState? state, GuestCopy copy) => state switch
    {
        null or HandOverState.Refused => copy == GuestCopy.Gone ? HandOverDuty.None : HandOverDuty.End,
        HandOverState.Resuming or HandOverState.Closed =>
            copy == GuestCopy.Paused ? HandOverDuty.Run : HandOverDuty.None,
        _ => throw new ArgumentOutOfRangeException(nameof(state), state, "A source's record is not a destination's."),
    };

    /// <summary>What a daemon that starts does with a guest of its registry.</summary>
    /// <param name="host">This host.</param>
    /// <param name="owned">As the registry has it.</param>
    /// <param name="handOver">Of the guest, as <see cref="HandOverJournal.OfGuest"/> has it.</param>
    /// <param name="copy">What was found of it.</param>
    public static Recovery Recover(string host, GuestOwnership owned, HandOverRecord? handOver, GuestCopy copy)
    {
        owned = CaughtUp(host, owned, handOver);
        if (handOver is { State: HandOverState.Committed })
        {
            return new Recovery(RecoveryDuty.KeepPaused, owned);
        }

        if (owned.Intent == GuestIntent.Incoming)
        {
            // Closed ones too: the registry may not have taken what the journal did.
            HandOverRecord? handedOver = handOver is { State: HandOverState.Resuming or HandOverState.Closed }
                && handOver.Epoch > owned.Epoch ? handOver : null;
            HandOverDuty duty = AtDestination(handedOver?.State, copy);
            return handedOver is null ? new Recovery(RecoveryDuty.DropArrival, owned)
                : copy == GuestCopy.Gone ? new Recovery(RecoveryDuty.NoteDeath, owned.DiedOnArrival(host))
                : new Recovery(
                    duty == HandOverDuty.Run ? RecoveryDuty.RunArrival : RecoveryDuty.Adopt, owned.Arrived(host));
        }

        if (owned.Host != host)
        {
            return new Recovery(copy == GuestCopy.Gone ? RecoveryDuty.None : RecoveryDuty.EndCopy, owned);
        }

        return copy switch
        {
            GuestCopy.Gone when owned.Intent == GuestIntent.Running =>
                new Recovery(RecoveryDuty.NoteDeath, owned with { Intent = GuestIntent.Stopped }),
            GuestCopy.Gone => new Recovery(RecoveryDuty.None, owned),
            // A move that the last daemon did not end, and that was never committed: the guest goes on here.
            GuestCopy.Paused => new Recovery(RecoveryDuty.GoOn, owned with { Intent = GuestIntent.Running }),
            _ => new Recovery(RecoveryDuty.Adopt, owned with { Intent = GuestIntent.Running }),
        };
    }

    // The journal is ahead of the registry when the daemon ended in between.
    private static GuestOwnership CaughtUp(string host, GuestOwnership owned, HandOverRecord? handOver) =>
        handOver is null || handOver.Epoch <= owned.Epoch || owned.Host != host ? owned
        : handOver.State switch
        {
            HandOverState.Left => GuestOwnership.Given(handOver),
            HandOverState.Overruled => GuestOwnership.Overruling(host, handOver),
            _ => owned,
        };

    /// <summary>What a destination answers once nothing of the migration is under way there any more.</summary>
    /// <param name="host">This host.</param>
    /// <param name="owned">Null if the guest is not known here.</param>
    /// <param name="hasDied">Whether a guest that is owned here is known to have died.</param>
    /// <param name="journal">Of this host, put back if it could be.</param>
    /// <param name="migration">The one that is asked about.</param>
    /// <param name="epoch">Which the guest has by that migration.</param>
    public static HandOverAnswer Answer(
        string host, GuestOwnership? owned, bool hasDied, GuestCopy copy, HandOverJournal journal, string migration,
        long epoch)
    {
        HandOverState? state = journal.Find(migration)?.State;
        bool isKnown = owned is not null && owned.Intent != GuestIntent.Incoming && owned.Epoch >= epoch;
        return state switch
        {
            HandOverState.Refused => HandOverAnswer.Refused,
            // It was handed over, and may have been stopped or paused since by whoever may do that.
            _ when isKnown && owned!.Host == host => copy == GuestCopy.Gone && hasDied ? HandOverAnswer.Died
                : copy == GuestCopy.Fetching ? HandOverAnswer.Fetching : HandOverAnswer.Runs,
            // Or moved on. Without a record of our own that is hearsay.
            not null when isKnown => HandOverAnswer.Runs,
            // What stands at the journal's end is not known now.
            null when !journal.IsReliable => HandOverAnswer.None,
            _ => Answer(state, copy),
        };
    }

    /// <summary>The same by the record of the migration alone.</summary>
    /// <param name="state">Null if it recorded nothing.</param>
    public static HandOverAnswer Answer(HandOverState? state, GuestCopy copy) => (state, copy) switch
    {
        (null or HandOverState.Refused, _) => HandOverAnswer.Refused,
        (_, GuestCopy.Running) => HandOverAnswer.Runs,
        (_, GuestCopy.Fetching) => HandOverAnswer.Fetching,
        (_, GuestCopy.Gone) => HandOverAnswer.Died,
        // About to run.
        _ => HandOverAnswer.None,
    };

    /// <summary>Whether the source's fence makes the copy of a guest here void.</summary>
    /// <param name="record">Of the migration that the source names; null if it recorded nothing.</param>
    /// <remarks>
    /// Only of a guest that came by that very migration, while its source may still be in doubt. Whatever else runs
    /// here is none of the caller's: the cluster's other hosts are not to be trusted with it.
    /// </remarks>
    public static bool IsFenced(HandOverRecord? record, Guid guest) =>
        record is { State: HandOverState.Resuming } && record.Guest == guest;

    /// <summary>Whether a guest that died where it arrived may be started there without asking its source.</summary>
    /// <param name="record">Of the guest, as <see cref="HandOverJournal.OfGuest"/> has it.</param>
    /// <remarks>
    /// While the source has not said that it knows how the migration ended, an operator there may have decided that the
    /// guest runs there.
    /// </remarks>
    public static bool IsUndisputed(HandOverRecord? record) => record is not { State: HandOverState.Resuming };

    /// <summary>What a source says when a destination asks whether a guest that died there is its own.</summary>
    /// <param name="record">Of the migration; none is left of those that are over.</param>
    public static bool IsGivenAway(HandOverRecord? record) => record is null or { State: HandOverState.Left };

    /// <summary>What the source records when the destination has answered; null if it has to ask again.</summary>
    public static HandOverState? OnAnswer(HandOverState state, HandOverAnswer answer) => (state, answer) switch
    {
        (HandOverState.Committed, HandOverAnswer.Runs or HandOverAnswer.Died) => HandOverState.Left,
        (HandOverState.Committed, HandOverAnswer.Refused) => HandOverState.Reclaimed,
        // A destination that was fenced answers nothing else.
        (HandOverState.Overruled, HandOverAnswer.Refused) => HandOverState.Reclaimed,
        _ => null,
    };
}
