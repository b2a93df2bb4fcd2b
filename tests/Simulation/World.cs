using System.Buffers;
using System.Text;
using Godwit.Migration;
using Godwit.Migration.HandOver;
using Godwit.Pages;

namespace Godwit.Simulation;

/// <summary>Two hosts, a link, a guest that keeps writing, and everything that goes wrong in one seed.</summary>
/// <remarks>
/// Checked after every step: at most one copy of the guest runs, and none that has gone back in time. When everything
/// has healed: within a bound exactly one copy runs, or the guest is dead because its own QEMU was killed, and one host
/// alone would start it again. Whenever a copy arrives: its memory and disk are those at the pause.
/// </remarks>
internal sealed class World
{
    private static readonly TimeSpan HealedWithin = TimeSpan.FromSeconds(180);
    private static readonly TimeSpan MovesUntil = TimeSpan.FromSeconds(240);

    private static readonly string[] _names = ["a", "b"];

    private readonly Dictionary<string, SimulatedHost> _hosts;
    private readonly List<(Connection Connection, string Source, string Destination)> _connections = [];
    private readonly Dictionary<Connection, Departure> _departures = [];
    private readonly Dictionary<Connection, Arrival> _arrivals = [];
    private readonly Dictionary<string, byte[][]> _paused = [];
    private readonly HashSet<ModelQemu> _running = [];
    private readonly HashSet<string> _hasRun = [];
    private readonly List<string> _log = [];
    private Conformance? _conformance;
    private readonly bool _keepsLog;
    private readonly Dictionary<(string Host, string Migration), HandOverState> _acknowledged = [];
    private int _migrations;
    private int _movesLeft;
    private bool _healing;
    private bool _mayBeDead;
    private bool _operatorErred;

    public World(int seed, Canary canary = Canary.None, bool keepsLog = false)
    {
        (Canary, _keepsLog) = (canary, keepsLog);
        Time = new Timeline(seed);
        Plan = new Plan(Time.Chance);
        Link = new Link(Time, Plan.Latency, Plan.BytesPerSecond);
        Guest = new ModelGuest(Time, Plan.Pages, Plan.RomPages, Plan.WritesPerSecond, Plan.HotPages);
        _hosts = _names.ToDictionary(name => name, name => new SimulatedHost(this, name));
        _movesLeft = Plan.Moves;
    }

    public Timeline Time { get; }

    public Plan Plan { get; }

    public Canary Canary { get; }

    public Link Link { get; }

    public ModelGuest Guest { get; }

    /// <summary>Buffers that every seed on a thread uses in turn.</summary>
    public Buffers Buffers { get; } = Buffers.OfThisThread;

    /// <summary>What was wrong first; null if nothing was.</summary>
    public string? Violation { get; private set; }

    /// <summary>What a run was made of.</summary>
    public SeedReport Report { get; } = new();

    public string Log => string.Join('\n', _log);

    /// <summary>Plays the seed to its end.</summary>
    /// <returns>What was wrong, or null.</returns>
    public string? Run()
    {
        Boot();
        while (Violation is null && !_healing && Time.Step())
        {
            Check();
            if (Time.Now > MovesUntil)
            {
                Heal();
            }
        }

        TimeSpan deadline = Time.Now + HealedWithin;
        while (Violation is null && !IsQuiet && Time.Now < deadline && Time.Step())
        {
            Check();
        }

        if (Violation is null && !IsQuiet)
        {
            Violate($"{HealedWithin.TotalSeconds} s after everything healed it has not ended: {Describe()}");
        }

        CheckQuiet();
        RestartBoth();
        Report.Steps = Time.Steps;
        Buffers.ReturnAll();
        return Violation;
    }

    public void Violate(string what)
    {
        Note($"VIOLATION: {what}");
        Violation ??= $"at {Time.Now.TotalSeconds:0.000} s: {what}";
    }

    public void Note(string what)
    {
        if (_keepsLog)
        {
            _log.Add($"{Time.Now.TotalSeconds,9:0.0000} {what}");
        }
    }

    public static string Other(string host) => host == "a" ? "b" : "a";

    // QEMU's life.

    public void Started(ModelQemu qemu)
    {
        Note($"{qemu.Host}: the guest runs");
        _running.Add(qemu);
        if (_running.Count > 1 && !_operatorErred)
        {
            Violate("the guest runs on both hosts");
        }
    }

    public void Stopped(ModelQemu qemu)
    {
        Note($"{qemu.Host}: the guest stands still");
        _running.Remove(qemu);
    }

