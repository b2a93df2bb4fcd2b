namespace Godwit.Migration.HandOver;

/// <summary>What a host is to do with a guest, as recorded; not what its QEMU does at this instant.</summary>
public enum GuestIntent
{
    Stopped,
    Running,
    /// <summary>
    /// Arriving here and never committed: after a crash its QEMU is ended, unless it runs the guest already.
    /// </summary>
    Incoming,
}

/// <summary>Who owns a guest, as one host's registry has it.</summary>
/// <param name="Host">The only host that may run the guest.</param>
/// <param name="Epoch">Rises by one with each change of owner; an update that names an older one is refused.</param>
/// <param name="Intent">What the owner is to do with it.</param>
public sealed record GuestOwnership(string Host, long Epoch, GuestIntent Intent)
{
    /// <summary>Of a guest that is about to arrive: still its source's.</summary>
    public static GuestOwnership Arriving(string source, long epoch) => new(source, epoch, GuestIntent.Incoming);

    /// <summary>False if what is known here contradicts that the guest comes.</summary>
    /// <param name="known">Null if nothing is known of it.</param>
    /// <param name="host">This host.</param>
    /// <param name="epoch">As the source that would send it has it.</param>
    public static bool MayArrive(GuestOwnership? known, string host, long epoch) =>
        known is null || (known.Host != host && known.Epoch <= epoch);

    /// <summary>It has arrived and runs, or is about to.</summary>
    public GuestOwnership Arrived(string host) => new(host, Epoch + 1, GuestIntent.Running);

    /// <summary>It was handed over and died: it is the destination's to start again.</summary>
    /// <remarks>
    /// One that ran there without all of its memory is the destination's already; one that was fenced meanwhile is not.
    /// </remarks>
    public GuestOwnership DiedOnArrival(string host) =>
        Host == host ? this with { Intent = GuestIntent.Stopped }
        : Intent == GuestIntent.Incoming ? new(host, Epoch + 1, GuestIntent.Stopped)
        : this;

    /// <summary>It has been given away by a hand-over.</summary>
    public static GuestOwnership Given(HandOverRecord handOver) =>
        new(handOver.Peer, handOver.Epoch, GuestIntent.Stopped);

    /// <summary>It runs here by an operator's decision.</summary>
    public static GuestOwnership Overruling(string host, HandOverRecord handOver) =>
        new(host, handOver.Epoch, GuestIntent.Running);

    /// <summary>The copy here is void by an operator's decision.</summary>
    public static GuestOwnership Fenced(string owner, long epoch) => new(owner, epoch, GuestIntent.Stopped);
}
