namespace Godwit.Host.Registry;

/// <summary>
/// The durable record of guests, hosts, migrations and tokens. A method that returns has stored what it was given.
/// </summary>
/// <remarks>Safe for concurrent use. Every adapter passes the same conformance suite.</remarks>
public interface IRegistry : IAsyncDisposable
{
    Task<IReadOnlyList<GuestRecord>> ListGuestsAsync(CancellationToken cancellationToken);

    Task<GuestRecord?> FindGuestAsync(Guid uuid, CancellationToken cancellationToken);

    /// <summary>Adds a guest.</summary>
    /// <exception cref="Godwit.Migration.GodwitException"><c>guest-exists</c>: the name or UUID is taken.</exception>
    Task AddGuestAsync(GuestRecord guest, CancellationToken cancellationToken);

    /// <summary>Replaces a guest's record if the stored epoch still is <paramref name="epoch"/>.</summary>
    /// <returns>
    /// False, and nothing is changed, if the guest is gone or another owner has been recorded meanwhile.
    /// </returns>
    Task<bool> TryUpdateGuestAsync(GuestRecord guest, long epoch, CancellationToken cancellationToken);

    /// <summary>Forgets a guest; idempotent.</summary>
    Task RemoveGuestAsync(Guid uuid, CancellationToken cancellationToken);

    /// <summary>Members in the order of their names.</summary>
    Task<IReadOnlyList<HostRecord>> ListHostsAsync(CancellationToken cancellationToken);

    Task PutHostAsync(HostRecord host, CancellationToken cancellationToken);

    /// <summary>
    /// Takes a host out of the cluster in one step: it is forgotten, its certificates are revoked, and tokens made for
    /// it that nobody has used are void. Idempotent; a revocation never moves back in time.
    /// </summary>
    Task RemoveHostAsync(RevocationRecord revocation, CancellationToken cancellationToken);

    /// <summary>What was revoked in the cluster of this authority.</summary>
    Task<IReadOnlyList<RevocationRecord>> ListRevocationsAsync(
        string authoritySha256, CancellationToken cancellationToken);

    /// <summary>Writes or replaces the report with this id.</summary>
    Task PutMigrationAsync(MigrationRecord migration, CancellationToken cancellationToken);

    /// <summary>Newest first; of one guest if a name is given.</summary>
    Task<IReadOnlyList<MigrationRecord>> ListMigrationsAsync(
        string? guest, int limit, CancellationToken cancellationToken);

    /// <summary>Migrations whose id begins with the text, at most two: enough to tell unique from ambiguous.</summary>
    Task<IReadOnlyList<MigrationRecord>> FindMigrationsAsync(string idPrefix, CancellationToken cancellationToken);

    /// <summary>Records what is known of a sleep; what was known before and is not said now stays.</summary>
    /// <remarks>Of each guest the newest 500 are kept.</remarks>
    Task PutSleepAsync(SleepRecord sleep, CancellationToken cancellationToken);

    /// <summary>A guest's sleeps, the newest first.</summary>
    Task<IReadOnlyList<SleepRecord>> ListSleepsAsync(Guid guest, CancellationToken cancellationToken);

    /// <summary>Forgets a guest's sleeps; idempotent.</summary>
    Task RemoveSleepsAsync(Guid guest, CancellationToken cancellationToken);

    Task AddTokenAsync(TokenRecord token, CancellationToken cancellationToken);

    Task<TokenRecord?> FindTokenAsync(string secretSha256, CancellationToken cancellationToken);

    /// <summary>Uses a token up: of any number of concurrent attempts, at most one is accepted.</summary>
    Task<TokenVerdict> TakeTokenAsync(
        string secretSha256, string host, DateTimeOffset now, CancellationToken cancellationToken);

    Task<AuthorityRecord?> GetAuthorityAsync(CancellationToken cancellationToken);

    Task PutAuthorityAsync(AuthorityRecord authority, CancellationToken cancellationToken);
}