    /// <summary>The source's QEMU has stopped the guest for the switchover: this is what has to arrive.</summary>
    public void Paused(ModelQemu qemu)
    {
        byte[][] memory = Guest.NewMemory();
        foreach (RamBlock block in Guest.Blocks)
        {
            qemu.Memory[block.Index].CopyTo(memory[block.Index], 0);
        }

        _paused[qemu.Migration] = memory;
    }

    /// <summary>What a copy remembers of its disk has to be what the disk holds.</summary>
    public void CheckAgrees(ModelQemu qemu)
    {
        if (!_operatorErred && !Guest.Agrees(qemu.Memory))
        {
            Violate($"the guest on {qemu.Host} has fallen behind its disk: another copy has run");
        }
    }

    /// <summary>The guest runs at the destination.</summary>
    public void Arrived(string migration) => _hasRun.Add(migration);

    /// <summary>The destination's QEMU is about to use the guest's memory.</summary>
    public void CheckArrived(ModelQemu qemu)
    {
        if (!_paused.TryGetValue(qemu.Migration, out byte[][]? paused))
        {
            Violate($"device state of {qemu.Migration} came before the pause");
            return;
        }

        foreach (RamBlock block in Guest.Blocks)
        {
            int common = paused[block.Index].AsSpan().CommonPrefixLength(qemu.Memory[block.Index]);
            if (common < block.Length)
            {
                Violate($"page {common / Page.Size} of {block.Name} is not what it was at the pause");
                return;
            }
        }
    }

    // What has been promised.

    /// <summary>The host has been told that the record is durable: it may not be missing afterwards.</summary>
    public void Acknowledged(string host, HandOverRecord record) =>
        _acknowledged[(host, record.Migration)] = record.State;

    /// <summary>The newest state that the host has recorded, whoever knows of it.</summary>
    public HandOverState? Recorded(string host, string migration) =>
        _acknowledged.TryGetValue((host, migration), out HandOverState state) ? state : null;

    public void CheckAcknowledged(string host, HandOverJournal journal)
    {
        foreach (((string Host, string Migration) key, HandOverState state) in _acknowledged)
        {
            // A later one may be there that nobody was told of, or it is over and was dropped: the daemon died behind
            // the write.
            HandOverState? found = journal.Find(key.Migration)?.State;
            bool isNeeded = state is HandOverState.Committed or HandOverState.Overruled or HandOverState.Resuming;
            if (key.Host == host && found != state
                && (found is null ? isNeeded : !HandOverRecord.MayFollow(state, found.Value)))
            {
                Violate($"{host} has lost its record of {key.Migration} as {state}");
            }
        }

        foreach (HandOverRecord record in journal.Records)
        {
            Acknowledged(host, record);
        }
    }

    public bool CrashesNow() => !_healing && Time.Happens(Plan.CrashAtEffect);

    public string NextMigration() => $"m{++_migrations}";

    // Who talks to whom.

    public Connection Connect(string source, string destination)
    {
        var connection = new Connection(Time, Link, source, destination, Plan.Lanes);
        _connections.Add((connection, source, destination));
        return connection;
    }

    public List<Connection> ConnectionsOf(string host) => [.. _connections
        .Where(one => one.Source == host || one.Destination == host).Select(one => one.Connection)];

    public void Register(Connection connection, Departure departure) => _departures[connection] = departure;

    /// <summary>A transfer begins: from here to its end the hosts do what the model of the hand-over may do.</summary>
    public void Conform(string migration, string source) => _conformance = new Conformance(
        this, migration, _hosts[source], _hosts[Other(source)]);

    public void Register(Connection connection, Arrival arrival) => _arrivals[connection] = arrival;

    public Departure? DepartureOf(Connection connection) => _departures.GetValueOrDefault(connection);

    public Arrival? ArrivalOf(Connection connection) => _arrivals.GetValueOrDefault(connection);

    /// <summary>A call of one daemon at the other: asked once, answered once, or not in time.</summary>
    public void Call<T>(
        SimulatedDaemon caller, TimeSpan deadline, Action<SimulatedDaemon, Action<T?>> handle, Action<T?> result)
        where T : class
    {
        bool isOver = false;
        void End(T? answer) => caller.Post(TimeSpan.Zero, () =>
        {
            if (!isOver)
            {
                isOver = true;
                result(answer);
            }
        });

        caller.Post(deadline, () => End(null));
        string there = Other(caller.Host);
        void Back(T? answer)
        {
            // Lost on its way is as good as never given.
            if (Link.Passes(there))
            {
                Time.After(Link.Latency, () => End(answer));
            }
        }

        if (!Link.Passes(caller.Host))
        {
            return;
        }

        Time.After(Link.Latency, () =>
        {
            SimulatedHost host = _hosts[there];
            if (host.Daemon is { IsAlive: true } callee)
            {
                callee.Post(TimeSpan.Zero, () => handle(callee, Back));
            }
            else if (host.HasPower)
            {
                Back(null);
            }
        });
    }

