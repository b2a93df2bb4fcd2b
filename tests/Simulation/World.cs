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
internal sealed partial class World
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

    public void MayBeDead() => _mayBeDead = true;

    public static string Other(string host) => host == "a" ? "b" : "a";

    public bool CrashesNow() => !_healing && Time.Happens(Plan.CrashAtEffect);

    public string NextMigration() => $"m{++_migrations}";

    // Who talks to whom.

    public Connection Connect(string source, string destination)
    {
        // The last lane of a move that may turn to postcopy is for pages that somebody waits for.
        var connection = new Connection(
            Time, Link, source, destination, Plan.Lanes + (Plan.Postcopy ? 1 : 0));
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

    /// <summary>An operator is told that a guest lacks memory for good: it is ended where it stands.</summary>
    public void RestLost(string host)
    {
        Report.Count("rest lost");
        Time.After(Time.Between(500, 5_000), () =>
        {
            if (_hosts[host].Qemu is { IsAlive: true, IsIncoming: false } qemu && qemu.Lacks > 0)
            {
                Note($"{host}: an operator ends a guest that lacks memory");
                qemu.Kill();
            }
        });
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

            owner.Post(TimeSpan.Zero, () =>
            {
                // Asked a second time while it stood still, it has begun already.
                if (owner.MayMove)
                {
                    owner.StartMove();
                }
            });
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
}
