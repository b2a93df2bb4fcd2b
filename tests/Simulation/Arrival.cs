using System.Buffers;
using System.Runtime.InteropServices;
using Godwit.GuestStreams.Qemu;
using Godwit.Migration;
using Godwit.Migration.HandOver;
using Godwit.Migration.Postcopy;
using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Simulation;

/// <summary>The shell of a destination engine: what DestinationTransfer does in the daemon, in virtual time.</summary>
internal sealed class Arrival : IQemuListener
{
    private const uint LoadedPing = 3;
    private static readonly TimeSpan Tick = TimeSpan.FromMilliseconds(10);
    private readonly World _world;
    private readonly SimulatedDaemon _daemon;
    private Connection? _connection;
    private readonly DestinationEngine _engine;
    private readonly HandOverRecord _resuming;
    private readonly EffectQueue _effects;
    private readonly Queue<(int Lane, FrameType Type, byte[] Body)> _early = new();
    private readonly ArrayBufferWriter<byte> _streamBuffer = new();
    private readonly Action<Arrival, MigrationSnapshot> _ended;
    private RamBlock[] _blocks = [];
    private QemuStreamWriter? _stream;
    private bool _barrierSeen;
    // In postcopy: what comes behind the pause waits until QEMU listens.
    private readonly HashSet<int> _pausedLanes = [];
    private readonly Queue<(Connection Connection, int Lane, FrameType Type, byte[] Body)> _undelivered = new();
    private bool _delivers;
    private bool _hasJoined = true;

    public Arrival(
        World world, SimulatedDaemon daemon, ModelQemu qemu, Connection connection, HandOverRecord resuming,
        Action<Arrival, MigrationSnapshot> ended)
    {
        (_world, _daemon, Qemu, _resuming, _ended) = (world, daemon, qemu, resuming, ended);
        _engine = new DestinationEngine(
            "web1", resuming.Peer, connection.Pages.Length, daemon.Now,
            world.Plan.Postcopy ? block => block.Index == 0 : null);
        _effects = new EffectQueue(world, daemon, Perform);
        Attend(connection);
        qemu.Listener = this;
        daemon.Post(Tick, TickOn);
    }

    /// <summary>Takes up an earlier daemon's arrival: its guest runs here, or is about to, and lacks memory.</summary>
    public Arrival(
        World world, SimulatedDaemon daemon, ModelQemu qemu, HandOverRecord resuming,
        Action<Arrival, MigrationSnapshot> ended)
    {
        (_world, _daemon, Qemu, _resuming, _ended) = (world, daemon, qemu, resuming, ended);
        var missing = new MissingPages(world.Guest.Blocks, [true, false]);
        for (int page = 0; page < world.Guest.Blocks[0].PageCount; page++)
        {
            if (qemu.IsMissing(0, page) && world.Canary != Canary.MissingForgotten)
            {
                missing.Add(0, new PageNumber(page));
            }
        }

        _engine = DestinationEngine.Resume(
            "web1", resuming.Peer, world.Plan.Lanes + 1, qemu.Head, missing, daemon.Now);
        _effects = new EffectQueue(world, daemon, Perform);
        _blocks = world.Guest.Blocks;
        _stream = new QemuStreamWriter(_streamBuffer, qemu.Head);
        (_delivers, HasHeard) = (true, true);
        qemu.Listener = this;
        qemu.WakeAll();
        daemon.Post(Tick, TickOn);
    }

    private void Attend(Connection connection)
    {
        _connection = connection;
        connection.DestinationLost = why => _daemon.Post(TimeSpan.Zero, () =>
        {
            if (_connection == connection)
            {
                Enter(() => _engine.LinkLost(why, _daemon.Now));
            }
        });
    }

    public ModelQemu Qemu { get; }

    public string Source => _resuming.Peer;

    public string Migration => _resuming.Migration;

    public bool HasEnded { get; private set; }

    public bool HasHeard { get; private set; }

    public bool Abandon(string reason)
    {
        bool abandoned = _engine.Abandon(reason, _daemon.Now);
        Pump();
        return abandoned;
    }

