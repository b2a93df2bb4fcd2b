using Godwit.Migration;
using Godwit.Migration.HandOver;
using Microsoft.Data.Sqlite;

namespace Godwit.Host.Registry;

public sealed partial class SqliteRegistry
{
    private const string GuestColumns = "contract, host, epoch, intent, created, started, detail, parcel";
    private const string MigrationColumns =
        "id, guest_uuid, guest, source, destination, policy, started, runs_on, snapshot";
    private const string SleepColumns =
        "guest, parcel, suspended_on, suspended, resumed_on, resumed, predicted_host, predicted_for, hoarded_bytes, "
        + "used_bytes";
    private const int SleepsMax = 500;
    private const int SqliteConstraint = 19;

    public Task<IReadOnlyList<GuestRecord>> ListGuestsAsync(CancellationToken cancellationToken) =>
        LockedAsync<IReadOnlyList<GuestRecord>>(
            () => Query($"SELECT {GuestColumns} FROM guests ORDER BY name", ReadGuest), cancellationToken);

    public Task<GuestRecord?> FindGuestAsync(Guid uuid, CancellationToken cancellationToken) =>
        LockedAsync(
            () => Query($"SELECT {GuestColumns} FROM guests WHERE uuid = $uuid", ReadGuest, ("$uuid", uuid.ToString()))
                .FirstOrDefault(),
            cancellationToken);

    public Task AddGuestAsync(GuestRecord guest, CancellationToken cancellationToken) =>
        LockedAsync(
            () =>
            {
                try
                {
                    return Execute(
                        """
                        INSERT INTO guests (uuid, name, contract, host, epoch, intent, created, started, detail, parcel)
                        VALUES ($uuid, $name, $contract, $host, $epoch, $intent, $created, $started, $detail, $parcel)
                        """,
                        GuestParameters(guest));
                }
                catch (SqliteException exception) when (exception.SqliteErrorCode == SqliteConstraint)
                {
                    throw new GodwitException("guest-exists",
                        $"A guest named '{guest.Name}' or with the UUID {guest.Uuid} is recorded already.",
                        "Choose another name, or remove the old guest with 'godwit vm rm NAME'.", exception);
                }
            },
            cancellationToken);

    public Task<bool> TryUpdateGuestAsync(GuestRecord guest, long epoch, CancellationToken cancellationToken) =>
        LockedAsync(
            () => Execute(
                """
                UPDATE guests SET name = $name, contract = $contract, host = $host, epoch = $epoch, intent = $intent,
                    created = $created, started = $started, detail = $detail, parcel = $parcel
                WHERE uuid = $uuid AND epoch = $known
                """,
                [.. GuestParameters(guest), ("$known", epoch)]) == 1,
            cancellationToken);

    public Task RemoveGuestAsync(Guid uuid, CancellationToken cancellationToken) =>
        LockedAsync(
            () => Execute("DELETE FROM guests WHERE uuid = $uuid", ("$uuid", uuid.ToString())), cancellationToken);

    public Task<IReadOnlyList<HostRecord>> ListHostsAsync(CancellationToken cancellationToken) =>
        LockedAsync<IReadOnlyList<HostRecord>>(
            () => Query(
                "SELECT name, address, certificate, authority FROM hosts ORDER BY name",
                row => new HostRecord(row.GetString(0), row.GetString(1), row.GetString(2), row.GetBoolean(3))),
            cancellationToken);

    public Task PutHostAsync(HostRecord host, CancellationToken cancellationToken) =>
        LockedAsync(
            () => Execute(
                """
                INSERT INTO hosts (name, address, certificate, authority)
                VALUES ($name, $address, $certificate, $authority)
                ON CONFLICT (name) DO UPDATE SET address = excluded.address, certificate = excluded.certificate,
                    authority = excluded.authority
                """,
                ("$name", host.Name), ("$address", host.Address), ("$certificate", host.CertificateSha256),
                ("$authority", host.HoldsAuthority ? 1 : 0)),
            cancellationToken);

    public Task RemoveHostAsync(RevocationRecord revocation, CancellationToken cancellationToken) =>
        LockedAsync(
            () =>
            {
                using var transaction = _connection.BeginTransaction();
                Execute("DELETE FROM hosts WHERE name = $name", ("$name", revocation.Host));
                Execute("DELETE FROM tokens WHERE host = $name AND used IS NULL", ("$name", revocation.Host));
                Execute(
                    """
                    INSERT INTO revocations (authority, host, issued_before) VALUES ($authority, $host, $before)
                    ON CONFLICT (authority, host)
                        DO UPDATE SET issued_before = max(issued_before, excluded.issued_before)
                    """,
                    ("$authority", revocation.AuthoritySha256), ("$host", revocation.Host),
                    ("$before", Milliseconds(revocation.IssuedBefore)));
                transaction.Commit();
                return true;
            },
            cancellationToken);

