using Godwit.Host.Qemu;
using Godwit.Host.Registry;
using Godwit.Host.Transfers;
using Godwit.Migration;
using Godwit.Migration.HandOver;

namespace Godwit.Daemon.Guests;

/// <summary>How a guest's QEMU is found again, watched, and changes hands.</summary>
internal sealed partial class GuestKeeper
{
    /// <remarks>
    /// A QEMU is looked for whatever the record says: the daemon may have ended between starting one and recording it,
    /// or between giving a guest away and ending its own.
    /// </remarks>
    private async Task RecoverAsync(LocalGuest guest, CancellationToken cancellationToken)
    {
        if (guest.Record.Parcel is { Stage: not ParcelStage.Awake })
        {
            await RecoverAsleepAsync(guest, cancellationToken);
            return;
        }

        var handOver = handOvers.OfGuest(guest.Record.Uuid);
        if (await TryTakeUpAsync(guest, handOver))
        {
            return;
        }

        var (machine, reason) = await TryAdoptAsync(guest.Record.Contract, cancellationToken);
        var state = machine is null ? "" : await RunStateAsync(machine, cancellationToken);
        var copy = machine is null ? GuestCopy.Gone : state == "running" ? GuestCopy.Running : GuestCopy.Paused;
        var recovery = HandOverRules.Recover(settings.HostName, guest.Record.Owned, handOver, copy);
        if (recovery.Duty == RecoveryDuty.DropArrival)
        {
            if (machine is not null)
            {
                await Machines.EndAsync(machine);
            }

            Log.IncomingDropped(logger, guest.Record.Name);
            await DropIncomingAsync(guest);
            return;
        }

        // Before the registry learns of it: a registry that takes nothing must not leave a second copy behind.
        if (recovery.Duty == RecoveryDuty.EndCopy)
        {
            await EndAsync(machine!);
        }

        var detail = recovery.Duty switch
        {
            RecoveryDuty.NoteDeath => $"Its QEMU ended while godwitd was not running: {reason}",
            RecoveryDuty.Adopt or RecoveryDuty.GoOn or RecoveryDuty.RunArrival => "",
            _ => null,
        };
        try
        {
            await OwnAsync(guest, recovery.Owned, detail);
        }
        catch (GodwitException exception)
        {
            // It is so all the same, and the next start comes to the same conclusion.
            Log.OwnershipUnrecorded(
                logger, handOver?.Migration ?? "", exception.Message, guest.Record.Name, recovery.Owned.Host);
        }

        switch (recovery.Duty)
        {
            case RecoveryDuty.KeepPaused:
                guest.MigrationId = handOver!.Migration;
                break;
            case RecoveryDuty.Adopt:
                await TryExecuteAsync(machine!, "migrate_cancel");
                // The last daemon may have silenced a guest that QEMU, alone since, has let go on.
                machines.SetLinks(machine!, up: true);
                break;
            case RecoveryDuty.GoOn:
                state = await GoOnAsync(machine!);
                break;
            case RecoveryDuty.RunArrival:
                await TryExecuteAsync(machine!, "cont");
                machines.Announce(Machines.OpenAnnouncer(machine!), guest.Record.Name);
                state = await RunStateAsync(machine!, CancellationToken.None);
                break;
            case RecoveryDuty.NoteDeath:
                Log.GuestLost(logger, guest.Record.Name, guest.Record.Detail);
                break;
        }

        if (machine is not null && recovery.Duty != RecoveryDuty.EndCopy)
        {
            Attach(guest, machine);
            guest.IsPaused = state != "running";
            Log.GuestAdopted(logger, guest.Record.Name, machine.ProcessId, state);
        }
    }

    // A guest that came by postcopy and lacks memory: its QEMU may not answer before it has more of it, and the source
    // can bring that only when this daemon is up.
    private async Task<bool> TryTakeUpAsync(LocalGuest guest, HandOverRecord? handOver)
    {
        var (record, directory) = (guest.Record, machines.Directory(guest.Record.Contract));
        if (handOver is not { State: HandOverState.Resuming } || handOver.Epoch < record.Epoch
            || HeldStream.Load(directory) is not { } held || held.Migration != handOver.Migration
            || QemuMachine.FindProcess(record.Contract, directory) is null)
        {
            return false;
        }

        guest.MigrationId = handOver.Migration;
        guest.TakenUp = handOver;
        if (record.Intent == GuestIntent.Incoming)
        {
            try
            {
                await TakeAsync(guest);
            }
            catch (GodwitException exception)
            {
                Log.OwnershipUnrecorded(
                    logger, handOver.Migration, exception.Message, record.Name, settings.HostName);
            }
        }

        _ = AdoptWhenItAnswersAsync(guest);
        return true;
    }

