using Godwit.Migration;
using Godwit.Migration.HandOver;

namespace Godwit.Simulation;

/// <summary>One life of a godwitd: journal, rules and engines are real, what is around them is virtual.</summary>
/// <remarks>Follows the daemon's own steps in src/Daemon/Guests and src/Daemon/Moves, for one guest.</remarks>
internal sealed partial class SimulatedDaemon(World world, SimulatedHost host)
{
    private static readonly Guid _guest = new("0a1b2c3d-0000-4000-8000-000000000001");

    private HandOverJournal _journal = null!;
    private GuestOwnership? _owned;
    private GuestOwnership? _before;
    private long? _storedEpoch;
    private string _moving = "";
    private bool _hasDied;
    private TimeSpan _stoppedUntil;
    private readonly Queue<Action> _heldBack = new();

    public string Host => host.Name;

    public bool IsAlive { get; private set; }

    public TimeSpan Now => world.Time.Now + host.ClockOffset;

    public TimeSpan FlushTime => host.Disk.FlushTime * (0.5 + world.Time.Chance.NextDouble());

    /// <summary>It would start the guest if it were asked to.</summary>
    public bool Owns => _owned is { Intent: not GuestIntent.Incoming } owned && owned.Host == Host;

    public bool IsMoving => _moving.Length > 0;

    public bool MayMove => IsAlive && Owns && !IsMoving && host.Qemu is { IsAlive: true, Runs: true };

    /// <summary>Nothing is under way here.</summary>
    public bool IsIdle => !IsMoving && _arrival is null && _deciding.Count == 0
        // A death has been noticed.
        && !(Owns && _owned!.Intent == GuestIntent.Running && Copy == GuestCopy.Gone);

    /// <summary>False for one that could not start.</summary>
    public bool HasJournal => _journal is not null;

    /// <summary>Starts, or fails to.</summary>
    public bool TryStart()
    {
        IsAlive = true;
        byte[] identity = new byte[16];
        world.Time.Chance.NextBytes(identity);
        try
        {
            _journal = HandOverJournal.Open(host.Disk, new Guid(identity));
            world.CheckAcknowledged(Host, _journal);
            Recover();
            return true;
        }
        catch (GodwitException e)
        {
            if (e.Code != "journal-unwritable")
            {
                world.Violate($"{Host}: {e.Message}");
            }

            IsAlive = false;
            return false;
        }
        catch (CrashException)
        {
            IsAlive = false;
            return false;
        }
    }

    public void Die() => IsAlive = false;

    /// <summary>SIGSTOP, and SIGCONT later.</summary>
    public void StopFor(TimeSpan span)
    {
        TimeSpan until = world.Time.Now + span;
        _stoppedUntil = until > _stoppedUntil ? until : _stoppedUntil;
    }

    /// <summary>Does something later, if this daemon lives then.</summary>
    public void Post(TimeSpan delay, Action what) => world.Time.After(delay, () =>
    {
        // What came to a daemon that stands still it does when it goes on, in the order in which it came.
        _heldBack.Enqueue(what);
        if (_heldBack.Count == 1)
        {
            GoOnWithIt();
        }
    });

    private void GoOnWithIt()
    {
        while (IsAlive && _heldBack.TryPeek(out Action? what))
        {
            if (world.Time.Now < _stoppedUntil)
            {
                world.Time.After(_stoppedUntil - world.Time.Now, GoOnWithIt);
                return;
            }

            try
            {
                what();
            }
            catch (CrashException)
            {
                world.KillDaemon(Host);
            }

            _heldBack.Dequeue();
        }
    }

    /// <summary>Does something that others see; the daemon may die just before it, or just behind it.</summary>
    public void PostEffect(TimeSpan delay, Action what) => Post(delay, () =>
    {
        if (world.CrashesNow())
        {
            world.KillDaemon(Host);
            return;
        }

        what();
        if (IsAlive && world.CrashesNow())
        {
            world.KillDaemon(Host);
        }
    });

    /// <summary>Records in the journal; false if it cannot.</summary>
    public bool TryRecord(HandOverRecord record)
    {
        try
        {
            _journal.Record(record);
            world.Acknowledged(Host, record);
            world.Note($"{Host}: {record.Migration} recorded as {record.State}");
            return true;
        }
        catch (GodwitException e) when (e.Code == "journal-unwritable")
        {
            world.Note($"{Host}: {record.Migration} could not be recorded as {record.State}");
            return false;
        }
    }

