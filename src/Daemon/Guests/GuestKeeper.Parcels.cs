using System.Collections.Concurrent;
using Godwit.Host.Parcels;
using Godwit.Host.Qemu;
using Godwit.Host.Registry;
using Godwit.Migration;
using Godwit.Migration.HandOver;

namespace Godwit.Daemon.Guests;

// Guests that sleep in parcels: what the registry says of them, and what a restart does with them.
internal sealed partial class GuestKeeper
{
    private readonly ConcurrentDictionary<Guid, string> _resuming = new();

    /// <summary>Keeps everybody else away from a guest that is to come out of a parcel, known here or not.</summary>
    /// <param name="parcel">Its id, which the guest shows as what it is busy with.</param>
    /// <exception cref="GodwitException"><c>guest-state</c>: somebody else is at it.</exception>
    public async Task<Reservation> ReserveAsync(Guid uuid, string parcel, CancellationToken cancellationToken)
    {
        if (!_resuming.TryAdd(uuid, parcel))
        {
            throw new GodwitException("guest-state", $"Guest {uuid} is being resumed on this host already.",
                "Wait until that has ended: 'godwit vm show' says how.");
        }

        try
        {
            if (Find(uuid) is { } guest)
            {
                if (guest.MigrationId.Length > 0)
                {
                    throw State(guest, $"is busy ({guest.MigrationId})", "Wait until that has ended.");
                }

                using var alone = await EnterAsync(guest, cancellationToken);
                guest.MigrationId = parcel;
            }

            return new Reservation(this, uuid, parcel);
        }
        catch
        {
            _resuming.TryRemove(uuid, out _);
            throw;
        }
    }

    /// <summary>The sole right to a guest; ends with its disposal.</summary>
    public sealed class Reservation(GuestKeeper keeper, Guid uuid, string parcel) : IDisposable
    {
        private bool _over;

        /// <summary>Leaves the guest busy: what goes on with it ends that.</summary>
        public void Leave() => End(isBusy: true);

        public void Dispose() => End(isBusy: false);

        private void End(bool isBusy)
        {
            if (_over)
            {
                return;
            }

            _over = true;
            if (!isBusy && keeper.Find(uuid) is { } guest && guest.MigrationId == parcel)
            {
                guest.MigrationId = "";
            }

            keeper._resuming.TryRemove(uuid, out _);
        }
    }

    /// <summary>Records where a guest stands with a parcel; durable when this returns.</summary>
    public Task StoreParcelAsync(LocalGuest guest, ParcelNote? parcel) =>
        DecideAsync(guest, guest.Record with { Parcel = parcel });

    /// <summary>The guest sleeps in its parcel: its copy here is void.</summary>
    public async Task FallAsleepAsync(LocalGuest guest, ParcelNote parcel)
    {
        // Killed, not asked to quit: a QEMU that ends a migration in order runs its guest again for a moment.
        await EndEveryCopyAsync(guest);
        await NoteAsync(guest, guest.Record with
        {
            Intent = GuestIntent.Stopped, Detail = "", Parcel = parcel with { Stage = ParcelStage.Asleep },
        });
    }

    /// <summary>Ends the guest's QEMU here, also one that does not answer and that nobody holds.</summary>
    public async Task EndEveryCopyAsync(LocalGuest guest)
    {
        await EndCopyAsync(guest);
        await machines.KillAsync(guest.Record.Contract);
    }

    /// <summary>Another host has taken over a guest that slept here.</summary>
    public Task GiveUpAsleepAsync(LocalGuest guest, string owner, long epoch) => NoteAsync(
        guest, guest.Record with { Host = owner, Epoch = epoch, Intent = GuestIntent.Stopped, Parcel = null });