    private async Task AdoptWhenItAnswersAsync(LocalGuest guest)
    {
        var contract = guest.Record.Contract;
        while (!_released && QemuMachine.FindProcess(contract, machines.Directory(contract)) is not null)
        {
            var (machine, _) = await TryAdoptAsync(contract, CancellationToken.None);
            if (machine is null)
            {
                await Task.Delay(TimeSpan.FromMilliseconds(200));
                continue;
            }

            if (await RunStateAsync(machine, CancellationToken.None) != "running")
            {
                await TryExecuteAsync(machine, "cont");
                machines.Announce(Machines.OpenAnnouncer(machine), contract.Name);
            }

            await guest.Gate.WaitAsync();
            try
            {
                if (guest.Record.Intent == GuestIntent.Stopped)
                {
                    // Ended by force while it answered: its exit is no failure.
                    await Machines.EndAsync(machine);
                    return;
                }

                Attach(guest, machine);
                guest.Adopted.TrySetResult();
                Log.GuestAdopted(logger, contract.Name, machine.ProcessId, "running, without all of its memory");
                return;
            }
            finally
            {
                guest.Gate.Release();
            }
        }
    }

    /// <summary>Ends what is left of a migration in QEMU and lets the guest run here.</summary>
    /// <returns>QEMU's run state then.</returns>
    public async Task<string> GoOnAsync(QemuMachine machine)
    {
        await TryAsync(() => machine.ReleaseStreamAsync(CancellationToken.None));
        await machine.GoOnAsync();
        machines.SetLinks(machine, up: true);
        return await RunStateAsync(machine, CancellationToken.None);
    }

    /// <summary>Lets QEMU close our end of a stream that is over.</summary>
    public static Task ReleaseStreamAsync(QemuMachine machine) =>
        TryAsync(() => machine.ReleaseStreamAsync(CancellationToken.None));

    /// <summary>Starts a guest that is this host's by an operator's decision anew, from its disks.</summary>
    /// <returns>False if it could not be started; its record says why.</returns>
    public async Task<bool> TryStartAnewAsync(LocalGuest guest)
    {
        try
        {
            Attach(guest, await machines.StartAsync(guest.Record.Contract, incoming: false, CancellationToken.None));
            return true;
        }
        catch (GodwitException exception)
        {
            await OwnAsync(guest, guest.Record.Owned with { Intent = GuestIntent.Stopped }, exception.Message);
            return false;
        }
    }

    /// <summary>Ends a copy of a guest that is another host's.</summary>
    /// <remarks>
    /// Killed, not asked to quit: a QEMU that ends a migration in order runs its guest again for a moment.
    /// </remarks>
    public static async Task EndCopyAsync(LocalGuest guest)
    {
        if (guest.Machine is { } machine)
        {
            guest.Machine = null;
            await EndAsync(machine);
        }
    }

    /// <summary>Ends a guest that came by postcopy and will not get the rest of its memory.</summary>
    /// <remarks>
    /// Killed: one whose devices wait for a page does not answer, and waits for ever. Its disks, if they ever were its
    /// own, are as a power cut leaves them.
    /// </remarks>
    /// <param name="machine">Null for one that was taken up, which may not have answered yet.</param>
    public async Task EndArrivalAsync(LocalGuest guest, QemuMachine? machine)
    {
        if (guest.Machine is not null)
        {
            await EndCopyAsync(guest);
        }
        else if (machine is not null)
        {
            await EndAsync(machine);
        }
        else
        {
            await machines.KillAsync(guest.Record.Contract);
        }
    }

    private static async Task EndAsync(QemuMachine machine)
    {
        await machine.KillAsync();
        await machine.DisposeAsync();
    }

    private async Task<(QemuMachine? Machine, string Reason)> TryAdoptAsync(
        MachineContract contract, CancellationToken cancellationToken)
    {
        try
        {
            var machine = await machines.AdoptAsync(contract, cancellationToken);
            return (machine, machine is null ? machines.LastWords(contract) : "");
        }
        catch (Exception exception) when (exception is GodwitException or IOException or QmpException
            or TimeoutException)
        {
            return (null, exception.Message);
        }
    }

