using System.Buffers;
using System.Diagnostics;
using System.Net.Sockets;
using System.Text.Json.Nodes;
using Godwit.GuestStreams.Qemu;
using Godwit.Host.Qemu;
using Godwit.Migration;
using Godwit.Pages;

namespace Godwit.Host.Parcels;

/// <summary>
/// Holds a guest at one instant for a store: its pages while it runs, then its state while it stands still.
/// </summary>
/// <remarks>
/// It is a move that goes nowhere: QEMU migrates into our socket. Whoever holds this decides how it ends: the guest
/// goes on here (<see cref="GoOnAsync"/>), or its QEMU is killed. Disposing of it without either lets the guest go on.
/// One caller at a time; a thread of its own reads QEMU's stream.
/// </remarks>
internal sealed class GuestCapture : IAsyncDisposable
{
    private const int FeedBufferBytes = 256 << 10;
    private const int FreshSections = 2;
    private static readonly Version SwitchoverBandwidthSince = new(8, 2);
    private static readonly TimeSpan FeedPatience = TimeSpan.FromMilliseconds(20);
    private static readonly TimeSpan SilenceMax = TimeSpan.FromSeconds(30);
    private readonly QemuMachine _machine;
    private readonly object _gate = new();
    private readonly Socket _qemu;
    private readonly StateCapture _state;
    private readonly QemuStreamReader _reader;
    private readonly Thread _thread;
    private readonly bool _holds;
    private readonly TaskCompletionSource _stopped = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private Exception? _failure;
    private int _passes;
    private long _stoppedAt;
    private long _resumedAt;
    private bool _wanted = true;
    private bool _held;
    private bool _over;

    private GuestCapture(QemuMachine machine, GuestMemory memory, Socket qemu, bool holds)
    {
        _machine = machine;
        Memory = memory;
        _qemu = qemu;
        _holds = holds;
        _state = new StateCapture(block => block.Name == memory.Name && block.Length == memory.Length);
        _reader = new QemuStreamReader(_state);
        _thread = new Thread(ReadFeed) { Name = $"capture {machine.Contract.Name}", IsBackground = true };
        machine.EventReceived += OnQemuEvent;
    }

    /// <summary>The guest's own memory.</summary>
    public GuestMemory Memory { get; }

    /// <summary>How long the guest stood still; zero as long as it does.</summary>
    public TimeSpan Pause => _stoppedAt != 0 && _resumedAt > _stoppedAt
        ? Stopwatch.GetElapsedTime(_stoppedAt, _resumedAt) : TimeSpan.Zero;

