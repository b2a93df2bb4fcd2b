using System.Buffers;
using System.Diagnostics;
using System.Net.Sockets;
using System.Text.Json.Nodes;
using System.Threading.Channels;
using Godwit.GuestStreams.Qemu;
using Godwit.Host.Inventory;
using Godwit.Host.Qemu;
using Godwit.Migration;
using Godwit.Migration.Wire;
using Godwit.Pages;
using Microsoft.Extensions.Logging;

namespace Godwit.Host.Transfers;

/// <summary>What a destination does around the instant of the resume.</summary>
/// <param name="RecordResuming">Records durably that the guest may run here from now on.</param>
/// <param name="RecordRefusal">Records durably that it did not run after all.</param>
/// <param name="Arrive">
/// The guest runs: announces it, and gives how long that took to begin. Of one that is taken up nobody knows that: this
/// ends when it has been found running. Until then the source keeps its copy, also where no page is missing.
/// </param>
public sealed record ArrivalSteps(Func<Task> RecordResuming, Func<Task> RecordRefusal, Func<Task<TimeSpan>> Arrive);

/// <summary>Runs one incoming migration into a QEMU that waits with <c>-incoming defer -S</c>.</summary>
/// <remarks>
/// Each page lane has a thread that writes pages straight into the guest's memory file, or as records into QEMU's
/// stream for blocks without one. Until the source's commit the guest stands still, whatever happens.
/// </remarks>
/// <param name="machine">The QEMU; null for one that is taken up, which is spoken to by its stream alone.</param>
/// <param name="arrived">Takes note of what the guest comes with; the caller keeps it if the guest runs here.</param>
/// <param name="held">What is taken up of an arrival whose daemon died.</param>
public sealed partial class DestinationTransfer(
    QemuMachine? machine, TransferTerms terms, string runtimeDirectory,
    ArrivalSteps handOver, GuestInventory? inventory, ILogger logger, ArrivedMemory? arrived = null,
    HeldGuest? held = null)
{
    private const int TickMilliseconds = 4;

    private readonly object _gate = new();
    private readonly object _streamGate = new();
    private readonly long _started = Stopwatch.GetTimestamp();
    private readonly Channel<Effect> _effects = Channel.CreateUnbounded<Effect>(new() { SingleReader = true });
    private Lane?[] _lanes = new Lane?[terms.AllLanes + 1];
    private readonly List<Thread> _threads = [];
    private readonly List<Thread> _laneThreads = [];
    private readonly TaskCompletionSource _attached = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly DestinationEngine _engine = held is not null
        ? DestinationEngine.Resume(
            terms.Guest, terms.From, terms.AllLanes, held.Stream.Head, held.Missing, TimeSpan.Zero)
        : new DestinationEngine(
            terms.Guest, terms.From, terms.AllLanes, TimeSpan.Zero, terms.Postcopy ? machine!.Holds : null);
    private TransferTerms? _rejoined;
    private readonly ArrayBufferWriter<byte> _streamBuffer = new();
    private IReadOnlyList<GuestMemory> _memory = [];
    private RamBlock[] _blocks = [];
    private GuestMemory?[] _memoryOf = [];
    private QemuStreamWriter? _stream;
    private QemuStreamWriter? _opening;
    private readonly TaskCompletionSource _resumed = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private Socket? _qemu;
    private TimeSpan _cpuAtStart;
    private bool _begun;

    /// <summary>What was agreed; with another ticket after the source has come back.</summary>
    public TransferTerms Terms => _rejoined ?? terms;

    /// <summary>True once a lane of the source has presented the ticket.</summary>
    public bool HasLane
    {
        get
        {
            lock (_gate)
            {
                return _lanes.Any(lane => lane is not null);
            }
        }
    }

    /// <summary>Ends with the transfer, however it does.</summary>
    public Task Ended => _ended.Task;

    /// <summary>The newest state; safe from any thread.</summary>
    public MigrationSnapshot Snapshot
    {
        get
        {
            lock (_gate)
            {
                return _engine.Snapshot(Now);
            }
        }
    }

    private TimeSpan Now => Stopwatch.GetElapsedTime(_started);

    /// <summary>
    /// Completed: the guest runs here. Otherwise it never will and the caller ends the QEMU. Lanes reach this transfer
    /// through <see cref="LaneListener.Expect"/>.
    /// </summary>
    public async Task<MigrationSnapshot> RunAsync(CancellationToken shutdown)
    {
        _cpuAtStart = Environment.CpuUsage.TotalTime;
        using CancellationTokenRegistration stop = shutdown.Register(() => Abandon($"{terms.To} is shutting down."));
        if (machine is not null)
        {
            machine.EventReceived += OnQemuEvent;
        }

        _ = (machine?.Exited ?? held!.Process.Exited).ContinueWith(
            _ => Enter(now => _engine.QemuFailed("The destination's QEMU has ended.", now)), TaskScheduler.Default);
        Task effects = Task.CompletedTask;
        using var ticker = new Timer(_ => Enter(now => _engine.Tick(now)), null, TickMilliseconds, TickMilliseconds);
        try
        {
            try
            {
                if (held is not null)
                {
                    TakeUp(held);
                }
                else
                {
                    await StartQemuAsync(shutdown);
                }
            }
            finally
            {
                // Not before: the prologue may have come over the lanes already, and needs QEMU's socket.
                effects = PerformEffectsAsync();
            }

            // It may end before every lane has come: abandoned, QEMU gone, or a source that gave up half-way.
            await Task.WhenAny(_attached.Task, _ended.Task);
            await _ended.Task;
        }
        catch (Exception e) when (e is QmpException or GodwitException or IOException or SocketException
            or OperationCanceledException)
        {
            Enter(now => _engine.QemuFailed(e.Message, now));
            await _ended.Task;
        }
        finally
        {
            if (machine is not null)
            {
                machine.EventReceived -= OnQemuEvent;
            }

            _effects.Writer.TryComplete();
            await effects;
            await Task.Run(TearDown, CancellationToken.None);
        }

        return Snapshot;
    }

    /// <summary>Ends a transfer that was never committed; idempotent.</summary>
    /// <returns>False if the guest has been committed to this host.</returns>
    public bool Abandon(string reason)
    {
        lock (_gate)
        {
            bool abandoned = _engine.Abandon(reason, Now);
            Pump();
            _attached.TrySetResult();
            return abandoned;
        }
    }

    /// <summary>
    /// The source has lost the lanes and says in another way that it has recorded its commit: a guest that is loaded is
    /// run here, and a transfer that has not come so far ends.
    /// </summary>
    public void Commit()
    {
        lock (_gate)
        {
            _engine.CommitTold(Now);
            Pump();
            _attached.TrySetResult();
        }
    }

    /// <summary>Takes a lane that presented this transfer's ticket.</summary>
    /// <returns>Null, or why it is refused.</returns>
    internal string? TryAttach(Lane lane, int version)
    {
        lock (_gate)
        {
            if (lane.PeerHost != terms.From)
            {
                return $"the ticket was given to host '{terms.From}', not to '{lane.PeerHost}'";
            }

            if (version != terms.WireVersion)
            {
                return $"version {terms.WireVersion} was agreed, not {version}";
            }

            if (lane.Number >= _lanes.Length || _lanes[lane.Number] is not null)
            {
                return $"lane {lane.Number} is not free: {terms.AllLanes} page lanes were agreed, each once";
            }

            if (_engine.Phase == MigrationPhase.Ended)
            {
                return "the transfer has ended";
            }

            _lanes[lane.Number] = lane;
        }

        lane.Answer(null);
        lock (_gate)
        {
            if (!_begun && _lanes.All(l => l is not null))
            {
                _begun = true;
                _attached.TrySetResult();
                StartLaneThreads();
            }
        }

        return null;
    }

    private void StartLaneThreads()
    {
        Lane[] lanes = [.. _lanes.Select(lane => lane!)];
        StartLaneThread("control", () => ReadControl(lanes[0]));
        if (_engine.IsDetached)
        {
            _engine.Rejoined(Now);
            Pump();
        }
        else if (terms.WireVersion >= WireVersions.Inventory)
        {
            StartThread("inventory", () => Guarded("inventory", OfferInventory));
        }

        foreach (Lane pages in lanes.Skip(1))
        {
            StartLaneThread($"lane {pages.Number}", () => ReadPages(pages));
        }
    }

    private async Task StartQemuAsync(CancellationToken cancellationToken)
    {
        _memory = machine!.OpenMemory();
        var capabilities = new JsonArray(
            new JsonObject { ["capability"] = "events", ["state"] = true },
            new JsonObject { ["capability"] = "postcopy-ram", ["state"] = terms.Postcopy },
            // The disks are taken at the resume, after the commit, not when the device state has been loaded.
            new JsonObject { ["capability"] = "late-block-activate", ["state"] = true });
        await machine!.ExecuteAsync(
            "migrate-set-capabilities", new JsonObject { ["capabilities"] = capabilities }, cancellationToken);
        string path = Path.Combine(runtimeDirectory, $"in-{terms.MigrationId}.sock");
        File.Delete(path);
        await machine!.ExecuteAsync("migrate-incoming", new JsonObject { ["uri"] = $"unix:{path}" }, cancellationToken);
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        await socket.ConnectAsync(new UnixDomainSocketEndPoint(path), cancellationToken);
        _qemu = socket;
        File.Delete(path);
        if (terms.Postcopy)
        {
            await HoldStreamAsync(socket, cancellationToken);
        }

        StartThread("return path", ReadReturnPath);
    }

    private void OnQemuEvent(QmpEvent e)
    {
        if (e.Name == "RESUME")
        {
            _resumed.TrySetResult();
        }

        if (e.Name == "MIGRATION" && (string?)e.Data?["status"] == "failed")
        {
            Enter(now => _engine.QemuFailed("The destination's QEMU could not load the guest.", now));
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

    private void Pump()
    {
        while (_engine.TryTakeEffect(out Effect effect))
        {
            _effects.Writer.TryWrite(effect);
        }

        Monitor.PulseAll(_gate);
    }

    private void StartThread(string name, Action body) => StartThread(_threads, name, body);

    private void StartLaneThread(string name, Action body) => StartThread(_laneThreads, name, body);

    private void StartThread(List<Thread> threads, string name, Action body)
    {
        var thread = new Thread(() => body()) { Name = $"{terms.MigrationId} {name}", IsBackground = true };
        lock (threads)
        {
            threads.Add(thread);
        }

        thread.Start();
    }

    private static void Join(List<Thread> threads)
    {
        Thread[] all;
        lock (threads)
        {
            all = [.. threads];
            threads.Clear();
        }

        Array.ForEach(all, thread => thread.Join());
    }

    private void TearDown()
    {
        foreach (Lane? lane in _lanes)
        {
            lane?.Close();
        }

        _qemu?.Dispose();
        Join(_threads);
        Join(_laneThreads);
        foreach (Lane? lane in _lanes)
        {
            lane?.Dispose();
        }

        foreach (GuestMemory memory in _memory)
        {
            memory.Dispose();
        }

        inventory?.Dispose();
        held?.Process.Dispose();
        if (terms.Postcopy)
        {
            HeldStream.Forget(runtimeDirectory);
        }
    }

    [LoggerMessage(3201, LogLevel.Information, "{Guest} runs here; resume took {Milliseconds:0.0} ms")]
    private partial void LogRunning(string guest, double milliseconds);

    [LoggerMessage(3202, LogLevel.Warning, "{Guest}: effect {Effect} failed: {Reason}")]
    private partial void LogEffectFailed(string guest, string effect, string reason);
}
