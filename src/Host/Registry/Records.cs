using Godwit.Host.Qemu;
using Godwit.Migration;
using Godwit.Migration.HandOver;

namespace Godwit.Host.Registry;

/// <summary>A guest for life: its frozen contract, who owns it, and what the owner is to do with it.</summary>
/// <param name="Host">The only host that may run the guest.</param>
/// <param name="Epoch">Rises by one with each change of owner; an update that names an older one is refused.</param>
/// <param name="Detail">Why the guest failed; empty if it did not.</param>
public sealed record GuestRecord(
    MachineContract Contract, string Host, long Epoch, GuestIntent Intent,
    DateTimeOffset Created, DateTimeOffset? Started, string Detail)
{
    /// <summary>The parcel that the guest sleeps in, came from, or is being put into; null if there is none.</summary>
    public ParcelNote? Parcel { get; init; }

    public Guid Uuid => Contract.Uuid;
    public string Name => Contract.Name;
    public GuestOwnership Owned => new(Host, Epoch, Intent);

    /// <summary>The same guest under this ownership.</summary>
    public GuestRecord With(GuestOwnership owned) =>
        this with { Host = owned.Host, Epoch = owned.Epoch, Intent = owned.Intent };
}

/// <summary>Where a guest stands with a parcel.</summary>
public enum ParcelStage
{
    /// <summary>It stands still, and the parcel may be in the store already: whether it is decides.</summary>
    Suspending,
    /// <summary>It sleeps in the parcel; there is no copy of it here.</summary>
    Asleep,
    /// <summary>It is this host's, and is being put in place from the parcel; it has not run yet.</summary>
    Resuming,
    /// <summary>It runs, and some of its memory is still in the parcel.</summary>
    Filling,
    /// <summary>It has gone on since.</summary>
    Awake,
}

/// <summary>A guest's last parcel, as its host has it.</summary>
/// <param name="Store">Name of the store on this host.</param>
/// <param name="Id">Of the parcel.</param>
public sealed record ParcelNote(string Store, string Id, ParcelStage Stage);

/// <summary>A guest's sleep in a parcel, as far as this host knows of it.</summary>
public sealed record SleepRecord(Guid Guest, string Parcel, string SuspendedOn, DateTimeOffset Suspended)
{
    /// <summary>Where it was resumed; empty if that is not known.</summary>
    public string ResumedOn { get; init; } = "";
    public DateTimeOffset? Resumed { get; init; }

    /// <summary>Where it was expected to be resumed when it began; empty if nowhere.</summary>
    public string PredictedHost { get; init; } = "";
    public DateTimeOffset? PredictedFor { get; init; }

    /// <summary>Bytes that lay hoarded on the host where it was resumed; null if that is not known.</summary>
    public long? HoardedBytes { get; init; }

    /// <summary>Of them, what the resume used.</summary>
    public long? UsedBytes { get; init; }
}

/// <summary>A member of the cluster.</summary>
/// <param name="Address">Host and port of its Peer service.</param>
/// <param name="CertificateSha256">Lower-case hexadecimal, or empty while not known.</param>
/// <param name="HoldsAuthority">True for the host that signs certificates and admits members.</param>
public sealed record HostRecord(string Name, string Address, string CertificateSha256, bool HoldsAuthority);

/// <summary>A migration's report, the newest state first written at its start.</summary>
/// <param name="GuestRunsOn">The host on which the guest ran when this was written.</param>
public sealed record MigrationRecord(
    string Id, Guid GuestUuid, string Guest, string From, string To, MigrationPolicy Policy,
    DateTimeOffset Started, string GuestRunsOn, MigrationSnapshot Snapshot);

/// <summary>A join token as stored: the secret itself is known to its bearer only.</summary>
/// <param name="SecretSha256">Lower-case hexadecimal.</param>
/// <param name="Host">The only host name that may use it; empty for any new name.</param>
public sealed record TokenRecord(string SecretSha256, string Host, DateTimeOffset Expires, DateTimeOffset? Used);

/// <summary>A host was removed: its certificates from before are refused, whoever presents them.</summary>
/// <param name="AuthoritySha256">Of the cluster; another cluster's host of this name is another host.</param>
/// <param name="IssuedBefore">Later ones are good: the host has been admitted again.</param>
public sealed record RevocationRecord(string AuthoritySha256, string Host, DateTimeOffset IssuedBefore);

/// <summary>How an attempt to use a join token ended.</summary>
public enum TokenVerdict
{
    Accepted,
    Unknown,
    Expired,
    Used,
    /// <summary>The token was made for another host name.</summary>
    OtherHost,
}

/// <summary>Which certificate authority this registry belongs to.</summary>
/// <param name="Sha256">Fingerprint of the CA certificate, lower-case hexadecimal.</param>
/// <param name="CertificatesIssued">Rises with each certificate signed by this host.</param>
public sealed record AuthorityRecord(string Sha256, DateTimeOffset Created, long CertificatesIssued);
