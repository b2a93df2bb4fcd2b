using System.Text.Json.Nodes;
using Godwit.Host.Qemu;
using Godwit.Host.Registry;
using Godwit.Migration;

namespace Godwit.Daemon.Guests;

/// <summary>How a guest's QEMU is found again, watched, and changes hands.</summary>
internal sealed partial class GuestKeeper
{
    private async Task RecoverAsync(LocalGuest guest, CancellationToken cancellationToken)
    {
        var record = guest.Record;
        if (record.Intent == GuestIntent.Stopped || (record.Host != settings.HostName
            && record.Intent != GuestIntent.Incoming))
        {
            return;
        }

        var (machine, reason) = await TryAdoptAsync(record.Contract, cancellationToken);
        var state = machine is null ? "" : await RunStateAsync(machine, cancellationToken);
        if (record.Intent == GuestIntent.Incoming)
        {
            await RecoverIncomingAsync(guest, machine, state);
            return;
        }

        if (machine is null)
        {
            machines.RemoveTaps(record.Contract);
            guest.Record = record with
            {
                Detail = $"Its QEMU ended while godwitd was not running: {reason}",
            };
            await SaveAsync(guest, record.Epoch);
            Log.GuestLost(logger, record.Name, guest.Record.Detail);
            return;
        }

        // A move that the last daemon did not end: the guest is ours, so QEMU has to give it up. Idempotent.
        await TryExecuteAsync(machine, "migrate_cancel", null);
        Attach(guest, machine);
        guest.IsPaused = state != "running";
        Log.GuestAdopted(logger, record.Name, machine.ProcessId, state);
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
            guest.Record = record with
            {
                Host = settings.HostName,
                Epoch = record.Epoch + 1,
                Intent = GuestIntent.Running,
            };
            await SaveAsync(guest, record.Epoch);
            Attach(guest, machine);
            Log.GuestAdopted(logger, record.Name, machine.ProcessId, state);
            return;
        }

        if (machine is not null)
        {
            await machines.EndAsync(machine);
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
            var status = await machine.ExecuteAsync("query-status", null, cancellationToken);
            return status?["status"]?.GetValue<string>() ?? "";
        }
        catch (Exception exception) when (exception is QmpException or IOException)
        {
            return "";
        }
    }

    private static async Task TryExecuteAsync(QemuMachine machine, string command, JsonObject? arguments)
    {
        try
        {
            await machine.ExecuteAsync(command, arguments, CancellationToken.None);
        }
        catch (Exception exception) when (exception is QmpException or IOException)
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

            guest.Machine = null;
            var detail = guest.HasShutDown ? ""
                : $"Its QEMU (process {machine.ProcessId}) ended by itself: {machines.LastWords(guest.Record.Contract)}";
            guest.Record = guest.Record with { Intent = GuestIntent.Stopped, Detail = detail };
            await machines.EndAsync(machine);
            await SaveAsync(guest, guest.Record.Epoch);
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
        var epoch = guest.Record.Epoch;
        guest.Record = guest.Record with { Host = host, Epoch = epoch + 1, Intent = GuestIntent.Stopped, Detail = "" };
        await SaveAsync(guest, epoch);
    }

    /// <summary>Ends the QEMU of a guest that runs elsewhere now.</summary>
    public async Task LeaveAsync(LocalGuest guest)
    {
        if (guest.Machine is { } machine)
        {
            guest.Machine = null;
            await machines.EndAsync(machine);
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
            if (known.Host == settings.HostName || known.Intent == GuestIntent.Incoming || known.Epoch > epoch)
            {
                throw new GodwitException("guest-exists",
                    $"Guest '{known.Name}' is recorded here on host '{known.Host}' with epoch {known.Epoch}; "
                    + $"host '{from}' would send it with epoch {epoch}.",
                    "Look at 'godwit vm show' on both hosts; only one of them may own the guest.");
            }

            guest.Record = record;
            await SaveAsync(guest, known.Epoch);
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
        var epoch = guest.Record.Epoch;
        guest.Record = guest.Record with
        {
            Host = settings.HostName,
            Epoch = epoch + 1,
            Intent = GuestIntent.Running,
            Started = clock.GetUtcNow(),
            Detail = "",
        };
        await SaveAsync(guest, epoch);
    }

    /// <summary>Forgets an arrival that was never committed.</summary>
    public async Task DropIncomingAsync(LocalGuest guest)
    {
        machines.RemoveTaps(guest.Record.Contract);
        guest.MigrationId = "";
        guest.Machine = null;
        await registry.RemoveGuestAsync(guest.Record.Uuid, CancellationToken.None);
        _guests.TryRemove(guest.Record.Uuid, out _);
    }

    /// <summary>Learns of a newer owner of a guest that once lived here.</summary>
    public async Task LearnOwnerAsync(Guid uuid, string host, long epoch)
    {
        if (_guests.TryGetValue(uuid, out var guest) && guest.Record.Host != settings.HostName
            && guest.Record.Intent != GuestIntent.Incoming && guest.Record.Epoch < epoch)
        {
            var known = guest.Record.Epoch;
            guest.Record = guest.Record with { Host = host, Epoch = epoch };
            await SaveAsync(guest, known);
        }
    }

    private async Task SaveAsync(LocalGuest guest, long epoch)
    {
        if (!await registry.TryUpdateGuestAsync(guest.Record, epoch, CancellationToken.None))
        {
            throw new GodwitException("guest-owner",
                $"The registry has another owner for guest '{guest.Record.Name}' than epoch {epoch} says.",
                "Look at 'godwit vm show' on every host; restart godwitd to read the registry again.");
        }
    }
}
