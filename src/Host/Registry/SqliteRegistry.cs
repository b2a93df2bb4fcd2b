using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using Godwit.Migration;
using Microsoft.Data.Sqlite;

namespace Godwit.Host.Registry;

/// <summary>The registry of one host, in one SQLite file.</summary>
/// <remarks>
/// One connection behind one lock: a daemon writes a few records a second at most, and a commit with
/// <c>synchronous=FULL</c> costs about a millisecond. What a method has returned survives a power cut.
/// </remarks>
public sealed partial class SqliteRegistry : IRegistry
{
    /// <summary>The schema this build writes. An older one is upgraded in place, a newer one is refused.</summary>
    public static int SchemaVersion => Steps.Length;

    // Each one leads from the schema before it to its own; a step that was released is never changed.
    private static readonly string[] Steps = [CreateFirst, CreateRevocations, AddParcels, CreateSleeps];

    private const string CreateFirst = """
        CREATE TABLE guests (
            uuid TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, contract TEXT NOT NULL, host TEXT NOT NULL,
            epoch INTEGER NOT NULL, intent TEXT NOT NULL, created INTEGER NOT NULL, started INTEGER,
            detail TEXT NOT NULL) STRICT;
        CREATE TABLE hosts (
            name TEXT PRIMARY KEY, address TEXT NOT NULL, certificate TEXT NOT NULL,
            authority INTEGER NOT NULL) STRICT;
        CREATE TABLE migrations (
            id TEXT PRIMARY KEY, guest_uuid TEXT NOT NULL, guest TEXT NOT NULL, source TEXT NOT NULL,
            destination TEXT NOT NULL, policy TEXT NOT NULL, started INTEGER NOT NULL, runs_on TEXT NOT NULL,
            snapshot TEXT NOT NULL) STRICT;
        CREATE INDEX migrations_of_guest ON migrations (guest, started);
        CREATE TABLE tokens (
            secret TEXT PRIMARY KEY, host TEXT NOT NULL, expires INTEGER NOT NULL, used INTEGER) STRICT;
        CREATE TABLE authority (
            id INTEGER PRIMARY KEY CHECK (id = 1), sha256 TEXT NOT NULL, created INTEGER NOT NULL,
            issued INTEGER NOT NULL) STRICT;
        """;

    private const string CreateRevocations = """
        CREATE TABLE revocations (
            authority TEXT NOT NULL, host TEXT NOT NULL, issued_before INTEGER NOT NULL,
            PRIMARY KEY (authority, host)) STRICT;
        """;

    private const string AddParcels = "ALTER TABLE guests ADD COLUMN parcel TEXT;";

    private const string CreateSleeps = """
        CREATE TABLE sleeps (
            guest TEXT NOT NULL, parcel TEXT NOT NULL, suspended_on TEXT NOT NULL, suspended INTEGER NOT NULL,
            resumed_on TEXT NOT NULL, resumed INTEGER, predicted_host TEXT NOT NULL, predicted_for INTEGER,
            hoarded_bytes INTEGER, used_bytes INTEGER, PRIMARY KEY (guest, parcel)) STRICT;
        """;

    private readonly SqliteConnection _connection;
    private readonly Lock _lock = new();

    private SqliteRegistry(SqliteConnection connection) => _connection = connection;

    /// <summary>Opens the file, or creates it.</summary>
    /// <exception cref="GodwitException">
    /// <c>state-unwritable</c>, <c>registry-newer</c> or <c>registry-broken</c>.
    /// </exception>
    public static SqliteRegistry Open(string path)
    {
        var connection = new SqliteConnection(new SqliteConnectionStringBuilder
        {
            DataSource = path,
            Mode = SqliteOpenMode.ReadWriteCreate,
            // A pooled connection would keep the file open after the registry is disposed.
            Pooling = false,
            DefaultTimeout = 5,
        }.ToString());
        try
        {
            connection.Open();
            var registry = new SqliteRegistry(connection);
            registry.Prepare(path);
            return registry;
        }
        catch (SqliteException exception)
        {
            connection.Dispose();
            throw Explain(path, exception);
        }
        catch
        {
            connection.Dispose();
            throw;
        }
    }

