using System.Buffers;
using System.Runtime.InteropServices;
using Godwit.GuestStreams.Qemu;
using Godwit.Migration;
using Godwit.Migration.HandOver;
using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Simulation;

/// <summary>The shell of a destination engine: what DestinationTransfer does in the daemon, in virtual time.</summary>
internal sealed class Arrival : IQemuListener
{
    private static readonly TimeSpan Tick = TimeSpan.FromMilliseconds(10);
    private readonly World _world;
    private readonly SimulatedDaemon _daemon;
    private readonly Connection _connection;
    private readonly DestinationEngine _engine;
    private readonly HandOverRecord _resuming;
    private readonly EffectQueue _effects;
    private readonly Queue<(int Lane, FrameType Type, byte[] Body)> _early = new();
    private readonly ArrayBufferWriter<byte> _streamBuffer = new();
    private readonly Action<Arrival, MigrationSnapshot> _ended;
    private RamBlock[] _blocks = [];
    private QemuStreamWriter? _stream;
    private bool _barrierSeen;

    public Arrival(
        World world, SimulatedDaemon daemon, ModelQemu qemu, Connection connection, HandOverRecord resuming,
        Action<Arrival, MigrationSnapshot> ended)
    {
        (_world, _daemon, Qemu, _connection, _resuming, _ended) = (world, daemon, qemu, connection, resuming, ended);
        _engine = new DestinationEngine("web1", resuming.Peer, connection.Pages.Length, daemon.Now);
        _effects = new EffectQueue(world, daemon, Perform);
        connection.DestinationLost =
            why => daemon.Post(TimeSpan.Zero, () => Enter(() => _engine.LinkLost(why, daemon.Now)));
        qemu.Listener = this;
        daemon.Post(Tick, TickOn);
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

    public void ReceiveControl(byte[] bytes) => _daemon.Post(TimeSpan.Zero, () => Guarded(() =>
    {
        HasHeard = true;
        var header = FrameHeader.Read(bytes, FrameHeader.ControlBodyMax);
        ControlMessage message = ControlMessage.Decode(header.Type, bytes.AsSpan(FrameHeader.Size));
        _engine.Receive(message, _daemon.Now);
    }));

    public void ReceivePages(int lane, FrameType type, byte[] body) => _daemon.Post(TimeSpan.Zero, () =>
    {
        HasHeard = true;
        // Pages may overtake the prologue.
        if (_stream is null)
        {
            _early.Enqueue((lane, type, body));
            return;
        }

        Guarded(() => Take(lane, type, body));
    });

    void IQemuListener.GuestStopped()
    {
    }

    void IQemuListener.Loaded() =>
        _daemon.Post(TimeSpan.Zero, () => Enter(() => _engine.QemuShut(0, _daemon.Now)));

    void IQemuListener.QemuEnded() => _daemon.Post(
        _world.Time.Between(0, 5), () => Enter(() => _engine.QemuFailed("QEMU has ended.", _daemon.Now)));

    private void TickOn()
    {
        if (!HasEnded)
        {
            Enter(() => _engine.Tick(_daemon.Now));
            _daemon.Post(Tick, TickOn);
        }
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
        if (type == FrameType.Barrier)
        {
            if (_world.Canary != Canary.BarrierNotAwaited)
            {
                _engine.LaneBarrier(lane + 1, answered: 0, _daemon.Now);
            }
            else if (!_barrierSeen)
            {
                _barrierSeen = true;
                Enumerable.Range(1, _connection.Pages.Length).ToList()
                    .ForEach(each => _engine.LaneBarrier(each, answered: 0, _daemon.Now));
            }

            return;
        }

        PageBatchReader batch = PageBatchReader.Parse(body, _blocks, _world.Buffers.Decoder);
        RamBlock block = _blocks[batch.BlockIndex];
        bool shared = block.Index == 0 && _world.Plan.SharesMemory;
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
                _connection.CloseFrom(_daemon.Host);
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
        Departure? departure = _world.DepartureOf(_connection);
        _connection.ToSource.Send(sent.Length, () => departure?.Receive(sent));
    }
}
