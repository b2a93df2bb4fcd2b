using System.Security.Cryptography;
using System.Text.Json;
using System.Text.Json.Serialization;
using Godwit.Api.V1;
using Godwit.ChunkStore.Packs;
using Godwit.ChunkStore.Storage;
using Godwit.Host.Storage;
using Godwit.Host.Trust;
using Godwit.Migration;

namespace Godwit.Daemon.Parcels;

/// <summary>A store as this host uses it.</summary>
/// <param name="Location">A directory.</param>
/// <param name="KeyFile">64 hexadecimal digits; empty for a store that is not encrypted.</param>
internal sealed record StoreEntry(string Name, string Location, string KeyFile, long QuotaBytes, string Coding);

[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, WriteIndented = true)]
[JsonSerializable(typeof(List<StoreEntry>))]
internal sealed partial class StoresJson : JsonSerializerContext;

/// <summary>The stores that this host uses: their names, and each one opened when it is first needed.</summary>
internal sealed class Stores(DaemonSettings settings, TimeProvider clock)
{
    private const UnixFileMode OwnerOnly = UnixFileMode.UserRead | UnixFileMode.UserWrite;
    private readonly Lock _lock = new();
    private readonly Dictionary<string, Store> _open = [];
    private readonly List<(string Store, StoreSession Session)> _sessions = [];

    // Ids of stores that this process has opened, also if it has forgotten them since.
    private readonly HashSet<string> _met = [];
    private List<StoreEntry>? _entries;

    public static Action<Span<byte>> Random { get; } = RandomNumberGenerator.Fill;

    public IReadOnlyList<StoreEntry> All
    {
        get
        {
            lock (_lock)
            {
                return [.. Entries()];
            }
        }
    }

    /// <summary>Finds a store by its name; the only one there is if no name is given.</summary>
    /// <exception cref="GodwitException"><c>store-unknown</c>.</exception>
    public StoreEntry Find(string name)
    {
        var all = All;
        return name.Length == 0 && all.Count == 1 ? all[0]
            : all.FirstOrDefault(one => one.Name == name)
            ?? throw new GodwitException("store-unknown", name.Length > 0
                    ? $"Host '{settings.HostName}' knows no store '{name}'."
                    : all.Count == 0 ? $"Host '{settings.HostName}' has no store."
                    : $"Host '{settings.HostName}' has {all.Count} stores, and none was named.",
                all.Count == 0 ? "Make one: 'godwit store create NAME --at DIRECTORY'."
                    : $"Name one of: {string.Join(", ", all.Select(one => one.Name))}.");
    }

    /// <summary>Makes a store, or learns of one that is there.</summary>
    public StoreEntry Create(StoreSpec spec)
    {
        if (!SettingsReader.IsHostName(spec.Name) || !Path.IsPathFullyQualified(spec.Location)
            || spec.Coding is not ("" or "lz4" or "zstd"))
        {
            throw new GodwitException("store-invalid",
                $"'{spec.Name}' at '{spec.Location}' is no store: it takes a short name, the absolute path of a "
                + "directory, and lz4 or zstd.", "For example: godwit store create office --at /mnt/shared/godwit.");
        }

        if (spec.KeyFile.Length > 0 && !Path.IsPathFullyQualified(spec.KeyFile))
        {
            throw new GodwitException("store-invalid", $"The key file '{spec.KeyFile}' is no absolute path.",
                "Give one that only root can read, on this host.");
        }

        lock (_lock)
        {
            if (Entries().FirstOrDefault(one => one.Name == spec.Name && one.Location != spec.Location) is { } other)
            {
                throw new GodwitException("store-invalid",
                    $"There is a store '{spec.Name}' already, at {other.Location}.",
                    $"Choose another name, or forget that one: 'godwit store forget {spec.Name}'.");
            }

            var entry = new StoreEntry(
                spec.Name, spec.Location, spec.KeyFile, (long)Math.Min(spec.QuotaBytes, long.MaxValue),
                spec.Coding.Length > 0 ? spec.Coding : "lz4");
            try
            {
                var storage = new DirectoryStorage(entry.Location);
                var found = Store.Find(storage);
                RequirePlace(entry, found);
                storage.Prepare();
                var isNew = found is null;
                var key = ReadKey(entry, mayMake: isNew);
                if (isNew)
                {
                    Store.Create(storage, Guid.NewGuid().ToString(), key);
                }

                var store = Store.Open(storage, key, static () => new SegmentCoder());
                Keep(entry, store);
            }
            catch (Exception exception) when (StoreErrors.IsKnown(exception))
            {
                throw StoreErrors.Explain(entry.Name, exception);
            }

            Save([.. Entries().Where(one => one.Name != entry.Name), entry]);
            return entry;
        }
    }

    public void Forget(string name)
    {
        var entry = Find(name);
        lock (_lock)
        {
            _sessions.RemoveAll(one => !one.Session.IsOpen);
            if (_sessions.Any(one => one.Store == entry.Name))
            {
                throw new GodwitException("store-busy",
                    $"Host '{settings.HostName}' is at work on store '{entry.Name}'.",
                    "Wait until what goes on with it has ended; then try again.");
            }

            _open.Remove(entry.Name);
            Save([.. Entries().Where(one => one.Name != entry.Name)]);
        }
    }