    // The course of a seed.

    /// <summary>An operator has decided: the model has none.</summary>
    public void Overruled() => _conformance = null;

    /// <summary>A move has ended, in whatever way.</summary>
    public void MoveEnded(string migration, string outcome, string? guestRunsOn)
    {
        _conformance?.Observe();
        _conformance = null;
        Note($"{migration} ended: {outcome}");
        Report.Count(outcome);
        if (guestRunsOn is not null && !_mayBeDead && !_operatorErred
            && (_running.Count != 1 || _running.Single().Host != guestRunsOn))
        {
            Violate($"{migration} says that the guest runs on {guestRunsOn}; {Describe()}");
        }
    }

    /// <summary>An operator, who can walk over and look, is told that a move is unsettled.</summary>
    public void Unsettled(SimulatedDaemon daemon, string migration)
    {
        Report.Count("unsettled");
        if (!Plan.Has(Fault.Operator))
        {
            return;
        }

        Time.After(Time.Between(500, 20_000), () =>
        {
            SimulatedHost there = _hosts[Other(daemon.Host)];
            if (there.Qemu is { Runs: true })
            {
                // Now and then one errs. Two copies run then, until the fence gets through.
                if (Time.Happens(0.2))
                {
                    _operatorErred |= daemon.Decide(migration, daemon.Host, resumesCopy: false);
                }
                else
                {
                    daemon.Decide(migration, there.Name, resumesCopy: false);
                }
            }
            else if (!there.HasPower)
            {
                daemon.Decide(migration, daemon.Host, resumesCopy: !_hasRun.Contains(migration));
            }
        });
    }

    public void Strike(Fault fault)
    {
        if (_healing)
        {
            return;
        }

        Note($"fault: {fault}");
        Report.Faults++;
        (string source, string destination) = Time.Happens(0.5) || Mover() is not { } mover
            ? ("a", "b") : (mover, Other(mover));
        switch (fault)
        {
            case Fault.KillSourceDaemon:
                KillDaemon(source);
                break;
            case Fault.KillDestinationDaemon:
                KillDaemon(destination);
                break;
            case Fault.KillBothDaemons:
                KillDaemon(source);
                KillDaemon(destination);
                break;
            case Fault.KillSourceQemu:
                KillQemu(source);
                break;
            case Fault.KillDestinationQemu:
                KillQemu(destination);
                break;
            case Fault.PowerOffSource:
                PowerOff(source);
                break;
            case Fault.PowerOffDestination:
                PowerOff(destination);
                break;
            case Fault.StopDaemon:
                _hosts[Time.Happens(0.5) ? source : destination].Daemon?.StopFor(Time.Between(10, 40_000));
                break;
            case Fault.CutLink:
                Link.Cut(Time.Between(10, 3_000));
                break;
            case Fault.CutLinkForLong:
                Link.Cut(Time.Between(3_000, 90_000));
                break;
            case Fault.SilenceOneWay:
                Link.Silence(Time.Happens(0.5) ? source : destination, Time.Between(10, 40_000));
                break;
            case Fault.ResetConnection:
                ConnectionsOf(source).ForEach(connection => connection.Reset());
                break;
            case Fault.FullDisk:
                Disk full = _hosts[Time.Happens(0.5) ? source : destination].Disk;
                full.IsFull = true;
                Time.After(Time.Between(10, 30_000), () => full.IsFull = false);
                break;
            case Fault.SlowDisk:
                Disk slow = _hosts[Time.Happens(0.5) ? source : destination].Disk;
                slow.FlushTime = Time.Between(100, 20_000);
                Time.After(Time.Between(10, 30_000), () => slow.FlushTime = TimeSpan.FromMilliseconds(1));
                break;
            case Fault.TornWrite:
                _hosts[Time.Happens(0.5) ? source : destination].Disk.TearsNextWrite = true;
                break;
            case Fault.CrashInWrite:
                _hosts[Time.Happens(0.5) ? source : destination].Disk.CrashesInNextWrite = true;
                break;
            case Fault.ClockJump:
                _hosts[Time.Happens(0.5) ? source : destination].ClockOffset += Time.Between(10, 3_600_000);
                break;
            case Fault.Cancel:
                _hosts[source].Daemon?.Cancel();
                break;
            case Fault.RefuseResume:
                Plan.ResumeRefused = true;
                Time.After(Time.Between(10, 5_000), () => Plan.ResumeRefused = false);
                break;
        }
    }