    private static GodwitException Explain(string path, SqliteException exception) => exception.SqliteErrorCode switch
    {
        // SQLITE_CORRUPT and SQLITE_NOTADB
        11 or 26 => new GodwitException("registry-broken",
            $"The registry {path} is damaged: {exception.Message}",
            "Put a backup in its place. Without one, move the file away and start: running guests are not touched, "
            + "but they must be created again under their UUIDs.", exception),
        _ => new GodwitException("state-unwritable", $"The registry {path} cannot be written: {exception.Message}",
            "Check the directory's owner, its mode, and free space with 'df'.", exception),
    };

    private void Prepare(string path)
    {
        Execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;");
        var version = Convert.ToInt32(Scalar("PRAGMA user_version"), null);
        if (version > SchemaVersion)
        {
            throw new GodwitException("registry-newer",
                $"The registry {path} has schema {version}; this godwitd reads up to {SchemaVersion}.",
                "Install the godwitd version that wrote it, or a newer one.");
        }

        for (; version < SchemaVersion; version++)
        {
            using var transaction = _connection.BeginTransaction();
            Execute(Steps[version]);
            Execute($"PRAGMA user_version={version + 1}");
            transaction.Commit();
        }
    }

    public ValueTask DisposeAsync()
    {
        lock (_lock)
        {
            _connection.Dispose();
        }

        return ValueTask.CompletedTask;
    }

    /// <summary>Runs one statement and gives the number of rows it changed.</summary>
    private int Execute(string sql, params ReadOnlySpan<(string Name, object? Value)> parameters)
    {
        using var command = Command(sql, parameters);
        return command.ExecuteNonQuery();
    }

    private object? Scalar(string sql, params ReadOnlySpan<(string Name, object? Value)> parameters)
    {
        using var command = Command(sql, parameters);
        return command.ExecuteScalar();
    }

    private List<T> Query<T>(
        string sql, Func<SqliteDataReader, T> read, params ReadOnlySpan<(string Name, object? Value)> parameters)
    {
        using var command = Command(sql, parameters);
        using var reader = command.ExecuteReader();
        var rows = new List<T>();
        while (reader.Read())
        {
            rows.Add(read(reader));
        }

        return rows;
    }

    private SqliteCommand Command(string sql, ReadOnlySpan<(string Name, object? Value)> parameters)
    {
        var command = _connection.CreateCommand();
#pragma warning disable CA2100 // Every text is a constant of this class; values are parameters.
        command.CommandText = sql;
#pragma warning restore CA2100
        foreach (var (name, value) in parameters)
        {
            command.Parameters.AddWithValue(name, value ?? DBNull.Value);
        }

        return command;
    }

    /// <summary>Runs the work alone on the connection; a storage error becomes one a user understands.</summary>
    private Task<T> LockedAsync<T>(Func<T> work, CancellationToken cancellationToken)
    {
        cancellationToken.ThrowIfCancellationRequested();
        lock (_lock)
        {
            try
            {
                return Task.FromResult(work());
            }
            catch (SqliteException exception)
            {
                return Task.FromException<T>(Explain(_connection.DataSource, exception));
            }
            catch (GodwitException exception)
            {
                return Task.FromException<T>(exception);
            }
        }
    }

    private static string Write<T>(T value, JsonTypeInfo<T> type) => JsonSerializer.Serialize(value, type);

    private static T Read<T>(string json, JsonTypeInfo<T> type) => JsonSerializer.Deserialize(json, type)
        ?? throw new GodwitException("registry-broken", $"The registry holds an empty {typeof(T).Name}.");

    private static long Milliseconds(DateTimeOffset time) => time.ToUnixTimeMilliseconds();

    private static DateTimeOffset Time(long milliseconds) => DateTimeOffset.FromUnixTimeMilliseconds(milliseconds);
}