    /// <summary>The store, open.</summary>
    /// <exception cref="StorageException">It cannot be reached.</exception>
    /// <exception cref="StoreFormatException">It is damaged, newer, or has another key.</exception>
    public Store Open(StoreEntry entry)
    {
        lock (_lock)
        {
            if (_open.TryGetValue(entry.Name, out var open))
            {
                return open;
            }

            var store = Store.Open(
                new DirectoryStorage(entry.Location), ReadKey(entry, mayMake: false), static () => new SegmentCoder());
            Keep(entry, store);
            return store;
        }
    }

    /// <summary>Works on a store from now on; disposed of at the end of the work.</summary>
    public StoreSession Begin(Store store)
    {
        var session = StoreSession.Begin(
            store, $"s-{Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(8))}", settings.HostName,
            clock.GetUtcNow().ToUnixTimeMilliseconds(), Random);
        lock (_lock)
        {
            _sessions.RemoveAll(one => !one.Session.IsOpen);
            _sessions.AddRange(_open.Where(open => open.Value == store).Select(open => (open.Key, session)));
        }

        return session;
    }

    public static StoreWriterOptions WriterOptions(StoreEntry entry) => new(
        Random, entry.Coding == "zstd" ? SegmentCoding.Zstd : SegmentCoding.Lz4, entry.QuotaBytes);

    private void Keep(StoreEntry entry, Store store)
    {
        if (_met.Add(store.Descriptor.Id))
        {
            // Sessions of this host were left by a daemon that did not end in order: this one has begun none yet.
            StoreSession.RemoveLeftOvers(store, settings.HostName);
        }

        _open[entry.Name] = store;
    }

    // A store that was copied as files has the id of the other one: a guest would be claimed in each of them. And a
    // directory that holds something else is one over which nothing is mounted yet, or the wrong file system.
    private void RequirePlace(StoreEntry entry, StoreDescriptor? found)
    {
        if (found is null)
        {
            if (Directory.Exists(entry.Location) && Directory.EnumerateFileSystemEntries(entry.Location)
                .Select(Path.GetFileName)
                .FirstOrDefault(name => name is not ("unfinished" or "lost+found")) is { } other)
            {
                throw new GodwitException("store-invalid",
                    $"{entry.Location} holds no store, and is not empty: there is '{other}'.",
                    "Check what is mounted there; a new store takes a directory of its own.");
            }

            return;
        }

        foreach (var known in Entries().Where(known => known.Location != entry.Location))
        {
            if (IdOf(known) == found.Id)
            {
                throw new GodwitException("store-invalid",
                    $"The store at {entry.Location} has the id of '{known.Name}' at {known.Location}: {found.Id}. "
                    + "It is the same one, or a copy of its files.",
                    $"Use '{known.Name}'. To copy a store make a new one, and 'godwit store copy {known.Name} NEW'.");
            }
        }
    }

    // Empty if that cannot be said.
    private string IdOf(StoreEntry entry)
    {
        if (_open.TryGetValue(entry.Name, out var open))
        {
            return open.Descriptor.Id;
        }

        try
        {
            return Store.Find(new DirectoryStorage(entry.Location))?.Id ?? "";
        }
        catch (Exception exception) when (StoreErrors.IsKnown(exception))
        {
            return "";
        }
    }

    private static StoreKey? ReadKey(StoreEntry entry, bool mayMake)
    {
        if (entry.KeyFile.Length == 0)
        {
            return null;
        }

        try
        {
            if (!File.Exists(entry.KeyFile) && mayMake)
            {
                using var stream = new FileStream(entry.KeyFile, new FileStreamOptions
                {
                    Mode = FileMode.CreateNew, Access = FileAccess.Write, UnixCreateMode = OwnerOnly,
                });
                stream.Write(System.Text.Encoding.ASCII.GetBytes(
                    Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(StoreKey.Size)) + "\n"));
                stream.Flush(flushToDisk: true);
            }

            KeyFile.CheckMode(entry.KeyFile);
            var text = File.ReadAllText(entry.KeyFile).Trim();
            return text.Length == 2 * StoreKey.Size
                ? new StoreKey(Convert.FromHexString(text))
                : throw new FormatException($"it holds {text.Length} characters instead of {2 * StoreKey.Size}");
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException or FormatException)
        {
            throw new GodwitException("store-key", $"The key file {entry.KeyFile} of store '{entry.Name}' is of no "
                + $"use: {exception.Message}", "Copy it from a host that uses the store, owner root, mode 0600.",
                exception);
        }
    }

    private List<StoreEntry> Entries()
    {
        if (_entries is not null)
        {
            return _entries;
        }

        try
        {
            return _entries = File.Exists(settings.StoresFile)
                ? JsonSerializer.Deserialize(File.ReadAllText(settings.StoresFile), StoresJson.Default.ListStoreEntry)
                    ?? []
                : [];
        }
        catch (Exception exception) when (exception is JsonException or IOException)
        {
            throw new GodwitException("store-invalid", $"{settings.StoresFile} cannot be read: {exception.Message}",
                "Remove it and name the stores again with 'godwit store create'; nothing in them is touched.",
                exception);
        }
    }

    private void Save(List<StoreEntry> entries)
    {
        var next = settings.StoresFile + ".new";
        try
        {
            using (var stream = File.Create(next))
            {
                JsonSerializer.Serialize(stream, entries, StoresJson.Default.ListStoreEntry);
                // Before the name: power that goes leaves the old list or the new one.
                stream.Flush(flushToDisk: true);
            }

            File.Move(next, settings.StoresFile, overwrite: true);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            throw new GodwitException("state-unwritable",
                $"{settings.StoresFile} cannot be written: {exception.Message}",
                "Check its owner, its mode, and free space with 'df'.", exception);
        }

        _entries = entries;
    }
}