    private bool IsQuiet => _healing && _hosts.Values.All(host => host.Daemon is { IsAlive: true, IsIdle: true });

    private void Boot()
    {
        SimulatedHost a = _hosts["a"];
        a.Disk.TryStore(new GuestOwnership("a", 1, GuestIntent.Running), null);
        a.Qemu = new ModelQemu(this, "a", Guest, incoming: false);
        a.Qemu.Boot();
        foreach (SimulatedHost host in _hosts.Values)
        {
            host.StartDaemon();
        }

        Time.After(Time.Between(0, 50), NextMove);
    }

    // Somebody wants the guest on the other host, and tries until it goes, or has gone wrong often enough.
    private void NextMove()
    {
        if (_healing)
        {
            return;
        }

        if (_hosts.Values.FirstOrDefault(host => host.Daemon is { MayMove: true })?.Daemon is { } owner)
        {
            if (_movesLeft-- == 0)
            {
                Heal();
                return;
            }

            owner.StartMove();
            for (int i = 0; i < Plan.FaultsPerMove; i++)
            {
                Fault[] enabled = [.. Plan.Enabled.Where(fault => fault != Fault.Operator)];
                if (enabled.Length > 0)
                {
                    Fault fault = enabled[Time.Chance.Next(enabled.Length)];
                    Time.After(Time.Between(0, 2 * ExpectedMilliseconds()), () => Strike(fault));
                }
            }
        }
        else if (_mayBeDead && _running.Count == 0 && _hosts.Values.All(host => host.Daemon is { IsIdle: true }))
        {
            Heal();
            return;
        }

        Time.After(Time.Between(10, 1_000), NextMove);
    }

    private double ExpectedMilliseconds() =>
        300 + (20 * Plan.Latency.TotalMilliseconds) + ((Plan.Pages + Plan.RomPages) * 4.1e6 / Plan.BytesPerSecond);

    private string? Mover() => _hosts.Values.FirstOrDefault(host => host.Daemon is { IsMoving: true })?.Name;

    public void KillDaemon(string name)
    {
        Note($"{name}: daemon dies");
        _hosts[name].KillDaemon();
        ReadBack(name);
        if (!_healing)
        {
            Time.After(Time.Happens(0.2) ? Time.Between(5_000, 60_000) : Time.Between(50, 3_000),
                _hosts[name].StartDaemon);
        }
        else
        {
            Time.After(Time.Between(50, 500), _hosts[name].StartDaemon);
        }
    }

    // What a restart will find, a record that was being written among it.
    private void ReadBack(string name)
    {
        try
        {
            CheckAcknowledged(name, HandOverJournal.Open(_hosts[name].Disk.Copy(), Guid.Empty));
        }
        catch (GodwitException e)
        {
            Violate($"{name}: {e.Message}");
        }
    }

    private void KillQemu(string name)
    {
        if (_hosts[name].Qemu is { IsAlive: true } qemu)
        {
            NoteKilled(name, qemu);
            qemu.Kill();
            if (_hosts[name].Daemon is { IsAlive: true } daemon)
            {
                daemon.Post(Time.Between(1, 20), daemon.NoticeDeath);
            }
        }
    }

    private void PowerOff(string name)
    {
        if (_hosts[name].HasPower)
        {
            if (_hosts[name].Qemu is { IsAlive: true } qemu)
            {
                NoteKilled(name, qemu);
            }

            _hosts[name].PowerOff();
            ReadBack(name);
            Time.After(Time.Between(500, 90_000), _hosts[name].PowerOn);
        }
    }

    // The guest dies with the copy that holds it. One that never was handed over is nobody's only one.
    private void NoteKilled(string name, ModelQemu qemu) =>
        _mayBeDead |= !qemu.IsIncoming || _hosts[name].Daemon is not { } daemon
        || daemon.StateOf(qemu.Migration) is not null
        // The daemon may be about to record that it runs it, and die behind the record.
        || qemu.HasLoaded;

    private void Heal()
    {
        Note("everything heals");
        _healing = true;
        Link.MendAll();
        foreach (SimulatedHost host in _hosts.Values)
        {
            host.Disk.IsFull = host.Disk.TearsNextWrite = host.Disk.CrashesInNextWrite = false;
            host.Disk.FlushTime = TimeSpan.FromMilliseconds(1);
            host.PowerOn();
            host.StartDaemon();
            host.Daemon?.StopFor(TimeSpan.Zero);
        }

        Plan.ResumeRefused = false;
    }

