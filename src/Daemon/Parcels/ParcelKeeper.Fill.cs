using Godwit.ChunkStore.Parcels;
using Godwit.Daemon.Guests;
using Godwit.Host.Inventory;
using Godwit.Host.Parcels;
using Godwit.Host.Registry;
using Godwit.Migration;

namespace Godwit.Daemon.Parcels;

// Guests that run before all of their memory has come. They outlive the daemon that brings it.
internal sealed partial class ParcelKeeper
{
    /// <summary>Waits until all of a guest's memory is there, or this daemon ends.</summary>
    /// <param name="lasting">What the filling needs; disposed of at its end.</param>
    private async Task FillAsync(LocalGuest guest, LazyMemory lazy, List<IDisposable> lasting)
    {
        var started = clock.GetTimestamp();
        var note = guest.Record.Parcel!;
        await Task.WhenAny(lazy.Completed, Task.Delay(Timeout.Infinite, _shutdown.Token));
        var isLeft = !lazy.Completed.IsCompleted;
        await (isLeft ? lazy.LetGoAsync() : lazy.DisposeAsync().AsTask());
        if (!isLeft)
        {
            await NoteHoardUsedAsync(guest.Record.Uuid, note, lasting.OfType<GuestInventory>().FirstOrDefault());
        }

        lasting.ForEach(one => one.Dispose());
        if (isLeft)
        {
            // The record says that it is being filled: the next daemon goes on.
            Log.ParcelLeft(logger, note.Id, guest.Record.Name);
            return;
        }

        if (lazy.Completed.IsCompletedSuccessfully)
        {
            guest.WakePages = WakeSet.Merge(lazy.PagesTouched, guest.WakePages, lazy.PagesNearThem);
            Log.ParcelFilled(logger, note.Id, guest.Record.Name, clock.GetElapsedTime(started).TotalSeconds,
                lazy.FetchedBytes, lazy.PagesAsked);
            if (guest.Machine is { } machine)
            {
                await GuestKeeper.ReleaseStreamAsync(machine);
            }
        }

        await FilledAsync(guest, note);
    }

    private async Task FilledAsync(LocalGuest guest, ParcelNote note)
    {
        try
        {
            await guests.StoreParcelAsync(guest, note with { Stage = ParcelStage.Awake });
        }
        catch (GodwitException exception)
        {
            Log.ParcelUnsettled(logger, note.Id, guest.Record.Name, note.Store, exception.Message);
        }

        guest.MigrationId = "";
        await Task.Run(() => RemoveNeed(guest, note));
    }

    // Nothing waits for this: if it cannot be removed now, then at the next start.
    private void RemoveNeed(LocalGuest guest, ParcelNote note)
    {
        try
        {
            var store = stores.Open(stores.Find(note.Store));
            var uuid = guest.Record.Uuid.ToString();
            if (ParcelShelf.Find(store, uuid, note.Id, trust) is { } manifest && TryOpenHome(manifest) is { } home)
            {
                foreach (var (epoch, _) in ParcelShelf.FindNeeds(home, uuid)
                    .Where(need => need.Claim.Host == settings.HostName))
                {
                    ParcelShelf.RemoveNeed(home, uuid, epoch);
                }
            }
        }
        catch (Exception exception) when (StoreErrors.IsKnown(exception) || exception is GodwitException)
        {
            Log.ParcelNeedKept(logger, note.Id, guest.Record.Name, note.Store, exception.Message);
        }
    }

    /// <summary>Goes on with a guest that an earlier daemon left; it waits as long as the store does.</summary>
    private async Task TakeUpFillingAsync(LocalGuest guest)
    {
        var note = guest.Record.Parcel!;
        var contract = guest.Record.Contract;
        while (!_shutdown.IsCancellationRequested && guest.Record.Parcel is { Stage: ParcelStage.Filling })
        {
            List<IDisposable> lasting = [];
            try
            {
                var entry = stores.Find(note.Store);
                var store = await Task.Run(() => stores.Open(entry));
                lasting.Add(await Task.Run(() => stores.Begin(store)));
                var manifest = await Task.Run(
                        () => ParcelShelf.Find(store, contract.Uuid.ToString(), note.Id, trust))
                    ?? throw new GodwitException("parcel-unknown", $"Parcel {note.Id} is not in the store any more.",
                        "Bring it back with 'godwit store copy', or end the guest: 'godwit vm stop --force'.");
                if (await inventory.OpenAsync(contract, new Godwit.Migration.MigrationPolicy()) is { } known)
                {
                    lasting.Add(known);
                }

                var lazy = await Task.Run(() => LazyMemory.TryTakeUp(
                    contract, manifest, store, lasting.OfType<GuestInventory>().FirstOrDefault(),
                    machines.Directory(contract), logger));
                if (lazy is not null)
                {
                    Log.ParcelTakenUp(logger, note.Id, guest.Record.Name, lazy.PagesMissing);
                    await FillAsync(guest, lazy, lasting);
                }
                else
                {
                    lasting.ForEach(one => one.Dispose());
                    await FilledAsync(guest, note);
                }

                return;
            }
            catch (Exception exception) when (StoreErrors.IsKnown(exception)
                || exception is GodwitException or IOException or UnauthorizedAccessException)
            {
                lasting.ForEach(one => one.Dispose());
                Log.ParcelNotTakenUp(logger, note.Id, guest.Record.Name, exception.Message);
            }

            await Task.Delay(SettleEvery, clock, _shutdown.Token)
                .ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }

        // An operator ended it while this host could not go on with it.
        if (guest.Record.Parcel is not { Stage: ParcelStage.Filling } && guest.MigrationId == note.Id)
        {
            guest.MigrationId = "";
        }
    }
}
