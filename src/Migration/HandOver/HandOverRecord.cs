namespace Godwit.Migration.HandOver;

/// <summary>What a host has durably said about one migration. docs/formats/hand-over.md explains each.</summary>
public enum HandOverState : byte
{
    /// <summary>Source: the destination may run the guest; the paused copy is kept until it has answered.</summary>
    Committed = 1,
    /// <summary>Source: the guest is the destination's, and the copy here is ended.</summary>
    Left = 2,
    /// <summary>Source: the destination never ran the guest and never will; it runs here.</summary>
    Reclaimed = 3,
    /// <summary>Source: an operator decided that it runs here, and the destination has yet to hear of it.</summary>
    Overruled = 4,

    /// <summary>Destination: it is about to run the guest, so from here on it may have run it.</summary>
    Resuming = 16,
    /// <summary>Destination: the guest has not run here, and never will by this migration.</summary>
    Refused = 17,
    /// <summary>Destination: the source knows the end; nobody will ask again.</summary>
    Closed = 18,
}

/// <summary>One record of the hand-over journal.</summary>
/// <param name="Migration">At most 64 bytes of UTF-8, as is the peer's name.</param>
/// <param name="Peer">The other host.</param>
/// <param name="Epoch">The ownership epoch that the guest has by this record.</param>
/// <param name="PeerJournal">
/// Identity of the other host's journal when the migration began: an answer out of another one is no answer.
/// </param>
public sealed record HandOverRecord(
    HandOverState State, string Migration, Guid Guest, string Peer, long Epoch, Guid PeerJournal)
{
    /// <summary>Whether this host has still something to do about the migration.</summary>
    public bool IsOutstanding => State is HandOverState.Committed or HandOverState.Overruled;

    /// <summary>Whether the record has to outlive a restart: someone may still ask, or has to be told.</summary>
    public bool IsNeeded => IsOutstanding || State == HandOverState.Resuming;

    /// <summary>True if this host may say <paramref name="next"/> after it has said <paramref name="last"/>.</summary>
    public static bool MayFollow(HandOverState? last, HandOverState next) => (last, next) switch
    {
        (null, HandOverState.Committed or HandOverState.Resuming or HandOverState.Refused) => true,
        (HandOverState.Committed, HandOverState.Left or HandOverState.Reclaimed or HandOverState.Overruled) => true,
        (HandOverState.Overruled, HandOverState.Reclaimed) => true,
        // Refused only by one who knows that it did not run after all, or has ended it because an operator decided so.
        (HandOverState.Resuming, HandOverState.Refused or HandOverState.Closed) => true,
        _ => false,
    };
}