    public HandOverState? StateOf(string migration) => _journal.Find(migration)?.State;

    public string Describe() => $"owner {_owned?.Host ?? "unknown"} epoch {_owned?.Epoch ?? 0} {_owned?.Intent}";

    private GuestCopy Copy => host.Qemu?.Copy ?? GuestCopy.Gone;

    private void Recover()
    {
        _owned = host.Disk.Registry;
        _storedEpoch = _owned?.Epoch;
        if (_owned is not null)
        {
            HandOverRecord? handOver = _journal.OfGuest(_guest);
            if (!TryTakeUp(handOver))
            {
                Recover(HandOverRules.Recover(Host, _owned, handOver, Copy), handOver);
            }
        }

        if (_storedEpoch == _owned?.Epoch)
        {
            Compact();
        }

        foreach (HandOverRecord record in _journal.Records.Where(record => record.IsOutstanding).ToList())
        {
            Settle(new Settlement(record, CommitFate.InDoubt, Host, Now), record);
        }
    }

    // A guest that came by postcopy and lacks memory: the source brings it only when this daemon is up.
    private bool TryTakeUp(HandOverRecord? handOver)
    {
        if (handOver is not { State: HandOverState.Resuming } || handOver.Epoch < _owned!.Epoch
            || host.Qemu is not { IsAlive: true, IsListening: true } qemu || qemu.Migration != handOver.Migration)
        {
            return false;
        }

        world.Note($"{Host}: takes {handOver.Migration} up, which lacks {qemu.Lacks} pages");
        _moving = handOver.Migration;
        if (_owned.Intent == GuestIntent.Incoming)
        {
            Note(_owned.Arrived(Host));
        }

        _arrival = new Arrival(world, this, qemu, handOver, ArrivalEnded);
        AdoptWhenItAnswers(_arrival);
        return true;
    }

    private void AdoptWhenItAnswers(Arrival arrival) => Post(TimeSpan.FromMilliseconds(200), () =>
    {
        if (arrival.HasEnded || !arrival.Qemu.IsAlive)
        {
            return;
        }

        if (arrival.Qemu.Runs || arrival.Qemu.Continue())
        {
            arrival.FoundRunning();
            return;
        }

        AdoptWhenItAnswers(arrival);
    });

    private void Recover(Recovery recovery, HandOverRecord? handOver)
    {
        world.Note($"{Host}: starts, {recovery.Duty} ({handOver?.Migration} {handOver?.State}, copy {Copy})");
        RecoveryDuty duty = recovery.Duty;
        if (world.Canary == Canary.ArrivalRunUnrecorded && duty == RecoveryDuty.DropArrival && Copy == GuestCopy.Paused)
        {
            (duty, recovery) = (RecoveryDuty.RunArrival, recovery with { Owned = recovery.Owned.Arrived(Host) });
        }

        switch (duty)
        {
            case RecoveryDuty.DropArrival:
                host.Qemu?.Kill();
                Note(null);
                return;
            case RecoveryDuty.EndCopy:
                host.Qemu?.Kill();
                break;
        }

        if (recovery.Owned != _owned)
        {
            Note(recovery.Owned);
        }

        switch (duty)
        {
            case RecoveryDuty.KeepPaused:
                _moving = handOver!.Migration;
                break;
            case RecoveryDuty.GoOn:
                GoOn();
                break;
            case RecoveryDuty.RunArrival:
                host.Qemu!.Continue();
                break;
            case RecoveryDuty.NoteDeath:
                _hasDied = true;
                break;
        }
    }

    private void Compact()
    {
        try
        {
            _journal.Compact();
        }
        catch (GodwitException)
        {
            // Another time.
        }
    }

    /// <summary>Ends what is left of a migration in QEMU and lets the guest run.</summary>
    private bool GoOn()
    {
        if (host.Qemu is not { IsAlive: true } qemu)
        {
            return false;
        }

        qemu.CancelMigration();
        qemu.Continue();
        return qemu.Runs;
    }

    /// <summary>Keeps what has happened; it is so even if it could not be stored.</summary>
    private void Note(GuestOwnership? next)
    {
        _owned = next;
        TryStore(next);
    }

    private bool TryStore(GuestOwnership? next)
    {
        try
        {
            if (!host.Disk.TryStore(next, _storedEpoch))
            {
                world.Violate($"{Host}: the registry has another epoch than {_storedEpoch}");
                return false;
            }

            _storedEpoch = next?.Epoch;
            return true;
        }
        catch (IOException)
        {
            return false;
        }
    }
}