    private void Check()
    {
        _conformance?.Observe();
        foreach (ModelQemu qemu in _running)
        {
            CheckAgrees(qemu);
        }
    }

    private void CheckQuiet()
    {
        if (Violation is not null)
        {
            return;
        }

        string[] owners = [.. _hosts.Values.Where(host => host.Daemon!.Owns).Select(host => host.Name)];
        if (owners.Length != 1)
        {
            Violate($"{owners.Length} hosts would start the guest: {Describe()}");
        }
        else if (_running.Count > 1)
        {
            Violate($"the guest runs on both hosts: {Describe()}");
        }
        else if (_running.Count == 1 && _running.Single().Host != owners[0])
        {
            Violate($"the guest does not run where it belongs: {Describe()}");
        }
        else if (_running.Count == 0 && !_mayBeDead)
        {
            Violate($"the guest runs nowhere: {Describe()}");
        }
        else if (_hosts.Values.Any(host => host.Qemu is { IsAlive: true, Runs: false }))
        {
            Violate($"a copy is left over: {Describe()}");
        }

        Report.Count(_running.Count == 1 ? "guest runs" : "guest died");
    }

    // What the hosts know has to be what their disks know.
    private void RestartBoth()
    {
        if (Violation is not null)
        {
            return;
        }

        string before = Place();
        _hosts.Values.ToList().ForEach(host => KillDaemon(host.Name));
        TimeSpan deadline = Time.Now + HealedWithin;
        do
        {
            Time.Step();
        }
        while (Violation is null && !IsQuiet && Time.Now < deadline);

        if (Violation is null && !IsQuiet)
        {
            Violate($"after a restart it does not come to rest: {Describe()}");
        }
        else if (Place() != before)
        {
            Violate($"a restart changes it from {before} to {Place()}");
        }
    }

    // A host that does not own the guest may forget who does: its disk may have been full when it learned that.
    private string Place() => string.Join(", ", _hosts.Values.Select(
        host => $"{host.Name}: copy {host.Qemu?.Copy ?? GuestCopy.Gone}"
            + (host.Daemon is { Owns: true } owner ? $", {owner.Describe()}" : "")));

    private string Describe()
    {
        var text = new StringBuilder();
        foreach (SimulatedHost host in _hosts.Values)
        {
            text.Append(text.Length > 0 ? "; " : "").Append(host.Name).Append(": copy ")
                .Append(host.Qemu?.Copy ?? GuestCopy.Gone).Append(", ")
                .Append(host.Daemon is { IsAlive: true } daemon ? daemon.Describe() : "daemon down");
        }

        return text.ToString();
    }
}

/// <summary>What a lane has for itself in the daemon.</summary>
internal sealed class Buffers
{
    [ThreadStatic]
    private static Buffers? _ofThisThread;

    private readonly Dictionary<int, Stack<byte[]>> _free = [];
    private readonly List<byte[]> _rented = [];

    public static Buffers OfThisThread => _ofThisThread ??= new Buffers();

    public PageBatchBuilder Batch { get; } = new();

    public byte[] Frame { get; } = new byte[PageBatch.EncodedBytesMax];

    public byte[] Scratch { get; } = new byte[PageBatch.RawBytesMax];

    public ArrayBufferWriter<byte> Section { get; } = new(1 << 20);

    /// <summary>Guest memory, all zero: allocating it anew took most of the time of a seed.</summary>
    public byte[] Rent(int length)
    {
        byte[] memory;
        if (_free.TryGetValue(length, out Stack<byte[]>? free) && free.TryPop(out byte[]? used))
        {
            memory = used;
            Array.Clear(memory);
        }
        else
        {
            memory = new byte[length];
        }

        _rented.Add(memory);
        return memory;
    }

    /// <summary>The seed is over: what it has rented is free again.</summary>
    public void ReturnAll()
    {
        foreach (byte[] memory in _rented)
        {
            if (!_free.TryGetValue(memory.Length, out Stack<byte[]>? free))
            {
                _free[memory.Length] = free = [];
            }

            free.Push(memory);
        }

        _rented.Clear();
    }
}

/// <summary>What happened in a seed, to see that the seeds meet what they are made for.</summary>
internal sealed class SeedReport
{
    public Dictionary<string, int> Counts { get; } = [];

    public int Faults { get; set; }

    public long Steps { get; set; }

    public void Count(string what) => Counts[what] = Counts.GetValueOrDefault(what) + 1;
}
