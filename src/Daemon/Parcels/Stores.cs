using System.Security.Cryptography;
using System.Text.Json;
using System.Text.Json.Serialization;
using Godwit.Api.V1;
using Godwit.ChunkStore.Packs;
using Godwit.ChunkStore.Storage;
using Godwit.Host;
using Godwit.Host.Storage;
using Godwit.Host.Trust;
using Godwit.Migration;

namespace Godwit.Daemon.Parcels;

/// <summary>A store as this host uses it.</summary>
/// <param name="Location">A directory, or <c>s3://BUCKET/PREFIX</c>.</param>
/// <param name="KeyFile">64 hexadecimal digits; empty for a store that is not encrypted.</param>
/// <param name="Endpoint">Of a bucket that is not AWS's.</param>
/// <param name="Region">Of a bucket.</param>
/// <param name="CredentialsFile">With the keys to a bucket; empty for AWS's usual places.</param>
internal sealed record StoreEntry(
    string Name, string Location, string KeyFile, long QuotaBytes, string Coding, string Endpoint = "",
    string Region = "", string CredentialsFile = "")
{
    /// <summary>Where it lies; null if that is no place.</summary>
    public S3Location? Bucket => S3Location.TryParse(Location, Endpoint, Region, CredentialsFile);

    /// <summary>Whether it lies where the other one does.</summary>
    public bool IsAt(StoreEntry other) => Location == other.Location && Endpoint == other.Endpoint;

    public IStorePlace OpenPlace() =>
        Bucket is { } bucket ? new S3Storage(bucket) : new DirectoryStorage(Location);
}

[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, WriteIndented = true)]
[JsonSerializable(typeof(List<StoreEntry>))]
internal sealed partial class StoresJson : JsonSerializerContext;