    /// <summary>The parcel never came to be: the guest goes on here.</summary>
    public async Task StayAwakeAsync(LocalGuest guest, ParcelNote? before)
    {
        if (guest.Machine is null && machines.Runs(guest.Record.Contract))
        {
            var (found, reason) = await TryAdoptAsync(guest.Record.Contract, CancellationToken.None);
            Attach(guest, found ?? throw new GodwitException("qemu-silent",
                $"The QEMU of {guest.Record.Name} does not answer, and cannot be told to go on: {reason}",
                "It is asked again; what it said last is in its log."));
        }

        if (guest.Machine is { } machine)
        {
            var state = await GoOnAsync(machine);
            guest.IsPaused = state != "running";
            await NoteAsync(guest, guest.Record with
            {
                Parcel = before,
                Detail = state == "running" ? "" : $"QEMU did not let it go on after a suspend that failed: {state}",
            });
            return;
        }

        // Its QEMU has ended with the daemon away: it is started again like any guest that died.
        await NoteAsync(guest, guest.Record with
        {
            Intent = GuestIntent.Stopped, Parcel = before,
            Detail = $"Its QEMU ended while it was being suspended: {machines.LastWords(guest.Record.Contract)}",
        });
    }

    /// <summary>Takes a reserved guest over that is to be resumed here; durable when this returns.</summary>
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
                if (known.MigrationId != parcel.Id)
                {
                    throw State(known, "has come to be here meanwhile", "Look at 'godwit vm show', and try again.");
                }

                var before = known.Record;
                await DecideAsync(known, record with { Created = before.Created });
                known.BeforeArrival = before;
                return known;
            }

            var guest = new LocalGuest(record) { MigrationId = parcel.Id };
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

    /// <summary>Ends a guest that runs while its memory still comes from its parcel.</summary>
    /// <returns>Null if it is no such guest; otherwise what is lost by it.</returns>
    private async Task<string?> TryEndFillingAsync(LocalGuest guest)
    {
        await guest.Gate.WaitAsync(CancellationToken.None);
        try
        {
            if (guest.Record.Parcel is not { Stage: ParcelStage.Filling } parcel
                || guest.Record.Host != settings.HostName)
            {
                return null;
            }

            // From here on the exit is wished for. Whoever fills it learns of it from its stream.
            await EndEveryCopyAsync(guest);
            await NoteAsync(guest, guest.Record with
            {
                Intent = GuestIntent.Stopped, Detail = "", Parcel = parcel with { Stage = ParcelStage.Awake },
            });
            var lost = $"It was ended while memory still came from parcel {parcel.Id}: what it held in memory since it "
                + $"was resumed is lost, its disks are as it left them. 'godwit vm start {guest.Record.Name}' boots "
                + $"from them; 'godwit vm rollback {parcel.Id}' goes back to the parcel, disks included.";
            Log.GuestStopped(logger, guest.Record.Name, "by force, before all of its memory had come");
            return lost;
        }
        finally
        {
            guest.Gate.Release();
        }
    }

    // A QEMU that is found belongs to a suspend or a resume that the last daemon did not finish.
    private async Task RecoverAsleepAsync(LocalGuest guest, CancellationToken cancellationToken)
    {
        var parcel = guest.Record.Parcel!;
        var contract = guest.Record.Contract;
        if (parcel.Stage == ParcelStage.Suspending)
        {
            var (machine, _) = await TryAdoptAsync(contract, cancellationToken);
            if (machine is not null)
            {
                Attach(guest, machine);
                guest.IsPaused = true;
            }

            // Nobody touches it before the store has said whether the parcel is there.
            guest.MigrationId = parcel.Id;
            return;
        }

        if (parcel.Stage == ParcelStage.Filling
            && LazyMemory.IsLeft(contract, machines.Directory(contract), parcel.Id))
        {
            // It runs, and waits for what it lacks until it has been taken up.
            guest.MigrationId = parcel.Id;
            _ = AdoptWhenItAnswersAsync(guest);
            return;
        }

        // One that lacks memory may answer nobody, and must not write to its disks any more either.
        await machines.KillAsync(contract);
        if (parcel.Stage == ParcelStage.Resuming)
        {
            await NoteAsync(guest, guest.Record with
            {
                Intent = GuestIntent.Stopped, Parcel = parcel with { Stage = ParcelStage.Asleep },
            });
        }
        else if (parcel.Stage == ParcelStage.Filling)
        {
            // It has run: what it wrote to its disks is not taken back without a word of its operator's.
            await NoteAsync(guest, guest.Record with
            {
                Intent = GuestIntent.Stopped, Parcel = parcel with { Stage = ParcelStage.Awake },
                Detail = "Its QEMU ended before all of its memory had come: its disks are as it left them. 'godwit vm "
                    + $"rollback {parcel.Id}' goes back to its parcel, disks included.",
            });
        }
    }
}
