using Godwit.Host.Qemu;
using Godwit.Host.Registry;
using Godwit.Migration;

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
        var record = guest.Record;
        var (machine, reason) = await TryAdoptAsync(record.Contract, cancellationToken);
        var state = machine is null ? "" : await RunStateAsync(machine, cancellationToken);
        if (record.Intent == GuestIntent.Incoming)
        {
            await RecoverIncomingAsync(guest, machine, state);
        }
        else if (record.Host != settings.HostName)
        {
            if (machine is not null)
            {
                await RecoverDepartedAsync(guest, machine, state);
            }
        }
        else if (machine is not null)
        {
            await RecoverRunningAsync(guest, machine, state);
        }
        else if (record.Intent == GuestIntent.Running)
        {
            await NoteAsync(guest, record with
            {
                Intent = GuestIntent.Stopped,
                Detail = $"Its QEMU ended while godwitd was not running: {reason}",
            });
            Log.GuestLost(logger, record.Name, guest.Record.Detail);
        }
    }

    private async Task RecoverRunningAsync(LocalGuest guest, QemuMachine machine, string state)
    {
        var record = guest.Record;
        if (state is not "running")
        {
            // A move that the last daemon did not end. The record says that it was never committed, so the guest is
            // ours and goes on here.
            await TryExecuteAsync(machine, "migrate_cancel");
            await WaitForMigrationEndAsync(machine);
            await TryExecuteAsync(machine, "cont");
            machines.SetLinks(machine, up: true);
            state = await RunStateAsync(machine, CancellationToken.None);
        }
        else
        {
            await TryExecuteAsync(machine, "migrate_cancel");
        }

        await NoteAsync(guest, record with { Intent = GuestIntent.Running, Detail = "" });
        Attach(guest, machine);
        guest.IsPaused = state != "running";
        Log.GuestAdopted(logger, record.Name, machine.ProcessId, state);
    }

    /// <summary>A guest given to another host, whose QEMU is still here.</summary>
    private async Task RecoverDepartedAsync(LocalGuest guest, QemuMachine machine, string state)
    {
        // QEMU is in this state only after the destination has confirmed that the guest runs there.
        if (state == "postmigrate")
        {
            await Machines.EndAsync(machine);
            return;
        }

        await NoteAsync(guest, guest.Record with
        {
            Detail = $"Given to host '{guest.Record.Host}', which has not confirmed it; a paused copy is kept here as "
                + $"process {machine.ProcessId}. Look whether it runs there before you end that process.",
        });
        Log.GuestLost(logger, guest.Record.Name, guest.Record.Detail);
        await machine.DisposeAsync();
    }

    private static async Task WaitForMigrationEndAsync(QemuMachine machine)
    {
        const int Attempts = 250;
        for (var attempt = 0; attempt < Attempts; attempt++)
        {
            try
            {
                var migration = await machine.ExecuteAsync("query-migrate", null, CancellationToken.None);
                var status = migration?["status"]?.GetValue<string>() ?? "none";
                if (status is "none" or "failed" or "cancelled" or "completed")
                {
                    return;
                }
            }
            catch (Exception exception) when (exception is QmpException or IOException or GodwitException)
            {
                return;
            }

            await Task.Delay(20);
        }
    }

    /// <summary>
    /// The destination runs a guest only after the source has committed it; so one that runs is ours, whatever the
    /// record still says, and one that does not may be ended.
    /// </summary>
    private async Task RecoverIncomingAsync(LocalGuest guest, QemuMachine? machine, string state)
    {
        var record = guest.Record;
        if (machine is not null && state == "running")
        {
            await NoteAsync(guest, record with
            {
                Host = settings.HostName,
                Epoch = record.Epoch + 1,
                Intent = GuestIntent.Running,
            });
            Attach(guest, machine);
            Log.GuestAdopted(logger, record.Name, machine.ProcessId, state);
            return;
        }

        if (machine is not null)
        {
            await Machines.EndAsync(machine);
        }

        Log.IncomingDropped(logger, record.Name);
        await DropIncomingAsync(guest);
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

    private static async Task TryExecuteAsync(QemuMachine machine, string command)
    {
        try
        {
            await machine.ExecuteAsync(command, null, CancellationToken.None);
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

    /// <summary>Records that the guest belongs to another host now; durable when this returns.</summary>
    public async Task GiveAsync(LocalGuest guest, string host)
    {
        var record = guest.Record;
        await DecideAsync(
            guest, record with { Host = host, Epoch = record.Epoch + 1, Intent = GuestIntent.Stopped, Detail = "" });
    }

    /// <summary>Takes a guest back that was given away in a move which then was not committed; it runs here.</summary>
    public async Task ReclaimAsync(LocalGuest guest)
    {
        var record = guest.Record;
        if (record.Host != settings.HostName)
        {
            await NoteAsync(guest, record with
            {
                Host = settings.HostName,
                Epoch = record.Epoch + 1,
                Intent = GuestIntent.Running,
            });
        }
    }

    /// <summary>Ends the QEMU of a guest that runs elsewhere now.</summary>
    public static async Task LeaveAsync(LocalGuest guest)
    {
        if (guest.Machine is { } machine)
        {
            guest.Machine = null;
            await Machines.EndAsync(machine);
        }
    }

    /// <summary>Records a guest that is about to arrive, so that a restart of the daemon finds its QEMU.</summary>
    public async Task<LocalGuest> ExpectAsync(
        MachineContract contract, string from, long epoch, DateTimeOffset created, string migrationId)
    {
        var record = new GuestRecord(contract, from, epoch, GuestIntent.Incoming, created, null, "");
        if (_guests.TryGetValue(contract.Uuid, out var guest))
        {
            var known = guest.Record;
            if (known.Host == settings.HostName || guest.IsArriving || known.Epoch > epoch)
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
    public async Task TakeAsync(LocalGuest guest)
    {
        var record = guest.Record;
        await NoteAsync(guest, record with
        {
            Host = settings.HostName,
            Epoch = record.Epoch + 1,
            Intent = GuestIntent.Running,
            Started = clock.GetUtcNow(),
            Detail = "",
        });
    }

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
            _guests.TryRemove(guest.Record.Uuid, out _);
        }
        finally
        {
            guest.MigrationId = "";
        }
    }

    /// <summary>Learns of a newer owner of a guest that once lived here.</summary>
    public async Task LearnOwnerAsync(Guid uuid, string host, long epoch)
    {
        if (_guests.TryGetValue(uuid, out var guest) && guest.Record.Host != settings.HostName
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
