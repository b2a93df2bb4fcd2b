using Godwit.Host.Qemu;
using Godwit.Host.Registry;
using Godwit.Migration;
using Godwit.Migration.HandOver;

namespace Godwit.Daemon.Guests;

// Guests that sleep in parcels: what the registry says of them, and what a restart does with them.
internal sealed partial class GuestKeeper
{
    /// <summary>Records where a guest stands with a parcel; durable when this returns.</summary>
    public Task StoreParcelAsync(LocalGuest guest, ParcelNote? parcel) =>
        DecideAsync(guest, guest.Record with { Parcel = parcel });

    /// <summary>The guest sleeps in its parcel: its copy here is void.</summary>
    public async Task FallAsleepAsync(LocalGuest guest, ParcelNote parcel)
    {
        // Killed, not asked to quit: a QEMU that ends a migration in order runs its guest again for a moment.
        await EndCopyAsync(guest);
        await NoteAsync(guest, guest.Record with
        {
            Intent = GuestIntent.Stopped, Detail = "", Parcel = parcel with { Stage = ParcelStage.Asleep },
        });
    }

    /// <summary>Another host has taken over a guest that slept here.</summary>
    public Task GiveUpAsleepAsync(LocalGuest guest, string owner, long epoch) => NoteAsync(
        guest, guest.Record with { Host = owner, Epoch = epoch, Intent = GuestIntent.Stopped, Parcel = null });

    /// <summary>The parcel never came to be: the guest goes on here.</summary>
    public async Task StayAwakeAsync(LocalGuest guest, ParcelNote? before)
    {
        if (guest.Machine is { } machine)
        {
            await GoOnAsync(machine);
            await NoteAsync(guest, guest.Record with { Parcel = before });
            return;
        }

        // Its QEMU has ended with the daemon away: it is started again like any guest that died.
        await NoteAsync(guest, guest.Record with
        {
            Intent = GuestIntent.Stopped, Parcel = before,
            Detail = $"Its QEMU ended while it was being suspended: {machines.LastWords(guest.Record.Contract)}",
        });
    }

    /// <summary>Takes a guest over that is to be resumed here; durable when this returns.</summary>
    /// <param name="contract">As the parcel has it.</param>
    /// <param name="epoch">That this host has claimed.</param>
    public async Task<LocalGuest> AdoptParcelAsync(MachineContract contract, long epoch, ParcelNote parcel)
    {
        var record = new GuestRecord(
            contract, settings.HostName, epoch, GuestIntent.Stopped, clock.GetUtcNow(), null, "")
        {
            Parcel = parcel with { Stage = ParcelStage.Resuming },
        };
        await _creating.WaitAsync(CancellationToken.None);
        try
        {
            if (_guests.TryGetValue(contract.Uuid, out var known))
            {
                known.BeforeArrival = known.Record;
                await DecideAsync(known, record with { Created = known.Record.Created });
                return known;
            }

            var guest = new LocalGuest(record);
            await registry.AddGuestAsync(record, CancellationToken.None);
            _guests[contract.Uuid] = guest;
            return guest;
        }
        finally
        {
            _creating.Release();
        }
    }

    /// <summary>Gives a guest up that could not be resumed here and has not run.</summary>
    public async Task ReturnParcelAsync(LocalGuest guest)
    {
        if (guest.BeforeArrival is { } before)
        {
            guest.BeforeArrival = null;
            // Under the epoch that is recorded: an older one would be taken for another owner's.
            await DecideAsync(guest, before);
            return;
        }

        await registry.RemoveGuestAsync(guest.Record.Uuid, CancellationToken.None);
        machines.Forget(guest.Record.Contract);
        _guests.TryRemove(guest.Record.Uuid, out _);
    }

    /// <summary>The guest is about to run from its parcel; durable when this returns.</summary>
    /// <param name="stage">Filling if some of its memory is still to come.</param>
    public Task WakeAsync(LocalGuest guest, ParcelStage stage)
    {
        guest.BeforeArrival = null;
        return DecideAsync(guest, guest.Record with
        {
            Intent = GuestIntent.Running,
            Started = clock.GetUtcNow(),
            Detail = "",
            Parcel = guest.Record.Parcel! with { Stage = stage },
        });
    }

    // A QEMU that is found belongs to a suspend or a resume that the last daemon did not finish.
    private async Task RecoverAsleepAsync(LocalGuest guest, CancellationToken cancellationToken)
    {
        var parcel = guest.Record.Parcel!;
        var (machine, _) = await TryAdoptAsync(guest.Record.Contract, cancellationToken);
        if (parcel.Stage == ParcelStage.Suspending)
        {
            if (machine is not null)
            {
                Attach(guest, machine);
                guest.IsPaused = true;
            }

            // Nobody touches it before the store has said whether the parcel is there.
            guest.MigrationId = parcel.Id;
            return;
        }

        if (machine is not null)
        {
            await EndAsync(machine);
        }

        // One that ran lacks memory that only the last daemon could give it: it goes back to its parcel, as a guest
        // goes back to its disks whose host lost its power.
        if (parcel.Stage is ParcelStage.Resuming or ParcelStage.Filling)
        {
            await NoteAsync(guest, guest.Record with
            {
                Intent = GuestIntent.Stopped, Parcel = parcel with { Stage = ParcelStage.Asleep },
            });
        }
    }
}
