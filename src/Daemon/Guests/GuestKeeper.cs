using System.Collections.Concurrent;
using Godwit.Api.V1;
using Godwit.Host.Qemu;
using Godwit.Host.Registry;
using Godwit.Host.Transfers;
using Godwit.Migration;
using Godwit.Migration.HandOver;

namespace Godwit.Daemon.Guests;

/// <summary>The guests this host knows: those that live here, and those that have left.</summary>
/// <remarks>
/// The registry says what is to be, a QEMU says what is; this type brings the two together at start and keeps them so.
/// A QEMU is never ended because the daemon ends.
/// </remarks>
internal sealed partial class GuestKeeper(
    DaemonSettings settings, IRegistry registry, HandOvers handOvers, Machines machines, QemuFacts qemu,
    TimeProvider clock, ILogger<GuestKeeper> logger) : IDisposable
{
    private static readonly TimeSpan PowerDownTimeout = TimeSpan.FromSeconds(60);
    private readonly ConcurrentDictionary<Guid, LocalGuest> _guests = new();
    private readonly SemaphoreSlim _creating = new(1);
    private volatile bool _released;

    /// <summary>Guests whose QEMU runs on this host.</summary>
    public int Running => _guests.Values.Count(guest => guest.Machine is not null);

    public IEnumerable<LocalGuest> All => _guests.Values;

    /// <summary>Finds the guests of an earlier daemon again.</summary>
    public async Task StartAsync(CancellationToken cancellationToken)
    {
        await qemu.ProbeAsync(cancellationToken);
        if (qemu.Missing.Length > 0)
        {
            Log.QemuMissing(logger, qemu.Missing);
        }
        else
        {
            Log.QemuFound(logger, qemu.VersionText, qemu.Path, qemu.Accelerator);
        }

        foreach (var record in await registry.ListGuestsAsync(cancellationToken))
        {
            var guest = new LocalGuest(record);
            _guests[record.Uuid] = guest;
            await RecoverAsync(guest, cancellationToken);
        }

        if (_guests.Values.All(guest => guest.StoredEpoch == guest.Record.Epoch))
        {
            handOvers.Compact();
        }
    }

    /// <summary>Lets go of every QEMU without ending it, because the daemon ends.</summary>
    public async Task ReleaseAsync()
    {
        _released = true;
        foreach (var guest in _guests.Values)
        {
            if (guest.Machine is { } machine)
            {
                guest.Machine = null;
                await machine.DisposeAsync();
            }
        }
    }

    public async Task<LocalGuest> CreateAsync(GuestSpec spec, bool start, CancellationToken cancellationToken)
    {
        LocalGuest guest;
        await _creating.WaitAsync(cancellationToken);
        try
        {
            var contract = NewContract.Complete(spec, qemu);
            RequireUnused(contract);
            await RequireMovableAsync(contract, cancellationToken);
            guest = new LocalGuest(new GuestRecord(
                contract, settings.HostName, 1, GuestIntent.Stopped, clock.GetUtcNow(), null, ""));
            await registry.AddGuestAsync(guest.Record, cancellationToken);
            _guests[contract.Uuid] = guest;
            Log.GuestCreated(logger, contract.Name, contract.Uuid);
        }
        finally
        {
            _creating.Release();
        }

        if (start)
        {
            await StartAsync(contractName: guest.Record.Name, cancellationToken);
        }

        return guest;
    }

    /// <summary>Every way in which the contract clashes with a guest this host knows, save the guest itself.</summary>
    public IEnumerable<(string Code, string Message, string Remedy)> Clashes(MachineContract contract)
    {
        foreach (var other in _guests.Values.Select(guest => guest.Record).Where(one => one.Uuid != contract.Uuid))
        {
            if (other.Name == contract.Name)
            {
                yield return ("guest-exists", $"A guest named '{other.Name}' is known already, on host '{other.Host}'.",
                    $"Choose another name. {IfGone(other.Name)}");
            }

            // One that is connected to nothing is in nobody's way.
            foreach (var card in other.Contract.Interfaces.Where(one => one.Bridge.Length > 0))
            {
                foreach (var mine in contract.Interfaces.Where(one => one.Bridge.Length > 0))
                {
                    if (mine.Mac == card.Mac)
                    {
                        yield return ("guest-exists", $"The MAC address {mine.Mac} belongs to guest '{other.Name}'.",
                            $"Give another one, or none to have one chosen. {IfGone(other.Name)}");
                    }

                    foreach (var address in mine.Addresses.Intersect(card.Addresses))
                    {
                        yield return ("guest-exists", $"The IP address {address} belongs to guest '{other.Name}'.",
                            $"Give the guest another address. {IfGone(other.Name)}");
                    }
                }
            }
        }
    }

    // A guest that was removed elsewhere is remembered here until this host is told too.
    private static string IfGone(string name) =>
        $"If that guest is no more, 'godwit vm rm {name}' on the host that says this forgets it.";

    /// <summary>Refuses at creation what could not be moved later, and what this host's QEMU does not have.</summary>
    private async Task RequireMovableAsync(MachineContract contract, CancellationToken cancellationToken)
    {
        var refusals = MachineContractRules.Check(contract)
            .Concat(await qemu.CheckAsync(contract, featuresMissing: null, cancellationToken)).ToList();
        if (refusals is [var only])
        {
            throw new GodwitException(only.Code, only.Message, only.Remedy);
        }

        if (refusals.Count > 0)
        {
            throw new GodwitException("contract-invalid",
                $"Guest '{contract.Name}' cannot be created for {refusals.Count} reasons:"
                + string.Concat(refusals.Select(one => $"\n  {one.Code}: {one.Message}")),
                string.Join(" ", refusals.Select(one => one.Remedy).Distinct()));
        }
    }

    private void RequireUnused(MachineContract contract)
    {
        if (_guests.ContainsKey(contract.Uuid))
        {
            throw new GodwitException("guest-exists", $"A guest with the UUID {contract.Uuid} is known already.",
                "Give another UUID, or none to have one chosen.");
        }

        foreach (var (code, message, remedy) in Clashes(contract))
        {
            throw new GodwitException(code, message, remedy);
        }
    }

    public async Task<LocalGuest> StartAsync(string contractName, CancellationToken cancellationToken)
    {
        var guest = Find(contractName);
        using var alone = await EnterAsync(guest, cancellationToken);
        RequireHere(guest);
        if (guest.Machine is not null)
        {
            throw State(guest, "runs already", "There is nothing to do.");
        }

        RequireAwake(guest);

        // Recorded first: a registry that takes nothing stops the start, and a daemon that dies in between finds out.
        var before = guest.Record;
        await DecideAsync(guest, before with
        {
            Intent = GuestIntent.Running,
            Started = clock.GetUtcNow(),
            Detail = "",
        });
        QemuMachine machine;
        try
        {
            machine = await machines.StartAsync(before.Contract, incoming: false, cancellationToken);
        }
        catch
        {
            await NoteAsync(guest, before);
            throw;
        }

        Attach(guest, machine);
        Log.GuestStarted(logger, guest.Record.Name, machine.ProcessId);
        return guest;
    }

    /// <returns>The guest, and what was lost by force beyond what a guest loses that is switched off.</returns>
    public async Task<(LocalGuest Guest, string Lost)> StopAsync(
        string name, bool force, TimeSpan timeout, CancellationToken cancellationToken)
    {
        var guest = Find(name);
        if (force && await TryEndFillingAsync(guest) is { } lost)
        {
            // Whoever filled it lets go of it in a moment.
            for (var i = 0; i < 100 && guest.MigrationId.Length > 0; i++)
            {
                await Task.Delay(TimeSpan.FromMilliseconds(100), CancellationToken.None);
            }

            return (guest, lost);
        }

        if (force && await TryEndFetchingAsync(guest))
        {
            // Whoever receives its memory notes that it has ended, and tells the host that has the rest.
            return (guest, "");
        }

        using var alone = await EnterAsync(guest, cancellationToken);
        RequireHere(guest);
        RequireAwake(guest);
        if (guest.Machine is not { } machine)
        {
            // A failed guest is put in order by stopping it.
            await NoteAsync(guest, guest.Record with { Intent = GuestIntent.Stopped, Detail = "" });
            return (guest, "");
        }

        if (!force)
        {
            var patience = timeout > TimeSpan.Zero ? timeout : PowerDownTimeout;
            if (!await machine.PowerDownAsync(patience, cancellationToken))
            {
                throw new GodwitException("guest-stop-timeout",
                    $"Guest '{guest.Record.Name}' has not switched itself off "
                    + $"within {patience.TotalSeconds:F0} s; it runs on.",
                    $"Give it longer, or switch it off: 'godwit vm stop {guest.Record.Name} --force'.");
            }
        }

        // From here on the exit is wished for, and not a failure.
        guest.Machine = null;
        await Machines.EndAsync(machine);
        await NoteAsync(guest, guest.Record with { Intent = GuestIntent.Stopped, Detail = "" });
        Log.GuestStopped(logger, guest.Record.Name, force ? "by force" : "by its own shutdown");
        return (guest, "");
    }

    // A guest that runs here and lacks memory of a host that may be gone: nothing else would ever end it.
    private async Task<bool> TryEndFetchingAsync(LocalGuest guest)
    {
        var (contract, directory) = (guest.Record.Contract, machines.Directory(guest.Record.Contract));
        if (guest.MigrationId.Length == 0 || guest.Record.Host != settings.HostName
            || HeldStream.Load(directory)?.Migration != guest.MigrationId
            || !await QemuMachine.KillProcessAsync(contract, directory))
        {
            return false;
        }

        Log.GuestStopped(logger, guest.Record.Name, "by force, in the middle of its arrival");
        return true;
    }

    public async Task RemoveAsync(string name, CancellationToken cancellationToken)
    {
        var guest = Find(name);
        using var alone = await EnterAsync(guest, cancellationToken);
        if (guest.Machine is not null)
        {
            throw State(guest, "runs", $"Stop it first: 'godwit vm stop {guest.Record.Name}'.");
        }

        await registry.RemoveGuestAsync(guest.Record.Uuid, cancellationToken);
        machines.Forget(guest.Record.Contract);
        _guests.TryRemove(guest.Record.Uuid, out _);
        Log.GuestRemoved(logger, guest.Record.Name);
    }

    /// <summary>Finds a guest by name, UUID or unambiguous prefix of the UUID.</summary>
    /// <exception cref="GodwitException"><c>guest-unknown</c> or <c>guest-ambiguous</c>.</exception>
    public LocalGuest Find(string name)
    {
        const int PrefixMin = 4;
        var matches = _guests.Values.Where(guest => guest.Record.Name == name).ToList();
        if (matches.Count == 0 && name.Length >= PrefixMin)
        {
            matches = [.. _guests.Values.Where(guest =>
                guest.Record.Uuid.ToString().StartsWith(name, StringComparison.OrdinalIgnoreCase))];
        }

        return matches.Count switch
        {
            1 => matches[0],
            0 => throw new GodwitException("guest-unknown", $"Host '{settings.HostName}' knows no guest '{name}'.",
                "List the guests with 'godwit vm list'."),
            _ => throw new GodwitException("guest-ambiguous",
                $"'{name}' is the beginning of {matches.Count} UUIDs: "
                + $"{string.Join(", ", matches.Select(guest => guest.Record.Name))}.", "Give more of it, or the name."),
        };
    }

    public LocalGuest? Find(Guid uuid) => _guests.GetValueOrDefault(uuid);

    public Guest Describe(LocalGuest guest)
    {
        var record = guest.Record;
        var state = guest.StateOn(settings.HostName);
        return new Guest
        {
            Spec = ContractMapping.ToSpec(record.Contract),
            State = state,
            Host = record.Host,
            ProcessId = guest.Machine?.ProcessId ?? 0,
            Detail = record.Detail,
            ConsoleSocket = guest.Machine?.ConsoleSocket ?? "",
            MigrationId = guest.MigrationId,
            CreatedUnixMs = record.Created.ToUnixTimeMilliseconds(),
            StartedUnixMs = record.Started?.ToUnixTimeMilliseconds() ?? 0,
            Parcel = record.Parcel is { } parcel ? $"{parcel.Store}/{parcel.Id}" : "",
        };
    }

    /// <exception cref="GodwitException"><c>guest-state</c>: the guest lives elsewhere, or is arriving.</exception>
    public void RequireHere(LocalGuest guest)
    {
        if (guest.Record.Intent == GuestIntent.Incoming)
        {
            throw State(guest, $"is arriving from host '{guest.Record.Host}'", "Wait until the migration has ended.");
        }

        if (guest.Record.Host != settings.HostName)
        {
            throw State(
                guest, $"lives on host '{guest.Record.Host}'", $"Run the command on host '{guest.Record.Host}'.");
        }
    }

    /// <exception cref="GodwitException"><c>guest-asleep</c>: its memory is in a parcel.</exception>
    public static void RequireAwake(LocalGuest guest)
    {
        if (guest.Record.Parcel is { Stage: not (ParcelStage.Awake or ParcelStage.Filling) } parcel)
        {
            throw new GodwitException("guest-asleep",
                $"Guest '{guest.Record.Name}' sleeps in parcel {parcel.Id} of store '{parcel.Store}'.",
                $"Wake it: 'godwit vm resume {guest.Record.Name}'.");
        }
    }

    public static GodwitException State(LocalGuest guest, string state, string remedy) =>
        new("guest-state", $"Guest '{guest.Record.Name}' {state}.", remedy);

    public void Dispose() => _creating.Dispose();

    /// <summary>Waits for the sole right to change the guest; refused at once while it moves.</summary>
    public static async Task<IDisposable> EnterAsync(LocalGuest guest, CancellationToken cancellationToken)
    {
        RequireStill(guest);
        await guest.Gate.WaitAsync(cancellationToken);
        try
        {
            RequireStill(guest);
            return new Turn(guest.Gate);
        }
        catch
        {
            guest.Gate.Release();
            throw;
        }
    }

    private static void RequireStill(LocalGuest guest)
    {
        if (guest.MigrationId.Length > 0 && guest.Record.Parcel is { Stage: ParcelStage.Filling } filling)
        {
            throw State(guest, $"runs, and some of its memory is still to come from parcel {filling.Id}",
                "Wait until all is there: 'godwit vm show' says when. Its power button works from within; "
                + $"'godwit vm stop {guest.Record.Name} --force' ends it at once.");
        }

        if (guest.MigrationId.Length > 0)
        {
            throw State(guest, $"is moving (migration {guest.MigrationId})",
                $"Wait for it, or end it with 'godwit migration cancel {guest.MigrationId}'.");
        }
    }

    private sealed class Turn(SemaphoreSlim gate) : IDisposable
    {
        public void Dispose() => gate.Release();
    }
}
