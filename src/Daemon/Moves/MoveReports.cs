using Godwit.Host.Registry;
using Godwit.Migration;

namespace Godwit.Daemon.Moves;

/// <summary>Migrations that are over, as the registry keeps them.</summary>
internal sealed class MoveReports(IRegistry registry)
{
    private const int LimitDefault = 50;
    private const int LimitMax = 1000;

    /// <summary>Keeps what another host reports of its own move.</summary>
    /// <exception cref="GodwitException">
    /// <c>certificate-host-mismatch</c>: there is a report of that id by another host.
    /// </exception>
    public async Task LearnAsync(MigrationRecord record)
    {
        var known = await registry.FindMigrationsAsync(record.Id, CancellationToken.None);
        if (known.FirstOrDefault(one => one.Id == record.Id) is { } other && other.From != record.From)
        {
            throw new GodwitException("certificate-host-mismatch",
                $"Migration {record.Id} is of host '{other.From}'; the certificate names '{record.From}'.",
                "A host reports its own moves only.");
        }

        await PutAsync(record);
    }

    public Task PutAsync(MigrationRecord record) => registry.PutMigrationAsync(record, CancellationToken.None);

    public Task<IReadOnlyList<MigrationRecord>> ListAsync(
        string guest, uint limit, CancellationToken cancellationToken) =>
        registry.ListMigrationsAsync(
            guest.Length > 0 ? guest : null, limit == 0 ? LimitDefault : (int)Math.Min(limit, LimitMax),
            cancellationToken);

    /// <summary>By id, unambiguous beginning of an id, or a guest's name for its newest move.</summary>
    /// <exception cref="GodwitException"><c>migration-unknown</c> or <c>migration-ambiguous</c>.</exception>
    public async Task<MigrationRecord> FindAsync(string id, CancellationToken cancellationToken)
    {
        if (await registry.ListMigrationsAsync(id, 1, cancellationToken) is [var newest])
        {
            return newest;
        }

        var matches = id.Length == 0 ? [] : await registry.FindMigrationsAsync(id, cancellationToken);
        return matches.Count switch
        {
            1 => matches[0],
            0 => throw new GodwitException("migration-unknown",
                $"No migration '{id}' is recorded here, and no guest of this name has moved.",
                "List them with 'godwit migration list'."),
            _ => throw new GodwitException("migration-ambiguous",
                $"'{id}' is the beginning of several migrations' ids, {matches[0].Id} and {matches[1].Id} among them.",
                "Give more of it."),
        };
    }
}
