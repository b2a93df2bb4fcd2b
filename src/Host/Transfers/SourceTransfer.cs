using System.Buffers;
using System.Diagnostics;
using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text.Json.Nodes;
using System.Threading.Channels;
using Godwit.GuestStreams.Qemu;
using Godwit.Host.Inventory;
using Godwit.Host.Qemu;
using Godwit.Migration;
using Godwit.Migration.Convergence;
using Godwit.Migration.Wire;
using Godwit.Pages;
using Microsoft.Extensions.Logging;

namespace Godwit.Host.Transfers;

/// <summary>What a source does around the commit.</summary>
/// <param name="RecordCommit">Records durably that the destination may run the guest.</param>
/// <param name="RecordReclaim">Records durably that a commit of which nobody was told is void.</param>
public sealed record DepartureSteps(Func<Task> RecordCommit, Func<Task> RecordReclaim);

/// <summary>Runs one outgoing migration: QEMU's stream in, pages and control messages out.</summary>
/// <remarks>
/// Returns with the guest either running at the destination (<see cref="MigrationOutcome.Completed"/>; the source's
/// QEMU is then in postmigrate and the caller ends it), or running here, or unsettled: then QEMU keeps the paused guest
/// until the caller has learned who may run it. Threads: one reads QEMU's
/// stream, one serves each page lane, one reads the control lane; an asynchronous loop performs effects and ticks. All
/// of them enter the engine under one lock and never do I/O while they hold it.
/// </remarks>
/// <param name="arrived">What the guest came with from that destination, if that is where it goes back to.</param>
public sealed partial class SourceTransfer(
    QemuMachine machine, TransferTerms terms, IPEndPoint destination, SslClientAuthenticationOptions tls,
    string runtimeDirectory, DepartureSteps handOver, ILogger logger, SwitchoverTurns? turns = null,
    ArrivedMemory? arrived = null)
{
    private const int TickMilliseconds = 10;
    private static readonly TimeSpan ThrottleLookEvery = TimeSpan.FromSeconds(1);
    private const int ReportMilliseconds = 250;
    private const int FeedBufferBytes = 256 << 10;
    private const int FreshSections = 2;
    private static readonly TimeSpan FeedPatience = TimeSpan.FromMilliseconds(20);
    private static readonly Version SwitchoverBandwidthSince = new(8, 2);
    // Comparing a page takes a hash of it, at the speed of memory.
    private const double MemoryCheckBytesPerSecond = 2.5e9;

    private readonly object _gate = new();
    private readonly long _started = Stopwatch.GetTimestamp();
    private readonly Channel<Effect> _effects = Channel.CreateUnbounded<Effect>(new() { SingleReader = true });
    private Lane[] _lanes = [];
    private readonly List<Thread> _threads = [];
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private IReadOnlyList<GuestMemory> _memory = [];
    // By block name.
    private Dictionary<string, PageFingerprints> _sent = [];
    private SourceEngine _engine = null!;
    private Socket? _qemu;
    private MigrationPhase _reportedPhase;
    private TimeSpan _cpuAtStart;
    private TimeSpan _qemuDowntime;
    private volatile bool _migrating;
    private bool _held;
    private IDisposable? _turn;
    private long? _bandwidth;
    private Migration.Convergence.Forecast? _expected;
    private int _watchesThrottle;
    private long _givenUpAt;

    /// <summary>The newest state; safe from any thread.</summary>
    public MigrationSnapshot Snapshot { get; private set; } = new();

    /// <summary>Raised on a change of phase or round and about four times a second; handlers must not block.</summary>
    public event Action<MigrationSnapshot>? Changed;

    private TimeSpan Now => Stopwatch.GetElapsedTime(_started);

    /// <summary>Asks for an end before the commit; false if the commit has been made already.</summary>
    public bool Cancel()
    {
        lock (_gate)
        {
            bool cancelled = _engine is not null && _engine.Cancel(Now);
            Pump();
            return cancelled;
        }
    }

    /// <summary>Changes the cap on all lanes together, in bits per second; 0 for none.</summary>
    public void SetBandwidth(long bitsPerSecond) => Enter(now =>
    {
        _bandwidth = bitsPerSecond;
        _engine?.SetBandwidth(bitsPerSecond, now);
    });

    // The next daemon brings what is missing: nothing is lost by not waiting for it.
    private void Leave()
    {
        if (!Cancel())
        {
            Enter(now => _engine.Leave(now));
        }
    }

    /// <summary>What was expected of the move: method auto begins by it.</summary>
    public void Expect(Migration.Convergence.Forecast forecast)
    {
        lock (_gate)
        {
            _expected = forecast;
            _engine?.Expect(forecast, Now);
        }
    }

    /// <summary>Changes the pause budget.</summary>
    /// <returns>False if the guest is paused already.</returns>
    public bool SetDowntimeMax(TimeSpan most) => Ask(now => _engine.SetDowntimeMax(most, now));

    /// <summary>Stops sending, or goes on.</summary>
    /// <returns>False if it is too late.</returns>
    public bool Suspend(bool suspended) => Ask(now => _engine.Suspend(suspended, now));

    private bool Ask(Func<TimeSpan, bool> change)
    {
        lock (_gate)
        {
            bool done = _engine is not null && change(Now);
            Pump();
            return done;
        }
    }

    /// <summary>Runs to the end; failures are outcomes, not exceptions.</summary>
    public async Task<MigrationSnapshot> RunAsync(CancellationToken shutdown)
    {
        OpenMemory();
        bool missesWrites = QemuInstallation.MissesWrites(machine.Version, machine.Contract.Accelerator);
        _engine = new SourceEngine(
            Options() with
            {
                HoldsSwitchover = QemuInstallation.HoldsSwitchover(machine.Version),
                IsShared = block => _memory.Any(m => m.Name == block.Name && m.Length == block.Length),
                MemoryCheck = missesWrites
                    ? TimeSpan.FromSeconds(_memory.Sum(m => m.Length) / MemoryCheckBytesPerSecond) : null,
                OffersMax = OffersMax(),
                AsksForTurn = turns is not null,
            },
            Now);
        return await RunAsync(StartAsync, shutdown);
    }

    private void OpenMemory()
    {
        _cpuAtStart = Environment.CpuUsage.TotalTime;
        _memory = machine.OpenMemory();
        long seed = BitConverter.ToInt64(RandomNumberGenerator.GetBytes(sizeof(long)));
        _sent = _memory.ToDictionary(m => m.Name, m => new PageFingerprints(m.Length / Page.Size, seed));
    }

    private SourceEngineOptions Options() => new()
    {
        Guest = terms.Guest,
        From = terms.From,
        To = terms.To,
        Policy = terms.Policy,
        Lanes = terms.Lanes,
        WireVersion = terms.WireVersion,
        Postcopy = terms.Postcopy,
        HoldsSwitchover = true,
        IsShared = _ => true,
    };

    /// <summary>
    /// Brings the rest of its memory to a guest that runs at the destination already: Completed when it has all,
    /// Unsettled when the link broke again.
    /// </summary>
    public Task<MigrationSnapshot> ServeRestAsync(CancellationToken shutdown)
    {
        OpenMemory();
        RamBlock[] blocks = [.. _memory.Select((m, i) => new RamBlock(i, m.Name, m.Length))];
        _engine = SourceEngine.Resume(Options(), blocks, Now);
        return RunAsync(ConnectAsync, shutdown);
    }

    private async Task<MigrationSnapshot> RunAsync(
        Func<CancellationToken, Task> start, CancellationToken shutdown)
    {
        using CancellationTokenRegistration stop = shutdown.Register(Leave);
        machine.EventReceived += OnQemuEvent;
        _ = machine.Exited.ContinueWith(
            _ => Enter(now => _engine.QemuFailed("The source's QEMU has ended.", now)), TaskScheduler.Default);
        lock (_gate)
        {
            // Of what the host's moves may take together, this one's part: told before there was an engine.
            if (_expected is not null)
            {
                _engine.Expect(_expected, Now);
            }

            if (_bandwidth is { } bandwidth)
            {
                _engine.SetBandwidth(bandwidth, Now);
            }
        }

        Task effects = PerformEffectsAsync();
        using var ticker = new Timer(_ => Tick(), null, TickMilliseconds, TickMilliseconds);
        try
        {
            await start(shutdown);
            await _ended.Task;
        }
        catch (Exception e) when (e is QmpException or GodwitException or IOException or SocketException
            or OperationCanceledException or TimeoutException or StreamFormatException)
        {
            Enter(now => StartFailed(e, now));
            await _ended.Task;
        }
        finally
        {
            machine.EventReceived -= OnQemuEvent;
            lock (_gate)
            {
                _turn?.Dispose();
            }

            _effects.Writer.TryComplete();
            await effects;
            await Task.Run(TearDown, CancellationToken.None);
        }

        Report(force: true);
        return await GuestIsLostAsync()
            ? End(
                MigrationOutcome.Failed, "guest-lost",
                $"The QEMU of {terms.Guest} on {terms.From} ended during the move, and the guest with it: it runs "
                + $"nowhere. What QEMU said last is in qemu.log under {runtimeDirectory}.")
            : Snapshot;
    }

    // Whatever ended the move, a lane that broke first for example, QEMU may have died with it.
    private async Task<bool> GuestIsLostAsync() =>
        Snapshot.Outcome is not (MigrationOutcome.Completed or MigrationOutcome.Unsettled)
        && await machine.HasDiedAsync();

    private MigrationSnapshot End(MigrationOutcome outcome, string code, string error) =>
        Snapshot with { Outcome = outcome, ErrorCode = code, Error = error };

    private void StartFailed(Exception failure, TimeSpan now)
    {
        switch (failure)
        {
            case StreamFormatException broken:
                _engine.Broken(broken, now);
                break;
            // QEMU's failures have types of their own: this is a lane that could not be opened.
            case IOException:
                _engine.LinkLost(failure.Message, now);
                break;
            default:
                _engine.QemuFailed(failure.Message, now);
                break;
        }
    }

    private async Task ConnectAsync(CancellationToken cancellationToken)
    {
        await ConnectLanesAsync(cancellationToken);
        StartThread("control", ReadControl);
        foreach (Lane lane in _lanes.Skip(1))
        {
            StartThread($"lane {lane.Number}", () => ServeLane(lane));
        }
    }

    private async Task StartAsync(CancellationToken cancellationToken)
    {
        await ConnectAsync(cancellationToken);

        string path = Path.Combine(runtimeDirectory, $"out-{terms.MigrationId}.sock");
        File.Delete(path);
        using var listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint(path));
        listener.Listen(1);
        try
        {
            await ConfigureQemuAsync(cancellationToken);
            if (_ended.Task.IsCompleted)
            {
                return;
            }

            await machine.ExecuteAsync("migrate", new JsonObject { ["uri"] = $"unix:{path}" }, cancellationToken);
            _migrating = true;
            _qemu = await listener.AcceptAsync(cancellationToken).AsTask()
                .WaitAsync(TimeSpan.FromSeconds(10), cancellationToken);
        }
        finally
        {
            File.Delete(path);
        }

        StartThread("feed", ReadFeed);
    }

    // All at once: on a long link each handshake takes several round trips.
    private async Task ConnectLanesAsync(CancellationToken cancellationToken)
    {
        Task<Lane>[] connecting = [.. Enumerable.Range(0, terms.AllLanes + 1).Select(number => Lane.ConnectAsync(
            destination, tls, terms.WireVersion, number, terms.Ticket, cancellationToken))];
        try
        {
            _lanes = await Task.WhenAll(connecting);
        }
        catch
        {
            foreach (Task<Lane> lane in connecting.Where(lane => lane.IsCompletedSuccessfully))
            {
                (await lane).Dispose();
            }

            throw;
        }
    }

    private async Task ConfigureQemuAsync(CancellationToken cancellationToken)
    {
        bool holds = QemuInstallation.HoldsSwitchover(machine.Version);
        var capabilities = new JsonArray();
        void Set(string name, bool state) =>
            capabilities.Add((JsonNode)new JsonObject { ["capability"] = name, ["state"] = state });
        Set("events", true);
        // Without the return path a destination that dies late leaves a source that believes it has completed.
        Set("return-path", true);
        // To this QEMU a postcopy is a precopy whose end nobody hurries to confirm.
        foreach (string off in (string[])["xbzrle", "multifd", "postcopy-ram"])
        {
            Set(off, false);
        }

        bool throttles = holds && terms.Policy.Steps.Any(step => step.Action == LadderAction.Throttle);
        Set("auto-converge", throttles);

        if (holds)
        {
            Set("switchover-ack", true);
        }

        await machine.ExecuteAsync(
            "migrate-set-capabilities", new JsonObject { ["capabilities"] = capabilities }, cancellationToken);
        // QEMU sees only our socket: its own pacing is switched off and ours takes its place.
        var parameters = new JsonObject
        {
            ["max-bandwidth"] = 0,
            ["downtime-limit"] = 1,
            // QEMU has a judgement of its own, which it cannot be told not to follow: of no consequence until the
            // ladder says otherwise, and left so by no earlier move.
            ["throttle-trigger-threshold"] = 100,
            ["cpu-throttle-initial"] = 1,
            ["cpu-throttle-increment"] = 1,
            ["max-cpu-throttle"] = 1,
        };
        if (machine.Version >= SwitchoverBandwidthSince)
        {
            // A fixed figure makes QEMU's threshold a function of the downtime limit alone, whatever we just read.
            parameters["avail-switchover-bandwidth"] = 1_000_000_000;
        }

        await machine.ExecuteAsync("migrate-set-parameters", parameters, cancellationToken);
    }

    private void OnQemuEvent(QmpEvent e)
    {
        switch (e.Name)
        {
            case "STOP":
                Enter(now => _engine.GuestStopped(Stopwatch.GetElapsedTime(_started, e.ReceivedTimestamp), now));
                break;
            case "RESUME" when Interlocked.Exchange(ref _givenUpAt, 0) is not 0 and var givenUpAt:
                LogRunsAgain(
                    terms.Guest, Stopwatch.GetElapsedTime(givenUpAt, e.ReceivedTimestamp).TotalMilliseconds);
                break;
            case "MIGRATION_PASS":
                int pass = (int?)e.Data?["pass"] ?? 0;
                Enter(now => _engine.QemuPass(pass, now));
                break;
            case "MIGRATION":
                string? status = (string?)e.Data?["status"];
                // Until QEMU has answered 'migrate', what it says is about an earlier attempt.
                if (_migrating && status is ("failed" or "cancelled"))
                {
                    Enter(now => _engine.QemuFailed("The source's QEMU ended the migration by itself.", now));
                }

                break;
        }
    }

    private void Enter(Action<TimeSpan> input)
    {
        lock (_gate)
        {
            input(Now);
            Pump();
        }
    }

    // Moves effects out of the engine and wakes whoever waits for a change; called with the lock held.
    private void Pump()
    {
        while (_engine?.TryTakeEffect(out Effect effect) == true)
        {
            if (effect is Effect.AbandonQemu)
            {
                Volatile.Write(ref _givenUpAt, Stopwatch.GetTimestamp());
            }

            _effects.Writer.TryWrite(effect);
        }

        Monitor.PulseAll(_gate);
    }

    private void Tick()
    {
        Enter(now => _engine.Tick(now));
        Report(force: false);
    }

    private TimeSpan _lastReport;

    private void Report(bool force)
    {
        MigrationSnapshot snapshot;
        lock (_gate)
        {
            TimeSpan now = Now;
            bool due = force || _engine.Phase != _reportedPhase
                || now - _lastReport >= TimeSpan.FromMilliseconds(ReportMilliseconds);
            if (!due)
            {
                return;
            }

            snapshot = _engine.Snapshot(now) with
            {
                WireBytes = _lanes.Sum(l => l.NetworkBytesWritten),
                QemuDowntime = _qemuDowntime,
            };
            snapshot = snapshot with
            {
                DaemonCpuTime = snapshot.DaemonCpuTime + (Environment.CpuUsage.TotalTime - _cpuAtStart),
            };
            _lastReport = now;
            _reportedPhase = snapshot.Phase;
            Snapshot = snapshot;
            if (snapshot.Downtime > TimeSpan.Zero)
            {
                // The pause is over, whatever has to follow.
                _turn?.Dispose();
            }
        }

        Changed?.Invoke(snapshot);
    }

    private void StartThread(string name, Action body)
    {
        var thread = new Thread(() => body()) { Name = $"{terms.MigrationId} {name}", IsBackground = true };
        _threads.Add(thread);
        thread.Start();
    }

    private void TearDown()
    {
        foreach (Lane lane in _lanes)
        {
            lane.Close();
        }

        _threads.ForEach(t => t.Join());
        // Closes our end only. A QEMU that holds it too does not notice.
        _qemu?.Dispose();
        foreach (Lane lane in _lanes)
        {
            lane.Dispose();
        }

        foreach (GuestMemory memory in _memory)
        {
            memory.Dispose();
        }
    }

    [LoggerMessage(3101, LogLevel.Information,
        "{Guest}: round {Round}: {Pages} pages, {Bytes} bytes in {Seconds:0.000} s; dirtying {Dirty:0} B/s")]
    private partial void LogRound(string guest, int round, long pages, long bytes, double seconds, double dirty);

    [LoggerMessage(3103, LogLevel.Information,
        "{Guest}: QEMU {Version} misses writes of emulated processors; memory compared in {Milliseconds:0} ms, "
        + "{Pages} pages sent again")]
    private partial void LogMemoryChecked(string guest, Version version, double milliseconds, int pages);

    [LoggerMessage(3104, LogLevel.Information,
        "{Guest}: runs here again {Milliseconds:0.0} ms after the move was given up")]
    private partial void LogRunsAgain(string guest, double milliseconds);

    [LoggerMessage(3102, LogLevel.Warning, "{Guest}: effect {Effect} failed: {Reason}")]
    private partial void LogEffectFailed(string guest, string effect, string reason);
}