    /// <summary>QEMU's run state, for example running, paused or postmigrate; empty if it does not answer.</summary>
    public static async Task<string> RunStateAsync(QemuMachine machine, CancellationToken cancellationToken)
    {
        try
        {
            return await machine.QueryStateAsync(cancellationToken);
        }
        catch (Exception exception) when (exception is QmpException or IOException or GodwitException)
        {
            return "";
        }
    }

    private static Task TryExecuteAsync(QemuMachine machine, string command) =>
        TryAsync(() => machine.ExecuteAsync(command, null, CancellationToken.None));

    private static async Task TryAsync(Func<Task> ask)
    {
        try
        {
            await ask();
        }
        catch (Exception exception) when (exception is QmpException or IOException or GodwitException)
        {
            // Nothing to cancel, or QEMU is gone: the watch on its exit tells.
        }
    }

    /// <summary>Takes charge of a QEMU that runs this guest.</summary>
    public void Attach(LocalGuest guest, QemuMachine machine)
    {
        guest.IsPaused = false;
        guest.HasShutDown = false;
        guest.Machine = machine;
        machine.EventReceived += qmpEvent =>
        {
            switch (qmpEvent.Name)
            {
                case "STOP":
                    guest.IsPaused = true;
                    break;
                case "RESUME":
                    guest.IsPaused = false;
                    break;
                case "SHUTDOWN":
                    guest.HasShutDown = true;
                    break;
            }
        };
        _ = WatchAsync(guest, machine);
    }

    private async Task WatchAsync(LocalGuest guest, QemuMachine machine)
    {
        await machine.Exited.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        if (_released)
        {
            return;
        }

        await guest.Gate.WaitAsync();
        try
        {
            // Whoever ended it on purpose has taken the machine away first.
            if (!ReferenceEquals(guest.Machine, machine) || _released)
            {
                return;
            }

            var detail = guest.HasShutDown ? ""
                : $"Its QEMU (process {machine.ProcessId}) ended by itself: "
                    + machines.LastWords(guest.Record.Contract);
            guest.Machine = null;
            if (handOvers.OfGuest(guest.Record.Uuid) is { State: HandOverState.Committed })
            {
                // A copy whose guest another host may run: what that means is known when that host has answered.
                await Machines.EndAsync(machine);
                return;
            }

            try
            {
                await NoteAsync(guest, guest.Record with { Intent = GuestIntent.Stopped, Detail = detail });
            }
            finally
            {
                await Machines.EndAsync(machine);
            }

            if (detail.Length > 0)
            {
                Log.GuestLost(logger, guest.Record.Name, detail);
            }
            else
            {
                Log.GuestStopped(logger, guest.Record.Name, "the guest switched itself off");
            }
        }
        catch (GodwitException exception)
        {
            Log.GuestLost(logger, guest.Record.Name, exception.Message);
        }
        finally
        {
            guest.Gate.Release();
        }
    }

    /// <summary>Records who owns the guest, as the journal has it.</summary>
    /// <param name="detail">Why the guest failed; null leaves what is known.</param>
    public Task OwnAsync(LocalGuest guest, GuestOwnership owned, string? detail = "")
    {
        var known = guest.Record;
        var next = known.With(owned) with { Detail = detail ?? known.Detail };
        if (known.Intent == GuestIntent.Incoming && owned.Intent == GuestIntent.Running)
        {
            next = next with { Started = clock.GetUtcNow() };
        }

        return next == known ? Task.CompletedTask : NoteAsync(guest, next);
    }

    /// <summary>Ends a copy that another host's newer ownership has made void; does nothing if there is none.</summary>
    public async Task FenceAsync(LocalGuest guest, string owner, long epoch)
    {
        if (guest.Record.Epoch >= epoch)
        {
            return;
        }

        await EndCopyAsync(guest);
        await OwnAsync(guest, GuestOwnership.Fenced(owner, epoch));
        Log.GuestFenced(logger, guest.Record.Name, owner, epoch);
    }

    /// <summary>Takes ownership of a guest that was handed over to this host and died here.</summary>
    public Task LoseAsync(LocalGuest guest, string detail)
    {
        guest.MigrationId = "";
        Log.GuestLost(logger, guest.Record.Name, detail);
        return OwnAsync(guest, guest.Record.Owned.DiedOnArrival(settings.HostName), detail);
    }

