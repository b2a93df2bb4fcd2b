using System.Runtime.ExceptionServices;
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
    InventoryKeeper inventory, Membership membership, PeerLinks links, TimeProvider clock,
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
    }

    /// <summary>Waits for what is under way; a suspend that is not committed leaves its guest running.</summary>
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
    public Task<ListParcelsResponse> ListAsync(string guest, string storeName) => Task.Run(() =>
    {
        var response = new ListParcelsResponse();
        var found = new List<Parcel>();
        foreach (var entry in storeName.Length > 0 ? [stores.Find(storeName)] : stores.All)
        {
            try
            {
                var store = stores.Open(entry);
                foreach (var (uuid, id) in ParcelShelf.List(store))
                {
                    try
                    {
                        if (ParcelShelf.Find(store, uuid, id, trust) is { } manifest
                            && (guest.Length == 0 || Matches(manifest, guest)))
                        {
                            found.Add(ParcelMapping.ToApi(entry.Name, manifest, ResumedOn(manifest)));
                        }
                    }
                    catch (ParcelRefusedException exception)
                    {
                        response.Problems.Add(StoreErrors.Explain(entry.Name, exception).Message);
                    }
                }
            }
            catch (Exception exception) when (StoreErrors.IsKnown(exception))
            {
                response.Problems.Add(StoreErrors.Explain(entry.Name, exception).Message);
            }
        }

        response.Parcels.AddRange(found.OrderByDescending(parcel => parcel.Id, StringComparer.Ordinal));
        return response;
    });

    /// <summary>Removes a parcel, unless a guest sleeps in it that nobody has resumed.</summary>
    public async Task<Parcel> RemoveAsync(string reference, string storeName)
    {
        if (await Task.Run(() => TryRemoveUnreadable(reference, storeName)) is { } removed)
        {
            return removed;
        }

        var (entry, manifest) = await FindAsync(reference, storeName, ResumeMode.Fork);
        return await StoreErrors.GuardAsync(entry.Name, () => Task.Run(() =>
        {
            var store = stores.Open(entry);
            var resumedOn = ResumedOn(manifest);
            if (manifest.Kind == ParcelKind.Suspend && resumedOn.Length == 0
                && guests.Find(Guid.Parse(manifest.Guest)) is { Record.Parcel: { Stage: not ParcelStage.Awake } note }
                && note.Id == manifest.Id)
            {
                throw new GodwitException("guest-asleep",
                    $"Guest '{manifest.Name}' sleeps in parcel {manifest.Id}, and nothing else remembers it.",
                    $"Resume it first, or forget the guest: 'godwit vm rm {manifest.Name}'.");
            }

            ParcelShelf.Remove(store, manifest.Guest, manifest.Id);
            Log.ParcelRemoved(logger, manifest.Id, manifest.Name, entry.Name);
            return ParcelMapping.ToApi(entry.Name, manifest, resumedOn);
        }));
    }

    private string PreferredStore(LocalGuest guest) =>
        guest.Record.Parcel is { } note && stores.All.Any(one => one.Name == note.Store) ? note.Store : "";

    private async Task<Parcel> SuspendAsync(
        LocalGuest guest, StoreEntry entry, bool keepRunning, CancellationToken cancellationToken)
    {
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(_shutdown.Token, cancellationToken);
        var started = clock.GetTimestamp();
        var id = MoveId.Create(clock.GetUtcNow());
        QemuMachine machine;
        using (await GuestKeeper.EnterAsync(guest, stop.Token))
        {
            machine = RequireRunning(guest);
            // From here on nobody else starts, stops or moves it.
            guest.MigrationId = id;
        }

        var isSettled = true;
        try
        {
            var store = stores.Open(entry);
            using var session = stores.Begin(store);
            using var writer = new StoreWriter(store, Stores.WriterOptions(entry));
            await using var recorder = new ParcelRecorder(
                machine, writer, machines.Directory(guest.Record.Contract), inventory.BaseTest());
            Log.ParcelBegun(logger, id, guest.Record.Name, entry.Name);
            try
            {
                await recorder.PrepareAsync(stop.Token);
                var subject = new ParcelSubject(
                    id, keepRunning ? ParcelKind.Checkpoint : ParcelKind.Suspend, settings.HostName,
                    store.Descriptor.Id, guest.Record.Epoch, ContractJson.Write(guest.Record.Contract),
                    ParentOf(store, guest),
                    await machine.FeaturesMissingAsync(stop.Token));
                await recorder.StopGuestAsync(() => clock.GetUtcNow().ToUnixTimeMilliseconds(), stop.Token);
                var manifest = keepRunning
                    ? await FinishCheckpointAsync(recorder, subject)
                    : await FinishSuspendAsync(recorder, subject);
                await Task.Run(session.RequireThere, stop.Token);
                stop.Token.ThrowIfCancellationRequested();
                if (keepRunning)
                {
                    ParcelShelf.Put(store, manifest, trust, Stores.Random);
                    await guests.StoreParcelAsync(guest, new ParcelNote(entry.Name, id, ParcelStage.Awake));
                }
                else
                {
                    var before = guest.Record.Parcel;
                    await guests.StoreParcelAsync(guest, new ParcelNote(entry.Name, id, ParcelStage.Suspending));
                    // From here on the store decides what has become of the guest.
                    isSettled = false;
                    await CommitAsync(guest, before, store, manifest, recorder);
                    isSettled = true;
                }

                var parcel = ParcelMapping.ToApi(entry.Name, manifest, "");
                parcel.TotalSeconds = clock.GetElapsedTime(started).TotalSeconds;
                Log.ParcelMade(
                    logger, id, guest.Record.Name, entry.Name, manifest.BytesWritten, parcel.TotalSeconds,
                    manifest.PauseMs);
                return parcel;
            }
            finally
            {
                // Whatever went wrong before the commit: the guest goes on here.
                if (isSettled && guest.Machine is not null)
                {
                    await recorder.GoOnAsync();
                    machines.SetLinks(machine, up: true);
                }
            }
        }
        catch (GodwitException exception)
            when (isSettled && exception.Code.StartsWith("parcel", StringComparison.Ordinal))
        {
            throw new GodwitException(exception.Code,
                $"{exception.Message} {guest.Record.Name} runs on {settings.HostName}.", exception.Remedy, exception);
        }
        finally
        {
            if (isSettled)
            {
                guest.MigrationId = "";
            }
        }
    }

    private static async Task<ParcelManifest> FinishSuspendAsync(ParcelRecorder recorder, ParcelSubject subject)
    {
        await recorder.HoldAsync();
        return await Task.Run(() => recorder.Finish(subject, disksStandStill: true));
    }

    // What the disks hold has to be of the same instant as the memory, so they are looked through before it goes on.
    private static async Task<ParcelManifest> FinishCheckpointAsync(ParcelRecorder recorder, ParcelSubject subject)
    {
        await Task.Run(recorder.RecordDisksAgain);
        await recorder.GoOnAsync();
        return await Task.Run(() => recorder.Finish(subject, disksStandStill: false));
    }

    /// <summary>Puts the manifest; the guest sleeps when this returns.</summary>
    private async Task CommitAsync(
        LocalGuest guest, ParcelNote? before, Store store, ParcelManifest manifest, ParcelRecorder recorder)
    {
        var note = guest.Record.Parcel!;
        Exception failure;
        try
        {
            if (await Task.Run(() => ParcelShelf.Put(store, manifest, trust, Stores.Random)))
            {
                recorder.Abandon();
                await guests.FallAsleepAsync(guest, note);
                return;
            }

            failure = new StorageException(
                StorageFailure.Unreachable, $"there is something else in the place of parcel {manifest.Id}");
        }
        catch (Exception exception)
        {
            // Whatever it was, it does not say whether the parcel counts.
            failure = exception;
        }

        Log.ParcelUnsettled(logger, manifest.Id, guest.Record.Name, note.Store, failure.Message);
        if (await TrySettleAsync(guest, before))
        {
            guest.MigrationId = "";
            if (guest.Machine is null)
            {
                return;
            }

            ExceptionDispatchInfo.Throw(failure);
        }

        recorder.Abandon();
        _ = Track(SettleAsync(guest, before));
        throw new GodwitException("suspend-unsettled",
            $"It is not known whether store '{note.Store}' took parcel {manifest.Id}: {failure.Message} "
            + $"{guest.Record.Name} stands still on {settings.HostName} until it is.",
            "Bring the store back; the guest then sleeps or runs on by itself, and 'godwit vm show' says which.",
            failure);
    }

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
            var store = stores.Open(stores.Find(note.Store));
            // A put that is still on its way somewhere comes too late for good.
            var isVoid = await Task.Run(() => ParcelShelf.TryVoid(store, guest.Record.Uuid.ToString(), note.Id));
            if (isVoid)
            {
                await guests.StayAwakeAsync(guest, before);
            }
            else
            {
                await guests.FallAsleepAsync(guest, note);
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