    public Task<IReadOnlyList<RevocationRecord>> ListRevocationsAsync(
        string authoritySha256, CancellationToken cancellationToken) =>
        LockedAsync<IReadOnlyList<RevocationRecord>>(
            () => Query(
                "SELECT host, issued_before FROM revocations WHERE authority = $authority ORDER BY host",
                row => new RevocationRecord(authoritySha256, row.GetString(0), Time(row.GetInt64(1))),
                ("$authority", authoritySha256)),
            cancellationToken);

    public Task PutMigrationAsync(MigrationRecord migration, CancellationToken cancellationToken) =>
        LockedAsync(
            () => Execute(
                $"""
                INSERT OR REPLACE INTO migrations ({MigrationColumns})
                VALUES ($id, $guest_uuid, $guest, $source, $destination, $policy, $started, $runs_on, $snapshot)
                """,
                ("$id", migration.Id), ("$guest_uuid", migration.GuestUuid.ToString()), ("$guest", migration.Guest),
                ("$source", migration.From), ("$destination", migration.To),
                ("$policy", Write(migration.Policy, RegistryJson.Default.MigrationPolicy)),
                ("$started", Milliseconds(migration.Started)), ("$runs_on", migration.GuestRunsOn),
                ("$snapshot", Write(migration.Snapshot, RegistryJson.Default.MigrationSnapshot))),
            cancellationToken);

    public Task<IReadOnlyList<MigrationRecord>> ListMigrationsAsync(
        string? guest, int limit, CancellationToken cancellationToken) =>
        LockedAsync<IReadOnlyList<MigrationRecord>>(
            () => Query(
                $"""
                SELECT {MigrationColumns} FROM migrations WHERE $guest IS NULL OR guest = $guest
                ORDER BY started DESC, id DESC LIMIT $limit
                """,
                ReadMigration, ("$guest", guest), ("$limit", limit)),
            cancellationToken);

    public Task<IReadOnlyList<MigrationRecord>> FindMigrationsAsync(
        string idPrefix, CancellationToken cancellationToken) =>
        LockedAsync<IReadOnlyList<MigrationRecord>>(
            () => Query(
                $"""
                SELECT {MigrationColumns} FROM migrations WHERE substr(id, 1, length($prefix)) = $prefix
                ORDER BY id LIMIT 2
                """,
                ReadMigration, ("$prefix", idPrefix)),
            cancellationToken);

    public Task AddTokenAsync(TokenRecord token, CancellationToken cancellationToken) =>
        LockedAsync(
            () => Execute(
                "INSERT INTO tokens (secret, host, expires, used) VALUES ($secret, $host, $expires, $used)",
                ("$secret", token.SecretSha256), ("$host", token.Host), ("$expires", Milliseconds(token.Expires)),
                ("$used", token.Used is { } used ? Milliseconds(used) : null)),
            cancellationToken);

    public Task<TokenRecord?> FindTokenAsync(string secretSha256, CancellationToken cancellationToken) =>
        LockedAsync(() => ReadToken(secretSha256), cancellationToken);

    public Task<TokenVerdict> TakeTokenAsync(
        string secretSha256, string host, DateTimeOffset now, CancellationToken cancellationToken) =>
        LockedAsync(
            () =>
            {
                // One statement decides, so two joiners with the same token cannot both pass.
                var taken = Execute(
                    """
                    UPDATE tokens SET used = $now
                    WHERE secret = $secret AND used IS NULL AND expires > $now AND (host = '' OR host = $host)
                    """,
                    ("$secret", secretSha256), ("$host", host), ("$now", Milliseconds(now)));
                if (taken == 1)
                {
                    return TokenVerdict.Accepted;
                }

                var token = ReadToken(secretSha256);
                return token switch
                {
                    null => TokenVerdict.Unknown,
                    { Used: not null } => TokenVerdict.Used,
                    _ when token.Expires <= now => TokenVerdict.Expired,
                    _ => TokenVerdict.OtherHost,
                };
            },
            cancellationToken);

    public Task<AuthorityRecord?> GetAuthorityAsync(CancellationToken cancellationToken) =>
        LockedAsync(
            () => Query(
                "SELECT sha256, created, issued FROM authority",
                row => new AuthorityRecord(row.GetString(0), Time(row.GetInt64(1)), row.GetInt64(2))).FirstOrDefault(),
            cancellationToken);

    public Task PutAuthorityAsync(AuthorityRecord authority, CancellationToken cancellationToken) =>
        LockedAsync(
            () => Execute(
                "INSERT OR REPLACE INTO authority (id, sha256, created, issued) VALUES (1, $sha256, $created, $issued)",
                ("$sha256", authority.Sha256), ("$created", Milliseconds(authority.Created)),
                ("$issued", authority.CertificatesIssued)),
            cancellationToken);