    /// <summary>Records a guest that is about to arrive, so that a restart of the daemon finds its QEMU.</summary>
    public async Task<LocalGuest> ExpectAsync(
        MachineContract contract, string from, long epoch, DateTimeOffset created, string migrationId)
    {
        var arriving = GuestOwnership.Arriving(from, epoch);
        var record = new GuestRecord(
            contract, arriving.Host, arriving.Epoch, arriving.Intent, created, null, "");
        if (_resuming.ContainsKey(contract.Uuid))
        {
            throw new GodwitException("guest-state", $"Guest '{contract.Name}' is being resumed here from a parcel.",
                "Look at 'godwit vm show' on both hosts; only one of them may own the guest.");
        }

        if (_guests.TryGetValue(contract.Uuid, out var guest))
        {
            var known = guest.Record;
            if (guest.IsArriving || !GuestOwnership.MayArrive(known.Owned, settings.HostName, epoch))
            {
                throw new GodwitException("guest-exists",
                    $"Guest '{known.Name}' is recorded here on host '{known.Host}' with epoch {known.Epoch}; "
                    + $"host '{from}' would send it with epoch {epoch}.",
                    "Look at 'godwit vm show' on both hosts; only one of them may own the guest.");
            }

            await DecideAsync(guest, record);
            if (known.Intent != GuestIntent.Incoming)
            {
                guest.BeforeArrival = known;
            }
        }
        else
        {
            guest = new LocalGuest(record);
            await registry.AddGuestAsync(record, CancellationToken.None);
            _guests[contract.Uuid] = guest;
        }

        guest.MigrationId = migrationId;
        return guest;
    }

    /// <summary>Takes ownership of a guest that has arrived and may run; durable when this returns.</summary>
    public Task TakeAsync(LocalGuest guest) => OwnAsync(guest, guest.Record.Owned.Arrived(settings.HostName));

    /// <summary>Forgets an arrival that was never committed; what was known of the guest before stays known.</summary>
    public async Task DropIncomingAsync(LocalGuest guest)
    {
        guest.Machine = null;
        try
        {
            if (guest.BeforeArrival is { } before)
            {
                await NoteAsync(guest, before);
                return;
            }

            await registry.RemoveGuestAsync(guest.Record.Uuid, CancellationToken.None);
            machines.Forget(guest.Record.Contract);
            _guests.TryRemove(guest.Record.Uuid, out _);
        }
        finally
        {
            guest.MigrationId = "";
        }
    }

    /// <summary>Learns of a newer owner of a guest that once lived here.</summary>
    /// <param name="teller">Believed if it is the owner that is known here: who else could have given it away?</param>
    public async Task LearnOwnerAsync(Guid uuid, string teller, string host, long epoch)
    {
        if (_guests.TryGetValue(uuid, out var guest) && guest.Record.Host == teller
            && teller != settings.HostName && host != settings.HostName
            && guest.Record.Intent != GuestIntent.Incoming && guest.Record.Epoch < epoch)
        {
            await NoteAsync(guest, guest.Record with { Host = host, Epoch = epoch });
        }
    }

    /// <summary>Stores what is to be; it holds when this returns, and nothing has changed if it throws.</summary>
    private async Task DecideAsync(LocalGuest guest, GuestRecord next)
    {
        await StoreAsync(guest, next);
        guest.Record = next;
    }

    /// <summary>Keeps what has happened; it is so even if it could not be stored.</summary>
    private Task NoteAsync(LocalGuest guest, GuestRecord next)
    {
        guest.Record = next;
        return StoreAsync(guest, next);
    }

    /// <summary>Stores who owns the guest, if that could not be stored when it changed.</summary>
    /// <remarks>
    /// Before its next move: the journal has the last one's record in place of the registry's, and only until the next
    /// one has its own. A daemon that started then would take a guest that runs for one that never came.
    /// </remarks>
    public Task CatchUpAsync(LocalGuest guest) =>
        guest.StoredEpoch == guest.Record.Epoch ? Task.CompletedTask : StoreAsync(guest, guest.Record);

    private async Task StoreAsync(LocalGuest guest, GuestRecord next)
    {
        if (!await registry.TryUpdateGuestAsync(next, guest.StoredEpoch, CancellationToken.None))
        {
            throw new GodwitException("guest-owner",
                $"The registry has another owner for guest '{next.Name}' than epoch {guest.StoredEpoch} says.",
                "Look at 'godwit vm show' on every host; restart godwitd to read the registry again.");
        }

        guest.StoredEpoch = next.Epoch;
    }
}
