using Godwit.Host.Qemu;
using Godwit.Host.Registry;
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
        var handOver = handOvers.OfGuest(guest.Record.Uuid);
        await CatchUpAsync(guest, handOver);
        var record = guest.Record;
        var (machine, reason) = await TryAdoptAsync(record.Contract, cancellationToken);
        var state = machine is null ? "" : await RunStateAsync(machine, cancellationToken);
        if (handOver is { State: HandOverState.Committed })
        {
            // Only the destination, or an operator, knows whether this copy may ever run again.
            guest.MigrationId = handOver.Migration;
            if (machine is not null)
            {
                Attach(guest, machine);
                guest.IsPaused = true;
            }
        }
        else if (record.Intent == GuestIntent.Incoming)
        {
            await RecoverIncomingAsync(guest, machine, state, handOver);
        }
        else if (record.Host != settings.HostName)
        {
            if (machine is not null)
            {
                await RecoverDepartedAsync(guest, machine);
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

    // The journal is ahead of the registry when the daemon ended in between.
    private async Task CatchUpAsync(LocalGuest guest, HandOverRecord? handOver)
    {
        var record = guest.Record;
        if (handOver is null || handOver.Epoch <= record.Epoch || record.Host != settings.HostName)
        {
            return;
        }

        switch (handOver.State)
        {
            case HandOverState.Left:
                await NoteAsync(guest, record with
                {
                    Host = handOver.Peer, Epoch = handOver.Epoch, Intent = GuestIntent.Stopped, Detail = "",
                });
                break;
            case HandOverState.Overruled:
                await NoteAsync(guest, record with { Epoch = handOver.Epoch, Intent = GuestIntent.Running });
                break;
        }
    }

    private async Task RecoverRunningAsync(LocalGuest guest, QemuMachine machine, string state)
    {
        var record = guest.Record;
        if (state is not "running")
        {
            // A move that the last daemon did not end. It was never committed, so the guest goes on here.
            state = await GoOnAsync(machine);
        }
        else
        {
            await TryExecuteAsync(machine, "migrate_cancel");
            // The last daemon may have silenced a guest that QEMU, alone since, has let go on.
            machines.SetLinks(machine, up: true);
        }

        await NoteAsync(guest, record with { Intent = GuestIntent.Running, Detail = "" });
        Attach(guest, machine);
        guest.IsPaused = state != "running";
        Log.GuestAdopted(logger, record.Name, machine.ProcessId, state);
    }

    /// <summary>Ends what is left of a migration in QEMU and lets the guest run here.</summary>
    /// <returns>QEMU's run state then.</returns>
    public async Task<string> GoOnAsync(QemuMachine machine)
    {
        await TryAsync(() => machine.ReleaseStreamAsync(CancellationToken.None));
        await TryExecuteAsync(machine, "migrate_cancel");
        await WaitForMigrationEndAsync(machine);
        await TryExecuteAsync(machine, "cont");
        machines.SetLinks(machine, up: true);
        return await RunStateAsync(machine, CancellationToken.None);
    }

    // The guest is another host's, which runs it or has run it: a copy is left of a move that ended while no daemon
    // looked. It is killed, not asked to quit: a QEMU that ends a migration in order runs its guest again for a moment.
    private static async Task RecoverDepartedAsync(LocalGuest guest, QemuMachine machine)
    {
        guest.Machine = null;
        await machine.KillAsync();
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

    private async Task RecoverIncomingAsync(
        LocalGuest guest, QemuMachine? machine, string state, HandOverRecord? handOver)
    {
        var copy = machine is null ? GuestCopy.Gone : state == "running" ? GuestCopy.Running : GuestCopy.Paused;
        var resuming = handOver is { State: HandOverState.Resuming } && handOver.Epoch > guest.Record.Epoch
            ? handOver : null;
        switch (HandOverRules.AtDestination(resuming?.State, copy))
        {
            case HandOverDuty.End:
                await Machines.EndAsync(machine!);
                break;
            case HandOverDuty.Run:
                await TryExecuteAsync(machine!, "cont");
                machines.Announce(Machines.OpenAnnouncer(machine!), guest.Record.Name);
                state = await RunStateAsync(machine!, CancellationToken.None);
                break;
        }

        if (resuming is null)
        {
            Log.IncomingDropped(logger, guest.Record.Name);
            await DropIncomingAsync(guest);
        }
        else if (machine is null)
        {
            await LoseAsync(guest, $"Its QEMU ended while godwitd was not running: "
                + machines.LastWords(guest.Record.Contract));
        }
        else
        {
            await TakeAsync(guest);
            Attach(guest, machine);
            guest.IsPaused = state != "running";
            Log.GuestAdopted(logger, guest.Record.Name, machine.ProcessId, state);
        }
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

    /// <summary>Records that the guest belongs to another host now. The journal has said so before.</summary>
    public Task GiveAsync(LocalGuest guest, string host, long epoch) => NoteAsync(guest, guest.Record with
    {
        Host = host, Epoch = epoch, Intent = GuestIntent.Stopped, Detail = "",
    });

    /// <summary>Records that the guest is this host's by an operator's decision, whatever another host says.</summary>
    public Task OverruleAsync(LocalGuest guest, long epoch) => NoteAsync(guest, guest.Record with
    {
        Host = settings.HostName, Epoch = epoch, Intent = GuestIntent.Running, Detail = "",
    });

    /// <summary>Ends a copy that another host's newer ownership has made void; does nothing if there is none.</summary>
    public async Task FenceAsync(LocalGuest guest, string owner, long epoch)
    {
        if (guest.Record.Epoch >= epoch)
        {
            return;
        }

        if (guest.Machine is { } machine)
        {
            guest.Machine = null;
            await machine.KillAsync();
            await machine.DisposeAsync();
        }

        await NoteAsync(guest, guest.Record with
        {
            Host = owner, Epoch = epoch, Intent = GuestIntent.Stopped, Detail = "",
        });
        Log.GuestFenced(logger, guest.Record.Name, owner, epoch);
    }

    /// <summary>Takes ownership of a guest that was handed over to this host and died here.</summary>
    public Task LoseAsync(LocalGuest guest, string detail)
    {
        guest.MigrationId = "";
        Log.GuestLost(logger, guest.Record.Name, detail);
        return NoteAsync(guest, guest.Record with
        {
            Host = settings.HostName, Epoch = guest.Record.Epoch + 1, Intent = GuestIntent.Stopped, Detail = detail,
        });
    }

    /// <summary>Ends the QEMU of a guest that runs elsewhere now.</summary>
    /// <remarks>Killed, not asked to quit: see <see cref="RecoverDepartedAsync"/>. Its disks are let go of.</remarks>
    public static async Task LeaveAsync(LocalGuest guest)
    {
        if (guest.Machine is { } machine)
        {
            guest.Machine = null;
            await machine.KillAsync();
            await machine.DisposeAsync();
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
            machines.Forget(guest.Record.Contract);
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