    /// <summary>Begins: from now on QEMU names the pages that the guest writes.</summary>
    /// <param name="memory">Disposed of with the capture.</param>
    /// <exception cref="GodwitException">QEMU refuses, with its own words.</exception>
    public static async Task<GuestCapture> BeginAsync(
        QemuMachine machine, GuestMemory memory, string runtimeDirectory, CancellationToken cancellationToken)
    {
        bool holds = QemuInstallation.HoldsSwitchover(machine.Version)
            && !QemuInstallation.MissesWrites(machine.Version, machine.Contract.Accelerator);
        string path = Path.Combine(runtimeDirectory, "parcel.sock");
        File.Delete(path);
        using var listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint(path));
        listener.Listen(1);
        long stoppedAt = 0;
        Socket? qemu = null;
        try
        {
            cancellationToken.ThrowIfCancellationRequested();
            if (!holds)
            {
                // It cannot be told to wait, or misses writes: what stands still has nothing to miss.
                stoppedAt = Stopwatch.GetTimestamp();
                await machine.ExecuteAsync("stop", null, CancellationToken.None);
            }

            await ConfigureAsync(machine, holds, cancellationToken);
            await machine.ExecuteAsync("migrate", new JsonObject { ["uri"] = $"unix:{path}" }, cancellationToken);
            qemu = await listener.AcceptAsync(cancellationToken).AsTask()
                .WaitAsync(TimeSpan.FromSeconds(10), cancellationToken);
            var capture = new GuestCapture(machine, memory, qemu, holds) { _stoppedAt = stoppedAt };
            capture._thread.Start();
            return capture;
        }
        catch (Exception e)
        {
            // Whatever it was: nobody else knows that the guest stands still, or that QEMU's migration has begun.
            listener.Dispose();
            qemu?.Dispose();
            await machine.GoOnAsync();
            if (e is not (QmpException or SocketException or TimeoutException))
            {
                throw;
            }

            throw new GodwitException("parcel-capture",
                $"QEMU of {machine.Contract.Name} does not give its state: {e.Message}",
                "The guest runs on. What QEMU said last is in its log.", e);
        }
        finally
        {
            File.Delete(path);
        }
    }

    /// <summary>Takes the pages that were named since the last call; the set passed in is emptied first.</summary>
    /// <param name="into">Null in the first call.</param>
    /// <returns>The set, which is the caller's until the next call.</returns>
    public DirtySet TakeDirty(DirtySet? into)
    {
        lock (_gate)
        {
            WaitFor(() => _state.Dirty is not null);
            into ??= new DirtySet(_state.Dirty!.PageCount);
            into.Clear();
            into.Swap(_state.Dirty!);
            return into;
        }
    }

    /// <summary>Reads as far as QEMU has looked at all of memory again.</summary>
    public void CatchUp()
    {
        lock (_gate)
        {
            _wanted = true;
            Monitor.PulseAll(_gate);
            // What lies in the socket now was written before, and so was the section that QEMU is stuck in.
            long wanted = _state.Sections + 1 + FreshSections;
            long quiet = Stopwatch.GetTimestamp();
            long seen = _state.Sections;
            // A QEMU that nothing holds stops its guest when it finds that the rest is small, and says no more then.
            while (_state.Sections < wanted && !_state.RamEnded && !_stopped.Task.IsCompleted)
            {
                Require();
                Monitor.Wait(_gate, 100);
                if (_state.Sections != seen)
                {
                    (seen, quiet) = (_state.Sections, Stopwatch.GetTimestamp());
                }
                else if (Stopwatch.GetElapsedTime(quiet) > SilenceMax)
                {
                    throw Broken("QEMU has said nothing for 30 s");
                }
            }
        }
    }

    /// <summary>Stops reading until <see cref="CatchUp"/>: QEMU would look at its memory over and over.</summary>
    public void Rest()
    {
        lock (_gate)
        {
            _wanted = _state.Dirty is null || !_holds || _over;
        }
    }

    /// <summary>Whether QEMU has looked at all of memory once, and what it named then can be taken.</summary>
    public bool FirstPassOver
    {
        get
        {
            lock (_gate)
            {
                Require();
                return _state.RamEnded || _stopped.Task.IsCompleted
                    || (Volatile.Read(ref _passes) > 1 && _qemu.Available == 0);
            }
        }
    }

    /// <summary>Pages that were named and not taken.</summary>
    public long DirtyCount
    {
        get
        {
            lock (_gate)
            {
                return _state.Dirty?.Count ?? 0;
            }
        }
    }

    /// <summary>
    /// Stops the guest. Its disks stand still and are still open; QEMU lets it go on by itself if this process ends.
    /// </summary>
    public async Task StopGuestAsync(CancellationToken cancellationToken)
    {
        if (_holds)
        {
            await _machine.ExecuteAsync(
                "migrate-set-parameters", new JsonObject { ["downtime-limit"] = 2_000_000 }, cancellationToken);
            Answer(ReturnPathWriter.SwitchoverAck);
        }

        lock (_gate)
        {
            _over = true;
            _wanted = true;
            Monitor.PulseAll(_gate);
        }

        long begun = Stopwatch.GetTimestamp();
        while (!_stopped.Task.IsCompleted)
        {
            lock (_gate)
            {
                Require();
            }

            if (Stopwatch.GetElapsedTime(begun) > SilenceMax * 10)
            {
                throw Broken("QEMU has not stopped the guest within five minutes");
            }

            await Task.WhenAny(_stopped.Task, Task.Delay(100, CancellationToken.None));
        }
    }

    /// <summary>Takes the state of the stopped guest, and closes its disks in QEMU.</summary>
    public async Task TakeStateAsync()
    {
        await _machine.ExecuteAsync(
            "migrate-continue", new JsonObject { ["state"] = "pre-switchover" }, CancellationToken.None);
        await Task.Run(() =>
        {
            lock (_gate)
            {
                WaitFor(() => _state.TailIsWhole);
            }
        }, CancellationToken.None);
    }

    /// <summary>Keeps the guest paused whatever becomes of this process.</summary>
    public async Task HoldAsync()
    {
        await _machine.HoldStreamAsync(_qemu, CancellationToken.None);
        _held = true;
    }

    /// <summary>The stream's head and what follows RAM; complete after <see cref="TakeStateAsync"/>.</summary>
    public (byte[] Head, byte[] Tail) State => _state.State;

    /// <summary>Name and length of the guest's own memory, then the blocks without a file.</summary>
    public IEnumerable<(RamBlock Block, byte[] Content)> Carried => _state.Carried;

    /// <summary>Ends QEMU's migration and lets the guest run here.</summary>
    public async Task GoOnAsync()
    {
        if (_machine.Exited.IsCompleted)
        {
            return;
        }

        try
        {
            if (_held)
            {
                await _machine.ReleaseStreamAsync(CancellationToken.None);
                _held = false;
            }

            // Before any other command: a QEMU that is blocked in its write answers none. It resumes the guest by
            // itself if it had paused it.
            _qemu.Dispose();
            await _machine.GoOnAsync();
        }
        catch (Exception e) when (e is QmpException or GodwitException or IOException)
        {
            // It has ended meanwhile: the watch on its exit tells.
        }
    }

    /// <summary>The guest's QEMU is being killed: nothing is to be let go on.</summary>
    public void Abandon() => _held = true;

    public async ValueTask DisposeAsync()
    {
        lock (_gate)
        {
            _wanted = false;
            _over = true;
            _failure ??= new ObjectDisposedException(nameof(GuestCapture));
            Monitor.PulseAll(_gate);
        }

        _machine.EventReceived -= OnQemuEvent;
        _qemu.Dispose();
        await Task.Run(_thread.Join);
        Memory.Dispose();
    }

    private static async Task ConfigureAsync(QemuMachine machine, bool holds, CancellationToken cancellationToken)
    {
        var capabilities = new JsonArray();
        void Set(string name, bool state) =>
            capabilities.Add((JsonNode)new JsonObject { ["capability"] = name, ["state"] = state });
        Set("events", true);
        // With it QEMU waits for our word at the end, and lets the guest go on if none comes.
        Set("return-path", true);
        // The guest stands still then, and its disks can still be asked for.
        Set("pause-before-switchover", true);
        foreach (string off in (string[])["xbzrle", "multifd", "postcopy-ram", "auto-converge"])
        {
            Set(off, false);
        }

        if (QemuInstallation.HoldsSwitchover(machine.Version))
        {
            Set("switchover-ack", holds);
        }

        await machine.ExecuteAsync(
            "migrate-set-capabilities", new JsonObject { ["capabilities"] = capabilities }, cancellationToken);
        var parameters = new JsonObject { ["max-bandwidth"] = 0, ["downtime-limit"] = holds ? 1 : 2_000_000 };
        if (machine.Version >= SwitchoverBandwidthSince)
        {
            parameters["avail-switchover-bandwidth"] = 1_000_000_000;
        }

        await machine.ExecuteAsync("migrate-set-parameters", parameters, cancellationToken);
    }

    private void ReadFeed()
    {
        byte[] buffer = new byte[FeedBufferBytes];
        try
        {
            while (true)
            {
                lock (_gate)
                {
                    while (!_wanted && _failure is null)
                    {
                        Monitor.Wait(_gate);
                    }

                    if (_failure is not null)
                    {
                        return;
                    }
                }

                // Never blocked in the socket: to wake a reader, .NET would shut the connection down.
                if (!_qemu.Poll(FeedPatience, SelectMode.SelectRead))
                {
                    continue;
                }

                int count = _qemu.Receive(buffer);
                lock (_gate)
                {
                    if (count == 0)
                    {
                        throw new IOException("it ended early");
                    }

                    _reader.Feed(buffer.AsSpan(0, count));
                    while (_state.Pings.TryDequeue(out uint ping))
                    {
                        Answer(writer => ReturnPathWriter.Pong(writer, ping));
                    }

                    Monitor.PulseAll(_gate);
                }
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException or IOException
            or StreamFormatException or GodwitException)
        {
            lock (_gate)
            {
                _failure ??= e;
                Monitor.PulseAll(_gate);
            }
        }
    }

    private void Answer(Action<IBufferWriter<byte>> write)
    {
        var writer = new ArrayBufferWriter<byte>(16);
        write(writer);
        _qemu.Send(writer.WrittenSpan);
    }

    // With the lock held.
    private void WaitFor(Func<bool> condition)
    {
        long begun = Stopwatch.GetTimestamp();
        while (!condition())
        {
            Require();
            Monitor.Wait(_gate, 100);
            if (Stopwatch.GetElapsedTime(begun) > SilenceMax * 10)
            {
                throw Broken("QEMU has not given it within five minutes");
            }
        }
    }

    private void Require()
    {
        if (_failure is GodwitException known)
        {
            throw known;
        }

        if (_failure is { } failure)
        {
            throw Broken(failure.Message);
        }
    }

    private GodwitException Broken(string why) => new("parcel-capture",
        $"The state of {_machine.Contract.Name} could not be taken out of QEMU: {why}.",
        "The guest runs on. What QEMU said last is in its log.");

    private void OnQemuEvent(QmpEvent e)
    {
        switch (e.Name)
        {
            case "STOP":
                Volatile.Write(ref _stoppedAt, e.ReceivedTimestamp);
                break;
            case "MIGRATION":
                if ((string?)e.Data?["status"] == "pre-switchover")
                {
                    _stopped.TrySetResult();
                }

                break;
            case "MIGRATION_PASS":
                Volatile.Write(ref _passes, (int?)e.Data?["pass"] ?? 0);
                break;
            case "RESUME":
                Volatile.Write(ref _resumedAt, e.ReceivedTimestamp);
                break;
        }
    }
}
