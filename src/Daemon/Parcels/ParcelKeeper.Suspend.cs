using System.Runtime.ExceptionServices;
using Godwit.Api.V1;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.Daemon.Guests;
using Godwit.Daemon.Moves;
using Godwit.Host.Parcels;
using Godwit.Host.Qemu;
using Godwit.Host.Registry;
using Godwit.Migration;
using ParcelKind = Godwit.ChunkStore.Parcels.ParcelKind;

namespace Godwit.Daemon.Parcels;

// Into a parcel.
internal sealed partial class ParcelKeeper
{
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
        await using var work = new StoreWork(
            entry.Name, TimeSpan.FromSeconds(settings.StoreSilenceSeconds), clock, stop);
        try
        {
            var store = await work.RunAsync(() => stores.Open(entry));
            var session = work.Own(await work.RunAsync(() => stores.Begin(store)));
            var writer = work.Own(new StoreWriter(store, Stores.WriterOptions(entry)));
            var recorder = work.Own(new ParcelRecorder(
                machine, writer, machines.Directory(guest.Record.Contract), inventory.BaseTest())
            {
                WakeBefore = guest.WakePages,
            });
            work.Steps = () => recorder.Steps;
            Log.ParcelBegun(logger, id, guest.Record.Name, entry.Name);
            try
            {
                await work.RunAsync(() => recorder.PrepareAsync(stop.Token));
                var subject = new ParcelSubject(
                    id, keepRunning ? ParcelKind.Checkpoint : ParcelKind.Suspend, settings.HostName,
                    store.Descriptor.Id, guest.Record.Epoch, ContractJson.Write(guest.Record.Contract),
                    await work.RunAsync(() => ParentOf(store, guest)),
                    await machine.FeaturesMissingAsync(stop.Token));
                await recorder.StopGuestAsync(() => clock.GetUtcNow().ToUnixTimeMilliseconds(), stop.Token);
                var manifest = keepRunning
                    ? await FinishCheckpointAsync(recorder, subject, work)
                    : await FinishSuspendAsync(recorder, subject, work);
                await work.RunAsync(() =>
                {
                    session.RequireThere();
                    return true;
                });
                stop.Token.ThrowIfCancellationRequested();
                if (keepRunning)
                {
                    await work.RunAsync(() => ParcelShelf.Put(store, manifest, trust, Stores.Random));
                    await guests.StoreParcelAsync(guest, new ParcelNote(entry.Name, id, ParcelStage.Awake));
                }
                else
                {
                    var before = guest.Record.Parcel;
                    await guests.StoreParcelAsync(guest, new ParcelNote(entry.Name, id, ParcelStage.Suspending));
                    // From here on the store decides what has become of the guest.
                    isSettled = false;
                    var sleeps = await CommitAsync(guest, before, store, manifest, recorder, work);
                    isSettled = true;
                    if (!sleeps)
                    {
                        // It came too late to count, and never will.
                        await guests.StoreParcelAsync(guest, before);
                        throw work.Silent();
                    }
                }

                _ = Track(ExpectAsync(guest, SleepBook.Of(manifest), isAsleep: !keepRunning));
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
        catch (GodwitException exception) when (isSettled
            && (exception.Code == "store-silent" || exception.Code.StartsWith("parcel", StringComparison.Ordinal)))
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

    private static async Task<ParcelManifest> FinishSuspendAsync(
        ParcelRecorder recorder, ParcelSubject subject, StoreWork work)
    {
        await recorder.HoldAsync();
        return await work.RunAsync(() => recorder.Finish(subject, disksStandStill: true));
    }

    // What the disks hold has to be of the same instant as the memory: it is copied before the guest goes on.
    private static async Task<ParcelManifest> FinishCheckpointAsync(
        ParcelRecorder recorder, ParcelSubject subject, StoreWork work)
    {
        await work.RunAsync(() =>
        {
            recorder.RecordDisksAgain();
            return true;
        });
        await recorder.GoOnAsync();
        return await work.RunAsync(() => recorder.Finish(subject, disksStandStill: false));
    }

    // The memory that it leaves behind makes its return cheap.
    private async Task FallAsleepAsync(LocalGuest guest, ParcelNote note)
    {
        var memory = inventory.TakeMemory(guest, new Godwit.Migration.MigrationPolicy());
        try
        {
            await guests.FallAsleepAsync(guest, note);
        }
        catch
        {
            memory?.Dispose();
            throw;
        }

        inventory.Left(guest, memory);
    }

    /// <summary>Puts the manifest; the guest sleeps when this returns true.</summary>
    /// <returns>False if it did not come as far as that in time: then it never will, and the guest is awake.</returns>
    private async Task<bool> CommitAsync(
        LocalGuest guest, ParcelNote? before, Store store, ParcelManifest manifest, ParcelRecorder recorder,
        StoreWork work)
    {
        var note = guest.Record.Parcel!;
        // 1 once the manifest may appear, 2 once it must not any more.
        var turn = 0;
        Exception failure;
        try
        {
            if (await work.RunAsync(() => ParcelShelf.Put(
                store, manifest, trust, Stores.Random, () => Interlocked.CompareExchange(ref turn, 1, 0) == 0)))
            {
                recorder.Abandon();
                await FallAsleepAsync(guest, note);
                return true;
            }

            failure = new StorageException(
                StorageFailure.Unreachable, $"there is something else in the place of parcel {manifest.Id}");
        }
        catch (GodwitException exception) when (exception.Code == "store-silent")
        {
            if (Interlocked.CompareExchange(ref turn, 2, 0) == 0)
            {
                return false;
            }

            failure = exception;
        }
        catch (Exception exception)
        {
            // Whatever it was, it does not say whether the parcel counts.
            failure = exception;
        }

        Log.ParcelUnsettled(logger, manifest.Id, guest.Record.Name, note.Store, failure.Message);
        if (!work.IsSilent && await TrySettleAsync(guest, before))
        {
            guest.MigrationId = "";
            if (guest.Machine is null)
            {
                return true;
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
}