    public Task PutSleepAsync(SleepRecord sleep, CancellationToken cancellationToken) =>
        LockedAsync(
            () =>
            {
                using var transaction = _connection.BeginTransaction();
                Execute(
                    $"""
                    INSERT INTO sleeps ({SleepColumns})
                    VALUES ($guest, $parcel, $suspended_on, $suspended, $resumed_on, $resumed, $predicted_host,
                        $predicted_for, $hoarded_bytes, $used_bytes)
                    ON CONFLICT (guest, parcel) DO UPDATE SET
                        resumed_on = coalesce(nullif(excluded.resumed_on, ''), resumed_on),
                        resumed = coalesce(excluded.resumed, resumed),
                        predicted_host = coalesce(nullif(excluded.predicted_host, ''), predicted_host),
                        predicted_for = coalesce(excluded.predicted_for, predicted_for),
                        hoarded_bytes = coalesce(excluded.hoarded_bytes, hoarded_bytes),
                        used_bytes = coalesce(excluded.used_bytes, used_bytes)
                    """,
                    ("$guest", sleep.Guest.ToString()), ("$parcel", sleep.Parcel),
                    ("$suspended_on", sleep.SuspendedOn), ("$suspended", Milliseconds(sleep.Suspended)),
                    ("$resumed_on", sleep.ResumedOn), ("$resumed", Milliseconds(sleep.Resumed)),
                    ("$predicted_host", sleep.PredictedHost), ("$predicted_for", Milliseconds(sleep.PredictedFor)),
                    ("$hoarded_bytes", sleep.HoardedBytes), ("$used_bytes", sleep.UsedBytes));
                Execute(
                    """
                    DELETE FROM sleeps WHERE guest = $guest AND parcel NOT IN (
                        SELECT parcel FROM sleeps WHERE guest = $guest ORDER BY suspended DESC, parcel DESC LIMIT $max)
                    """,
                    ("$guest", sleep.Guest.ToString()), ("$max", SleepsMax));
                transaction.Commit();
                return true;
            },
            cancellationToken);

    public Task<IReadOnlyList<SleepRecord>> ListSleepsAsync(Guid guest, CancellationToken cancellationToken) =>
        LockedAsync<IReadOnlyList<SleepRecord>>(
            () => Query(
                $"SELECT {SleepColumns} FROM sleeps WHERE guest = $guest ORDER BY suspended DESC, parcel DESC",
                row => new SleepRecord(
                    Guid.Parse(row.GetString(0)), row.GetString(1), row.GetString(2), Time(row.GetInt64(3)))
                {
                    ResumedOn = row.GetString(4),
                    Resumed = row.IsDBNull(5) ? null : Time(row.GetInt64(5)),
                    PredictedHost = row.GetString(6),
                    PredictedFor = row.IsDBNull(7) ? null : Time(row.GetInt64(7)),
                    HoardedBytes = row.IsDBNull(8) ? null : row.GetInt64(8),
                    UsedBytes = row.IsDBNull(9) ? null : row.GetInt64(9),
                },
                ("$guest", guest.ToString())),
            cancellationToken);

    public Task RemoveSleepsAsync(Guid guest, CancellationToken cancellationToken) =>
        LockedAsync(
            () => Execute("DELETE FROM sleeps WHERE guest = $guest", ("$guest", guest.ToString())), cancellationToken);

    private static long? Milliseconds(DateTimeOffset? time) => time?.ToUnixTimeMilliseconds();

    private TokenRecord? ReadToken(string secretSha256) => Query(
        "SELECT host, expires, used FROM tokens WHERE secret = $secret",
        row => new TokenRecord(secretSha256, row.GetString(0), Time(row.GetInt64(1)),
            row.IsDBNull(2) ? null : Time(row.GetInt64(2))),
        ("$secret", secretSha256)).FirstOrDefault();

    private static (string Name, object? Value)[] GuestParameters(GuestRecord guest) =>
    [
        ("$uuid", guest.Uuid.ToString()), ("$name", guest.Name),
        ("$contract", Write(guest.Contract, RegistryJson.Default.MachineContract)), ("$host", guest.Host),
        ("$epoch", guest.Epoch), ("$intent", guest.Intent.ToString()), ("$created", Milliseconds(guest.Created)),
        ("$started", guest.Started is { } started ? Milliseconds(started) : null), ("$detail", guest.Detail),
        ("$parcel", guest.Parcel is { } parcel ? Write(parcel, RegistryJson.Default.ParcelNote) : null),
    ];

    private static GuestRecord ReadGuest(SqliteDataReader row) => new(
        Read(row.GetString(0), RegistryJson.Default.MachineContract), row.GetString(1), row.GetInt64(2),
        Enum.Parse<GuestIntent>(row.GetString(3)), Time(row.GetInt64(4)),
        row.IsDBNull(5) ? null : Time(row.GetInt64(5)), row.GetString(6))
    {
        Parcel = row.IsDBNull(7) ? null : Read(row.GetString(7), RegistryJson.Default.ParcelNote),
    };

    private static MigrationRecord ReadMigration(SqliteDataReader row) => new(
        row.GetString(0), Guid.Parse(row.GetString(1)), row.GetString(2), row.GetString(3), row.GetString(4),
        Read(row.GetString(5), RegistryJson.Default.MigrationPolicy), Time(row.GetInt64(6)), row.GetString(7),
        Read(row.GetString(8), RegistryJson.Default.MigrationSnapshot));
}
