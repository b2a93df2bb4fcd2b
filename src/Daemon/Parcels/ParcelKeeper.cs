using Godwit.Api.V1;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.Daemon.Cluster;
using Godwit.Daemon.Guests;
using Godwit.Daemon.Inventories;
using Godwit.Daemon.Moves;
using Godwit.Host.Parcels;
using Godwit.Host.Qemu;
using Godwit.Host.Registry;
using Godwit.Host.Trust;
using Godwit.Migration;
using ParcelKind = Godwit.ChunkStore.Parcels.ParcelKind;

namespace Godwit.Daemon.Parcels;

/// <summary>Guests that go into parcels and come out of them; docs/formats/chunk-store.md has the rules.</summary>
/// <remarks>
/// The manifest is the commit of a suspend: before it is in the store the guest goes on here whatever happens, and
/// afterwards only whoever claims the parcel may run it. In between the registry says "suspending", QEMU holds the
/// guest, and the store is asked until it answers.
/// </remarks>
internal sealed partial class ParcelKeeper(
    DaemonSettings settings, GuestKeeper guests, Machines machines, QemuFacts qemu, Stores stores, ParcelTrust trust,
    InventoryKeeper inventory, SleepBook sleeps, Membership membership, PeerLinks links, TimeProvider clock,
    ILogger<ParcelKeeper> logger) : IDisposable
{
    private static readonly TimeSpan SettleEvery = TimeSpan.FromSeconds(2);
    private readonly CancellationTokenSource _shutdown = new();
    private readonly Lock _workingLock = new();
    private readonly List<Task> _working = [];

    /// <summary>Takes up what an earlier daemon left in the middle.</summary>
    public void Start()
    {
        foreach (var guest in guests.All.Where(guest =>
            guest.Record.Parcel is { Stage: ParcelStage.Suspending }))
        {
            _ = Track(SettleAsync(guest, before: null));
        }

        foreach (var guest in guests.All.Where(guest =>
            guest.Record.Parcel is { Stage: ParcelStage.Asleep } && guest.Record.Host == settings.HostName))
        {
            _ = Track(ExpectAgainAsync(guest));
        }

        // Guests that came out of a parcel, or went into one, may have been taken over meanwhile.
        foreach (var guest in guests.All.Where(guest =>
            guest.Record.Parcel is { Stage: ParcelStage.Awake or ParcelStage.Filling }
            && guest.Record.Host == settings.HostName))
        {
            _ = Track(LookUntilAnsweredAsync(guest));
        }

        foreach (var guest in guests.All.Where(guest =>
            guest.Record.Parcel is { Stage: ParcelStage.Filling } note && guest.MigrationId == note.Id))
        {
            _ = Track(TakeUpFillingAsync(guest));
        }
    }

    /// <summary>
    /// Waits for what is under way; a suspend that is not committed leaves its guest running, and a guest that lacks
    /// memory waits for what it touches until the next daemon brings it.
    /// </summary>
    public async Task StopAsync()
    {
        await _shutdown.CancelAsync();
        Task[] working;
        lock (_workingLock)
        {
            working = [.. _working];
        }

        await Task.WhenAll(working).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
    }

    public void Dispose() => _shutdown.Dispose();

    /// <summary>Puts a guest to sleep in a store, or keeps its state there while it goes on.</summary>
    public Task<Parcel> SuspendAsync(
        string name, string storeName, bool keepRunning, CancellationToken cancellationToken)
    {
        var guest = guests.Find(name);
        var entry = stores.Find(storeName.Length > 0 ? storeName : PreferredStore(guest));
        return Track(StoreErrors.GuardAsync(
            entry.Name, () => SuspendAsync(guest, entry, keepRunning, cancellationToken)));
    }

    /// <summary>Parcels that this host's stores have, the newest first; what cannot be read is said.</summary>
    public async Task<ListParcelsResponse> ListAsync(string guest, string storeName)
    {
        var response = new ListParcelsResponse();
        var found = new List<Parcel>();
        foreach (var (entry, answer, failure) in await stores.AskAsync(Named(storeName), (entry, store) =>
        {
            var parcels = new List<Parcel>();
            var problems = new List<string>();
            foreach (var one in ParcelShelf.FindAll(store, trust))
            {
                if (one.Refused is { } refused)
                {
                    problems.Add(StoreErrors.Explain(entry.Name, refused).Message);
                }
                else if (guest.Length == 0 || Matches(one.Manifest!, guest))
                {
                    parcels.Add(ParcelMapping.ToApi(entry.Name, one.Manifest!, ResumedOn(one.Manifest!)));
                }
            }

            return new Tuple<List<Parcel>, List<string>>(parcels, problems);
        }))
        {
            found.AddRange(answer?.Item1 ?? []);
            response.Problems.AddRange(answer?.Item2 ?? [StoreErrors.Explain(entry.Name, failure!).Message]);
        }

        response.Parcels.AddRange(found.OrderByDescending(parcel => parcel.Id, StringComparer.Ordinal));
        return response;
    }

    // The one that is named; all of them if none is.
    private IReadOnlyList<StoreEntry> Named(string storeName) =>
        storeName.Length > 0 ? [stores.Find(storeName)] : stores.All;

    private string PreferredStore(LocalGuest guest) =>
        guest.Record.Parcel is { } note && stores.All.Any(one => one.Name == note.Store) ? note.Store : "";

    /// <summary>Asks the store, until it answers, whether a suspend was committed.</summary>
    private async Task SettleAsync(LocalGuest guest, ParcelNote? before)
    {
        while (!_shutdown.IsCancellationRequested)
        {
            if (await TrySettleAsync(guest, before))
            {
                guest.MigrationId = "";
                return;
            }

            await Task.Delay(SettleEvery, clock, _shutdown.Token)
                .ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    private async Task<bool> TrySettleAsync(LocalGuest guest, ParcelNote? before)
    {
        var note = guest.Record.Parcel!;
        try
        {
            var entry = stores.Find(note.Store);
            var store = await Task.Run(() => stores.Open(entry));
            // A put that is still on its way somewhere comes too late for good.
            var isVoid = await Task.Run(
                () => ParcelShelf.TryVoid(store, guest.Record.Uuid.ToString(), note.Id));
            if (isVoid)
            {
                await guests.StayAwakeAsync(guest, before);
            }
            else
            {
                await FallAsleepAsync(guest, note);
                var manifest = await Task.Run(
                    () => ParcelShelf.Find(store, guest.Record.Uuid.ToString(), note.Id, trust));
                if (manifest is not null)
                {
                    _ = Track(ExpectAsync(guest, SleepBook.Of(manifest), isAsleep: true));
                }
            }

            Log.ParcelSettled(logger, note.Id, guest.Record.Name, isVoid ? "runs on" : "sleeps");
            return true;
        }
        catch (Exception exception)
        {
            // Asked again: nobody else looks after a guest that is not settled.
            Log.ParcelUnsettled(logger, note.Id, guest.Record.Name, note.Store, exception.Message);
            return false;
        }
    }

    private QemuMachine RequireRunning(LocalGuest guest)
    {
        guests.RequireHere(guest);
        GuestKeeper.RequireAwake(guest);
        if (guest.Machine is not { } machine)
        {
            throw GuestKeeper.State(guest, "does not run",
                $"Start it first: 'godwit vm start {guest.Record.Name}'. Only a running guest is suspended.");
        }

        return guest.IsPaused
            ? throw GuestKeeper.State(guest, "is paused", "Look at 'godwit vm show': it may be unsettled after a move.")
            : machine;
    }

    // The guest's newest parcel there: what this one has in common with it need not be stored again.
    private static string ParentOf(Store store, LocalGuest guest) => ParcelShelf.List(store)
        .Where(parcel => parcel.Guest == guest.Record.Uuid.ToString()).Select(parcel => parcel.Id)
        .Max(StringComparer.Ordinal) ?? "";

    // Known to the store that it was made in; empty if that cannot be asked.
    private string ResumedOn(ParcelManifest manifest)
    {
        try
        {
            return TryOpenHome(manifest) is { } home
                && ParcelShelf.FindClaim(home, manifest.Guest, manifest.Epoch + 1) is { } claim
                && claim.Parcel == manifest.Id ? claim.Host : "";
        }
        catch (Exception exception) when (StoreErrors.IsKnown(exception))
        {
            return "";
        }
    }

    private static bool Matches(ParcelManifest manifest, string guest) =>
        manifest.Name == guest || manifest.Guest == guest
        || (guest.Length >= 4 && manifest.Guest.StartsWith(guest, StringComparison.OrdinalIgnoreCase));

    private Task<T> Track<T>(Task<T> work)
    {
        Track((Task)work);
        return work;
    }

    private Task Track(Task work)
    {
        lock (_workingLock)
        {
            _working.RemoveAll(one => one.IsCompleted);
            _working.Add(work);
        }

        return work;
    }
}