/// <summary>The stores that this host uses: their names, and each one opened when it is first needed.</summary>
/// <remarks>
/// Nobody asks a store for anything under the lock: one that hangs is in nobody's way but of those who want it, and in
/// theirs for <see cref="DaemonSettings.StoreSilenceSeconds"/>.
/// </remarks>
internal sealed class Stores(DaemonSettings settings, TimeProvider clock)
{
    private readonly Lock _lock = new();
    private readonly Dictionary<string, Store> _open = [];
    private readonly Dictionary<string, (Task<Store> Task, long Began)> _opening = [];
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
                all.Count == 0 ? "Make one: 'godwit store create NAME --at PLACE'."
                    : $"Name one of: {string.Join(", ", all.Select(one => one.Name))}.");
    }

    /// <summary>Makes a store, or learns of one that is there.</summary>
    /// <returns>The store, and whether it was made.</returns>
    /// <exception cref="GodwitException"><c>store-invalid</c>, or what is wrong with the place.</exception>
    public async Task<(StoreEntry Entry, bool IsNew)> CreateAsync(StoreSpec spec)
    {
        var entry = new StoreEntry(
            spec.Name, spec.Location, spec.KeyFile, (long)Math.Min(spec.QuotaBytes, long.MaxValue),
            spec.Coding.Length > 0 ? spec.Coding : "lz4", spec.Endpoint, spec.Region, spec.CredentialsFile);
        RequireValid(entry);
        RequireFree(entry);
        var others = await IdsOfAsync(All.Where(one => !one.IsAt(entry)));
        return await StoreErrors.GuardAsync(entry.Name, async () =>
        {
            var (store, isNew) = await AnswerOf(() => MakeReady(entry, others));
            lock (_lock)
            {
                RequireFree(entry);
                _open[entry.Name] = store;
                Save([.. Entries().Where(one => one.Name != entry.Name), entry]);
            }

            return (entry, isNew);
        });
    }

    private static void RequireValid(StoreEntry entry)
    {
        var isS3 = S3Location.IsS3(entry.Location);
        if (!SettingsReader.IsHostName(entry.Name) || !(isS3 || Path.IsPathFullyQualified(entry.Location))
            || entry.Coding is not ("lz4" or "zstd"))
        {
            throw new GodwitException("store-invalid",
                $"'{entry.Name}' at '{entry.Location}' is no store: it takes a short name, the absolute path of a "
                + "directory or s3://BUCKET/PREFIX, and lz4 or zstd.",
                "For example: godwit store create office --at /mnt/shared/godwit.");
        }

        if (isS3 && entry.Bucket is null)
        {
            throw new GodwitException("store-invalid",
                $"'{entry.Location}' at '{entry.Endpoint}' is no place in an object store.",
                "For example: godwit store create office --at s3://backups/godwit --endpoint https://s3.example.org; "
                + "names of letters, digits, '.', '_' and '-', and an endpoint without a path.");
        }

        if (!isS3 && entry.Endpoint.Length + entry.Region.Length + entry.CredentialsFile.Length > 0)
        {
            throw new GodwitException("store-invalid",
                $"'{entry.Location}' is a directory: it has no endpoint, region and credentials.",
                "Leave --endpoint, --region and --credentials-file out, or say --at s3://BUCKET/PREFIX.");
        }

        foreach (var file in (string[])[entry.KeyFile, entry.CredentialsFile])
        {
            if (file.Length > 0 && !Path.IsPathFullyQualified(file))
            {
                throw new GodwitException("store-invalid", $"The file '{file}' is no absolute path.",
                    "Give one that only root can read, on this host.");
            }
        }
    }

    private void RequireFree(StoreEntry entry)
    {
        if (All.FirstOrDefault(one => one.Name == entry.Name && one.Location != entry.Location) is { } other)
        {
            throw new GodwitException("store-invalid",
                $"There is a store '{entry.Name}' already, at {other.Location}.",
                $"Choose another name, or forget that one: 'godwit store forget {entry.Name}'.");
        }
    }

    private (Store Store, bool IsNew) MakeReady(StoreEntry entry, IReadOnlyList<(StoreEntry, string)> others)
    {
        var place = entry.OpenPlace();
        var found = Store.Find(place);
        RequirePlace(entry, place, found, others);
        place.Prepare();
        var isNew = found is null;
        var key = ReadKey(entry, mayMake: isNew);
        // Another host may be doing the same: what is there then is what both use.
        isNew = isNew && Store.Create(place, Guid.NewGuid().ToString(), key);
        var store = Store.Open(place, key, static () => new SegmentCoder());
        RemoveLeftOvers(store);
        return (store, isNew);
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

    /// <summary>The store, open. Whoever asks waits; not for longer than a store may say nothing.</summary>
    /// <exception cref="StorageException">It cannot be reached.</exception>
    /// <exception cref="StoreFormatException">It is damaged, newer, or has another key.</exception>
    public Store Open(StoreEntry entry)
    {
        Task<Store> opening;
        TimeSpan patience;
        lock (_lock)
        {
            if (_open.TryGetValue(entry.Name, out var open))
            {
                return open;
            }

            if (!_opening.TryGetValue(entry.Name, out var known) || known.Task.IsFaulted)
            {
                // On a thread of its own, which may hang for as long as the system lets it.
                known = (Task.Factory.StartNew(
                    () => OpenNow(entry), CancellationToken.None, TaskCreationOptions.LongRunning,
                    TaskScheduler.Default), clock.GetTimestamp());
                _opening[entry.Name] = known;
            }

            (opening, patience) = (known.Task, Silence - clock.GetElapsedTime(known.Began));
        }

        try
        {
            return opening.WaitAsync(patience > TimeSpan.Zero ? patience : TimeSpan.Zero, clock)
                .GetAwaiter().GetResult();
        }
        catch (TimeoutException)
        {
            throw Unanswered(null);
        }
    }

    /// <summary>A store that is open, by its id.</summary>
    public Store? FindOpen(string id)
    {
        lock (_lock)
        {
            return _open.Values.FirstOrDefault(store => store.Descriptor.Id == id);
        }
    }

    /// <summary>Asks stores, side by side; one that says nothing for too long is in nobody's way.</summary>
    /// <param name="ask">Begins nothing that has to be ended: it may be left behind.</param>
    /// <returns>The answer of each, in their order, or why there is none: a failure that is known.</returns>
    public async Task<IReadOnlyList<(StoreEntry Entry, T? Answer, Exception? Failure)>> AskAsync<T>(
        IEnumerable<StoreEntry> entries, Func<StoreEntry, Store, T> ask)
        where T : class => await Task.WhenAll(entries.Select(async entry =>
    {
        try
        {
            return (entry, await AnswerOf(() => ask(entry, Open(entry))), (Exception?)null);
        }
        catch (Exception exception) when (StoreErrors.IsKnown(exception))
        {
            return (entry, (T?)null, exception);
        }
    }));

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

    private TimeSpan Silence => TimeSpan.FromSeconds(settings.StoreSilenceSeconds);

    private Store OpenNow(StoreEntry entry)
    {
        var place = entry.OpenPlace();
        if (entry.Bucket is not null)
        {
            // What is behind the name may have changed.
            place.Prepare();
        }

        var store = Store.Open(place, ReadKey(entry, mayMake: false), static () => new SegmentCoder());
        RemoveLeftOvers(store);
        lock (_lock)
        {
            _opening.Remove(entry.Name);
            // It may have been forgotten, or named anew, meanwhile.
            if (Entries().Contains(entry))
            {
                _open[entry.Name] = store;
            }
        }

        return store;
    }

    private async Task<T> AnswerOf<T>(Func<T> work)
    {
        try
        {
            return await Task.Factory.StartNew(
                work, CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default)
                .WaitAsync(Silence, clock);
        }
        catch (TimeoutException exception)
        {
            throw Unanswered(exception);
        }
    }

    private StorageException Unanswered(Exception? inner) => new(
        StorageFailure.Unreachable, $"it has said nothing for {settings.StoreSilenceSeconds} s", inner);

    public static StoreWriterOptions WriterOptions(StoreEntry entry) => new(
        Random, entry.Coding == "zstd" ? SegmentCoding.Zstd : SegmentCoding.Lz4, entry.QuotaBytes);

    // Sessions of this host were left by a daemon that did not end in order: this one has begun none yet.
    private void RemoveLeftOvers(Store store)
    {
        lock (_lock)
        {
            if (!_met.Add(store.Descriptor.Id))
            {
                return;
            }
        }

        try
        {
            StoreSession.RemoveLeftOvers(store, settings.HostName);
        }
        catch
        {
            lock (_lock)
            {
                _met.Remove(store.Descriptor.Id);
            }

            throw;
        }
    }

    // A store that was copied as files has the id of the other one: a guest would be claimed in each of them. And a
    // directory that holds something else is one over which nothing is mounted yet, or the wrong file system.
    private static void RequirePlace(
        StoreEntry entry, IStorePlace place, StoreDescriptor? found,
        IReadOnlyList<(StoreEntry Entry, string Id)> others)
    {
        if (found is null)
        {
            if (place.FindStranger() is { } other)
            {
                throw new GodwitException("store-invalid",
                    $"{entry.Location} holds no store, and is not empty: there is '{other}'.",
                    "Check what is mounted there, or the bucket; a new store takes a place of its own.");
            }

            return;
        }

        if (others.FirstOrDefault(known => known.Id == found.Id) is { Entry: { } same })
        {
            throw new GodwitException("store-invalid",
                $"The store at {entry.Location} has the id of '{same.Name}' at {same.Location}: {found.Id}. "
                + "It is the same one, or a copy of its files.",
                $"Use '{same.Name}'. To copy a store make a new one, and 'godwit store copy {same.Name} NEW'.");
        }
    }

    // Of those that answer.
    private async Task<IReadOnlyList<(StoreEntry Entry, string Id)>> IdsOfAsync(IEnumerable<StoreEntry> entries) =>
        [.. (await AskAsync(entries, (_, store) => store.Descriptor))
            .Where(one => one.Answer is not null).Select(one => (one.Entry, one.Answer!.Id))];

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
                // Before anything is sealed under it.
                KeyFile.Replace(
                    entry.KeyFile, Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(StoreKey.Size)) + "\n");
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

            DurableFolder.Replace(next, settings.StoresFile);
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