    /// <summary>The source says otherwise than over the lanes that it has recorded its commit.</summary>
    public void Commit()
    {
        _engine.CommitTold(_daemon.Now);
        Pump();
    }

    /// <summary>The guest runs here, or is being run, and lacks pages.</summary>
    public bool IsFetching => _engine.IsFetching;

    /// <summary>One that was taken up has been found running.</summary>
    public void FoundRunning() =>
        Enter(() => _engine.GuestRunning(_daemon.Now, _daemon.Now, TimeSpan.Zero, _daemon.Now));

    /// <summary>The source comes back: gives up the lanes there are and waits for it on new ones.</summary>
    public void Rejoin(Connection connection, Action<bool> ready, int attempts = 50)
    {
        if (!_hasJoined)
        {
            // Of an attempt that did not come to all its lanes.
            _connection?.CloseFrom(_daemon.Host);
            _connection = null;
        }

        Enter(() => _engine.LinkLost("The source asks for new lanes.", _daemon.Now));
        if (_connection is null && _engine.IsDetached)
        {
            Attend(connection);
            _hasJoined = false;
            ready(true);
        }
        else if (!_engine.IsFetching || attempts == 0)
        {
            ready(false);
        }
        else
        {
            _daemon.Post(Tick, () => Rejoin(connection, ready, attempts - 1));
        }
    }

    /// <summary>The source is there, on the lanes that it was given.</summary>
    public void Joined(Connection connection) => _daemon.Post(TimeSpan.Zero, () =>
    {
        if (_connection == connection && !_hasJoined && _engine.IsDetached)
        {
            _hasJoined = true;
            Enter(() => _engine.Rejoined(_daemon.Now));
        }
    });

    public void ReceiveControl(Connection connection, byte[] bytes) => _daemon.Post(TimeSpan.Zero, () => Guarded(() =>
    {
        if (_connection != connection)
        {
            return;
        }

        HasHeard = true;
        var header = FrameHeader.Read(bytes, FrameHeader.ControlBodyMax);
        ControlMessage message = ControlMessage.Decode(header.Type, bytes.AsSpan(FrameHeader.Size));
        _engine.Receive(message, _daemon.Now);
    }));

    public void ReceivePages(Connection connection, int lane, FrameType type, byte[] body) =>
        _daemon.Post(TimeSpan.Zero, () =>
        {
            HasHeard = true;
            if (_connection != connection)
            {
                return;
            }

            // Pages may overtake the prologue.
            if (_stream is null)
            {
                _early.Enqueue((lane, type, body));
                return;
            }

            if (_pausedLanes.Contains(lane) && !_delivers)
            {
                _undelivered.Enqueue((connection, lane, type, body));
                return;
            }

            Guarded(() => Take(lane, type, body));
        });

    void IQemuListener.GuestStopped()
    {
    }

    void IQemuListener.Loaded() =>
        _daemon.Post(TimeSpan.Zero, () => Enter(() =>
        {
            if (_engine.InPostcopy)
            {
                _engine.QemuPong(LoadedPing, _daemon.Now);
            }
            else
            {
                _engine.QemuShut(0, _daemon.Now);
            }
        }));

    void IQemuListener.QemuEnded() => _daemon.Post(
        _world.Time.Between(0, 5), () => Enter(() => _engine.QemuFailed("QEMU has ended.", _daemon.Now)));

    private void TickOn()
    {
        if (!HasEnded)
        {
            if (_delivers)
            {
                AskForPages();
            }

            Enter(() => _engine.Tick(_daemon.Now));
            _daemon.Post(Tick, TickOn);
        }
    }

    private void AskForPages()
    {
        while (Qemu.TryReadRequest(out int page))
        {
            Enter(() => _engine.PagesTouched(0, new PageNumber(page), 1, _daemon.Now));
        }

        // What it asks for now is read a tick later: the page may have come by then, or the daemon be another one.
        Qemu.CatchUp(more: 1);
    }

    private void Enter(Action input)
    {
        if (_engine.Phase != MigrationPhase.Ended)
        {
            input();
        }

        Pump();
    }

    private void Guarded(Action input)
    {
        try
        {
            Enter(input);
        }
        catch (StreamFormatException e)
        {
            _world.Violate($"the destination does not understand the source: {e.Message}");
        }
    }

