namespace Godwit.Simulation;

/// <summary>Mistakes that somebody could make; each has to be caught by the checks.</summary>
internal enum Canary
{
    None,
    /// <summary>The source sends the commit, and then records it.</summary>
    CommitToldBeforeItIsRecorded,
    /// <summary>A QEMU whose daemon dies goes on by itself after the commit.</summary>
    StreamNotHeld,
    /// <summary>The destination runs the guest, and then records that it does.</summary>
    GuestRunBeforeItIsRecorded,
    /// <summary>The journal's writes are not flushed.</summary>
    FlushForgotten,
    /// <summary>A destination that is asked says "refused", and goes on waiting for the commit.</summary>
    RefusedAndStillWaiting,
    /// <summary>The source ends its copy when it has sent the commit.</summary>
    CopyEndedBeforeTheAnswer,
    /// <summary>A page is dropped now and then.</summary>
    PageLost,
    /// <summary>A page is read before it is taken out of the queue: a write in between is lost.</summary>
    PageReadBeforeItIsTaken,
    /// <summary>Device state is given to QEMU when the first lane is through.</summary>
    BarrierNotAwaited,
    /// <summary>A record that could not be written is left at the journal's end, half or whole.</summary>
    TornRecordLeft,
    /// <summary>A destination that comes back runs whatever waits, recorded or not.</summary>
    ArrivalRunUnrecorded,
    /// <summary>The source ends its copy when a link breaks behind which the guest runs and lacks memory.</summary>
    CopyEndedBeforeTheRest,
    /// <summary>A destination that comes back takes what was on its way to the guest for arrived.</summary>
    MissingForgotten,
    /// <summary>Now and then another page is brought behind the guest than the one that is missing.</summary>
    OtherPageFetched,
}
