namespace Godwit.Migration.HandOver;

/// <summary>What is left of a guest's copy on a host.</summary>
public enum GuestCopy
{
    /// <summary>No QEMU of it.</summary>
    Gone,
    /// <summary>A QEMU that holds the guest and does not run it.</summary>
    Paused,
    Running,
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
    /// <summary>Keep it paused and ask the destination.</summary>
    Ask,
    /// <summary>Run it, and tell the destination that its own copy is void.</summary>
    RunAndFence,
}

/// <summary>The decisions of a hand-over, apart from everything that carries them out.</summary>
/// <remarks>Source: docs/formats/hand-over.md. The daemon, the model and the simulator call the same ones.</remarks>
public static class HandOverRules
{
    /// <summary>What the source does with its copy; <paramref name="state"/> is null before the commit.</summary>
    public static HandOverDuty AtSource(HandOverState? state) => state switch
    {
        null or HandOverState.Reclaimed => HandOverDuty.Run,
        HandOverState.Committed => HandOverDuty.Ask,
        HandOverState.Left => HandOverDuty.End,
        HandOverState.Overruled => HandOverDuty.RunAndFence,
        _ => throw new ArgumentOutOfRangeException(nameof(state), state, "A destination's record is not a source's."),
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

    /// <summary>What a destination answers once nothing of the migration is under way there any more.</summary>
    /// <param name="state">Null if it recorded nothing.</param>
    public static HandOverAnswer Answer(HandOverState? state, GuestCopy copy) => (state, copy) switch
    {
        (null or HandOverState.Refused, _) => HandOverAnswer.Refused,
        (_, GuestCopy.Running) => HandOverAnswer.Runs,
        (_, GuestCopy.Gone) => HandOverAnswer.Died,
        // About to run.
        _ => HandOverAnswer.None,
    };

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