    private void Take(int lane, FrameType type, byte[] body)
    {
        if (type == FrameType.PauseBarrier)
        {
            _pausedLanes.Add(lane);
            _engine.LanePaused(lane + 1, [], _daemon.Now);
            return;
        }

        if (type == FrameType.Barrier)
        {
            if (_world.Canary != Canary.BarrierNotAwaited)
            {
                _engine.LaneBarrier(lane + 1, answered: 0, _daemon.Now);
            }
            else if (!_barrierSeen)
            {
                _barrierSeen = true;
                Enumerable.Range(1, _connection!.Pages.Length).ToList()
                    .ForEach(each => _engine.LaneBarrier(each, answered: 0, _daemon.Now));
            }

            return;
        }

        PageBatchReader batch = PageBatchReader.Parse(body, _blocks, _world.Buffers.Decoder);
        RamBlock block = _blocks[batch.BlockIndex];
        bool shared = block.Index == 0 && _world.Plan.SharesMemory;
        if (_delivers)
        {
            Deliver(batch);
            _engine.BatchPlaced(FrameHeader.Size + body.Length, _daemon.Now);
            return;
        }

        if (!shared)
        {
            _stream!.BeginPart();
        }

        foreach (PageRun run in batch)
        {
            for (int i = 0; i < run.Count; i++)
            {
                Place(block, shared, new PageNumber(run.First.Value + i), ContentOf(run, i));
            }
        }

        if (!shared)
        {
            _stream!.EndSection();
            FlushStream();
        }

        _engine.BatchPlaced(FrameHeader.Size + body.Length, _daemon.Now);
    }

    private void Deliver(PageBatchReader batch)
    {
        foreach (PageRun run in batch)
        {
            for (int i = 0; i < run.Count; i++)
            {
                var page = new PageNumber(run.First.Value + i);
                if (_engine.TryGive(batch.BlockIndex, page))
                {
                    Qemu.Give((int)page.Value, ContentOf(run, i));
                    _engine.Given(batch.BlockIndex, page, 1, _daemon.Now);
                }
            }
        }
    }

    private static ReadOnlySpan<byte> ContentOf(in PageRun run, int index)
    {
        switch (run.Kind)
        {
            case PageKind.Zero:
                return default;
            case PageKind.Word:
                byte[] words = new byte[Page.Size];
                MemoryMarshal.Cast<byte, ulong>(words.AsSpan())
                    .Fill(MemoryMarshal.Read<ulong>(run.Content[(index * PageBatch.WordBytes)..]));
                return words;
            case PageKind.Content:
                return run.Content.Slice(index * Page.Size, Page.Size);
            default:
                throw new StreamFormatException(0, $"Page {run.First} came as {run.Kind}, which was not offered.");
        }
    }

    private void Place(RamBlock block, bool shared, PageNumber page, ReadOnlySpan<byte> content)
    {
        if (shared)
        {
            Span<byte> place = Qemu.Memory[0].AsSpan((int)page.ByteOffset, Page.Size);
            place.Clear();
            content.CopyTo(place);
        }
        else if (content.IsEmpty)
        {
            _stream!.ZeroPage(block, page);
        }
        else
        {
            _stream!.Page(block, page, content);
        }
    }

    private void FlushStream()
    {
        Qemu.Feed(_streamBuffer.WrittenSpan);
        _streamBuffer.ResetWrittenCount();
    }

    private void Pump()
    {
        while (_engine.TryTakeEffect(out Effect effect))
        {
            _effects.Add(effect);
        }

        _effects.GoOn();
    }

    /// <returns>How long it takes.</returns>
    private TimeSpan Perform(Effect effect)
    {
        TimeSpan took = TimeSpan.Zero;
        switch (effect)
        {
            case Effect.Send send:
                Send(send.Message);
                break;
            case Effect.WritePrologue prologue:
                WritePrologue(prologue);
                break;
            case Effect.WriteCommand command:
                _stream!.Command(command.Number, command.Payload.Span);
                FlushStream();
                break;
            case Effect.WriteEnd:
                _stream!.BeginEnd();
                _stream.EndSection();
                FlushStream();
                break;
            case Effect.ForgetMissing:
                foreach (PageNumber page in _engine.MissingOf(0)!)
                {
                    Qemu.Punch((int)page.Value);
                }

                break;
            case Effect.WriteDeviceState when _engine.InPostcopy:
                // One package, which QEMU takes in as a whole once all of it is there.
                break;
            case Effect.BeginDelivery:
                BeginDelivery();
                break;
            case Effect.WriteZeroPage zero:
                Qemu.Give((int)zero.Page.Value, []);
                break;
            case Effect.CloseLanes:
                _connection?.CloseFrom(_daemon.Host);
                _connection = null;
                Enter(() => _engine.LanesClosed(_daemon.Now));
                break;
            case Effect.WriteEndOfPostcopy:
                Qemu.EndPostcopy();
                _daemon.Post(_world.Time.Between(0.5, 5), () => Enter(() => _engine.QemuShut(0, _daemon.Now)));
                break;
            case Effect.WriteDeviceState state:
                Qemu.Feed(state.Bytes.Span);
                break;
            case Effect.RecordResuming:
                took = RecordResuming();
                break;
            case Effect.RunGuest:
                RunGuest();
                break;
            case Effect.RecordRefusal:
                took = _daemon.FlushTime;
                _daemon.Post(
                    took, () => Refused(_daemon.TryRecord(_resuming with { State = HandOverState.Refused })));
                break;
            case Effect.End:
                HasEnded = true;
                _connection?.CloseFrom(_daemon.Host);
                Qemu.Listener = null;
                _ended(this, _engine.Snapshot(_daemon.Now));
                break;
        }

        return took;
    }

    private void WritePrologue(Effect.WritePrologue prologue)
    {
        _stream = new QemuStreamWriter(_streamBuffer, _engine.Head!);
        _stream.Prologue(prologue.Verbatim.Span);
        _stream.Footer();
        FlushStream();
        _blocks = [.. _engine.Blocks!];
        while (_early.TryDequeue(out (int Lane, FrameType Type, byte[] Body) early))
        {
            Guarded(() => Take(early.Lane, early.Type, early.Body));
        }
    }

    private void BeginDelivery()
    {
        Qemu.Listen();
        _delivers = true;
        while (_undelivered.TryDequeue(out (Connection Connection, int Lane, FrameType Type, byte[] Body) next))
        {
            Guarded(() => Take(next.Lane, next.Type, next.Body));
        }
    }

    private TimeSpan RecordResuming()
    {
        TimeSpan took = _daemon.FlushTime;
        if (_world.Canary == Canary.GuestRunBeforeItIsRecorded)
        {
            Qemu.Continue();
        }

        _daemon.Post(took, () =>
        {
            bool recorded = _daemon.TryRecord(_resuming);
            Enter(() =>
            {
                if (recorded)
                {
                    _engine.ResumingRecorded(_daemon.Now);
                }
                else
                {
                    _engine.ResumingNotRecorded("the journal's disk is full.", _daemon.Now);
                }
            });
        });
        return took;
    }

    private void Refused(bool recorded) => Enter(() =>
    {
        if (recorded)
        {
            _engine.RefusalRecorded(_daemon.Now);
        }
        else
        {
            _engine.RefusalNotRecorded("the journal's disk is full.", _daemon.Now);
        }
    });

    private void RunGuest()
    {
        // A disk whose lock the source's QEMU still has, for instance.
        if (_world.Plan.ResumeRefused || !Qemu.Continue())
        {
            Enter(() => _engine.RunRefused("QEMU does not run it.", _daemon.Now));
            return;
        }

        _daemon.Arrived(this);
        Enter(() => _engine.GuestRunning(_daemon.Now, _daemon.Now, TimeSpan.Zero, _daemon.Now));
    }

    private void Send(ControlMessage message)
    {
        var bytes = new ArrayBufferWriter<byte>();
        message.Encode(bytes);
        byte[] sent = bytes.WrittenSpan.ToArray();
        if (_connection is null)
        {
            return;
        }

        Departure? departure = _world.DepartureOf(_connection);
        _connection.ToSource.Send(sent.Length, () => departure?.Receive(sent));
    }
}
