using System.Buffers;
using Godwit.Migration;
using Godwit.Migration.HandOver;
using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Simulation;

/// <summary>The shell of a source engine: what SourceTransfer does in the daemon, in virtual time.</summary>
internal sealed class Departure : IQemuListener
{
    // Lanes know what pauses and what ends from here on.
    private const int PostcopyVersion = 3;
    private static readonly TimeSpan Tick = TimeSpan.FromMilliseconds(10);
    private readonly World _world;
    private readonly SimulatedDaemon _daemon;
    private readonly ModelQemu _qemu;
    private readonly Connection _connection;
    private readonly SourceEngine _engine;
    private readonly HandOverRecord _commit;
    private readonly bool _holds;
    private readonly EffectQueue _effects;
    private readonly TakenPages _taken = new();
    private bool _streamEnded;
    private byte[]? _early;
    private readonly Action<MigrationSnapshot> _ended;

    public Departure(
        World world, SimulatedDaemon daemon, ModelQemu qemu, Connection connection, HandOverRecord commit,
        MigrationPolicy policy, bool serves, Action<MigrationSnapshot> ended)
    {
        (_world, _daemon, _qemu, _connection, _commit, _ended) = (world, daemon, qemu, connection, commit, ended);
        _holds = world.Plan.HoldsSwitchover;
        var options = new SourceEngineOptions
        {
            Guest = "web1",
            From = daemon.Host,
            To = commit.Peer,
            Policy = policy,
            Lanes = world.Plan.Lanes,
            HoldsSwitchover = _holds,
            IsShared = IsShared,
            CarriedPagesMax = 1024,
            WireVersion = world.Plan.Postcopy ? PostcopyVersion : PageBatch.Version2,
            Postcopy = world.Plan.Postcopy,
        };
        _streamEnded = serves;
        _engine = serves ? SourceEngine.Resume(options, [world.Guest.Blocks[0]], daemon.Now)
            : new SourceEngine(options, daemon.Now);
        _effects = new EffectQueue(world, daemon, Perform);
        connection.SourceLost = why => daemon.Post(TimeSpan.Zero, () => Enter(() => _engine.LinkLost(why, daemon.Now)));
        qemu.Listener = this;
        if (!serves)
        {
            qemu.BeginMigration(commit.Migration);
        }
    }

    public MigrationPhase Phase => _engine.Phase;

    public void Begin()
    {
        Feed(_qemu.Prologue());
        TickOn();
    }

    /// <summary>Brings a guest that runs at the destination the memory that it lacks.</summary>
    public void Serve()
    {
        Arrival? arrival = _world.ArrivalOf(_connection);
        _connection.ToDestination.Send(1, () => arrival?.Joined(_connection));
        TickOn();
    }

    public bool Cancel()
    {
        bool cancelled = _engine.Cancel(_daemon.Now);
        Pump();
        return cancelled;
    }

    /// <summary>Bytes of a control message of the destination.</summary>
    public void Receive(byte[] bytes)
    {
        try
        {
            var header = FrameHeader.Read(bytes, FrameHeader.ControlBodyMax);
            ControlMessage message = ControlMessage.Decode(header.Type, bytes.AsSpan(FrameHeader.Size));
            Enter(() => _engine.Receive(message, _daemon.Now));
        }
        catch (StreamFormatException e)
        {
            _world.Violate($"the source does not understand the destination: {e.Message}");
        }
    }

    void IQemuListener.GuestStopped() => _engine.GuestStopped(_daemon.Now, _daemon.Now);

    void IQemuListener.Loaded() => throw new InvalidOperationException("A source's QEMU loads nothing.");

    void IQemuListener.QemuEnded() => _daemon.Post(
        _world.Time.Between(0, 5), () => Enter(() => _engine.QemuFailed("The source's QEMU has ended.", _daemon.Now)));

    private bool IsShared(RamBlock block) => block.Index == 0 && _world.Plan.SharesMemory;

    private void TickOn()
    {
        if (_engine.Phase == MigrationPhase.Ended)
        {
            return;
        }

        if (_world.Canary == Canary.PageReadBeforeItIsTaken)
        {
            _early = [.. _qemu.Memory[0]];
        }

        ReadFeed();
        ServeLanes();
        Enter(() => _engine.Tick(_daemon.Now));
        _daemon.Post(Tick, TickOn);
    }

    private void Enter(Action input)
    {
        if (_engine.Phase != MigrationPhase.Ended)
        {
            input();
        }

        Pump();
    }

    private void ReadFeed()
    {
        if (!_engine.FeedOpen || _streamEnded || !_qemu.IsAlive)
        {
            return;
        }

        ArrayBufferWriter<byte> section = _world.Buffers.Section;
        _streamEnded = _qemu.WriteSection(section, _holds);
        Feed(section.WrittenMemory);
        if (!_streamEnded)
        {
            Enter(() => _engine.FeedCaughtUp(_daemon.Now));
        }
    }

    private void Feed(ReadOnlyMemory<byte> bytes)
    {
        int cut = _world.Time.Chance.Next(bytes.Length);
        Enter(() => _engine.Feed(bytes.Span[..cut], _daemon.Now));
        Enter(() => _engine.Feed(bytes.Span[cut..], _daemon.Now));
    }

    private void ServeLanes()
    {
        // The one for what somebody waits for goes first.
        for (int lane = _connection.Pages.Length - 1; lane >= 0; lane--)
        {
            for (int i = 0; i < 64 && _engine.Phase != MigrationPhase.Ended; i++)
            {
                LaneWork work = _engine.Take(lane, _taken, _daemon.Now, out _);
                if (work == LaneWork.Batch)
                {
                    SendBatch(lane);
                    continue;
                }

                if (work is LaneWork.Barrier or LaneWork.PauseBarrier)
                {
                    SendPages(lane, work == LaneWork.Barrier ? FrameType.Barrier : FrameType.PauseBarrier, 0);
                    if (work == LaneWork.PauseBarrier)
                    {
                        continue;
                    }
                }

                break;
            }
        }

        Pump();
    }

    private void SendBatch(int lane)
    {
        PageBatchBuilder batch = _world.Buffers.Batch;
        batch.Begin(_taken.Block.Index, _taken.Region);
        if (!IsShared(_taken.Block))
        {
            _engine.TakeCarried(_taken, batch);
        }
        else
        {
            Fill(batch);
        }

        int encoded = batch.Encode(
            _world.Buffers.Frame, _world.Plan.Codes ? BlockCoding.Lz4 : BlockCoding.Plain);
        int zero = _taken.Count - _taken.Contents;
        _engine.Sent(
            new SentBatch
            {
                Pages = _taken.Count, ZeroByRecord = zero, Zero = zero, Content = _taken.Contents,
                FrameBytes = FrameHeader.Size + encoded,
            },
            _daemon.Now);
        SendPages(lane, FrameType.PageBatch, encoded);
    }

    private void Fill(PageBatchBuilder batch)
    {
        // The guest writes on between the turn of a page and the look at it.
        _qemu.CatchUp(more: _world.Time.Chance.Next(3));
        bool loses = _world.Canary == Canary.PageLost && _taken.Count > 1 && _world.Time.Happens(0.02);
        for (int i = 0; i < _taken.Count; i++)
        {
            if (_taken.IsZero(i))
            {
                batch.AddZero(_taken[i]);
            }
            else if (!loses || i > 0)
            {
                byte[] memory = _early ?? _qemu.Memory[0];
                long from = _world.Canary == Canary.OtherPageFetched && _engine.SendsWhole && _world.Time.Happens(0.02)
                    ? 0 : _taken[i].ByteOffset;
                memory.AsSpan((int)from, Page.Size).CopyTo(batch.AddContents(_taken[i], 1));
            }
        }
    }

    private void SendPages(int lane, FrameType type, int encoded)
    {
        byte[] body = _world.Buffers.Frame[..encoded];
        Arrival? arrival = _world.ArrivalOf(_connection);
        _connection.Pages[lane].Send(
            FrameHeader.Size + encoded, () => arrival?.ReceivePages(_connection, lane, type, body));
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
            case Effect.SetDowntimeLimit limit:
                _qemu.DowntimeLimitMilliseconds = limit.Milliseconds;
                break;
            case Effect.ReleaseSwitchover:
                _qemu.IsReleased = true;
                break;
            case Effect.HoldStream when _qemu.IsAlive:
                _qemu.IsHeld = _world.Canary != Canary.StreamNotHeld;
                Enter(() => _engine.StreamHeld(_daemon.Now));
                break;
            case Effect.HoldStream:
                Enter(() => _engine.QemuFailed("HoldStream failed.", _daemon.Now));
                break;
            case Effect.RecordCommit:
                took = RecordCommit();
                break;
            case Effect.RecordReclaim:
                took = _daemon.FlushTime;
                _daemon.TryRecord(_commit with { State = HandOverState.Reclaimed });
                break;
            case Effect.ConfirmToQemu:
                _qemu.Confirm();
                break;
            case Effect.AbandonQemu:
                _qemu.CancelMigration();
                _qemu.Continue();
                break;
            case Effect.End:
                End();
                break;
        }

        return took;
    }

    private TimeSpan RecordCommit()
    {
        TimeSpan took = _daemon.FlushTime;
        if (_world.Canary == Canary.CommitToldBeforeItIsRecorded)
        {
            Send(new ControlMessage.Commit());
            _daemon.Post(took, () => Recorded(_daemon.TryRecord(_commit)));
            return took;
        }

        _daemon.Post(took, () => Recorded(_daemon.TryRecord(_commit)));
        return took;
    }

    private void Recorded(bool recorded)
    {
        Enter(() =>
        {
            if (recorded)
            {
                _engine.CommitRecorded(_daemon.Now);
            }
            else
            {
                _engine.CommitNotRecorded("the journal's disk is full.", _daemon.Now);
            }
        });
        if (_world.Canary == Canary.CopyEndedBeforeTheAnswer && _engine.Phase == MigrationPhase.Committed)
        {
            _qemu.Listener = null;
            _qemu.Kill();
        }
    }

    private void Send(ControlMessage message)
    {
        if (_world.Canary == Canary.CommitToldBeforeItIsRecorded && message is ControlMessage.Commit
            && _engine.Phase == MigrationPhase.Committed)
        {
            // It has been told already.
            return;
        }

        var bytes = new ArrayBufferWriter<byte>();
        message.Encode(bytes);
        byte[] sent = bytes.WrittenSpan.ToArray();
        Arrival? arrival = _world.ArrivalOf(_connection);
        _connection.ToDestination.Send(sent.Length, () => arrival?.ReceiveControl(_connection, sent));
    }

    private void End()
    {
        if (_world.Canary == Canary.CopyEndedBeforeTheRest && _engine.InPostcopy
            && _engine.Outcome == MigrationOutcome.Unsettled)
        {
            _qemu.Listener = null;
            _qemu.Kill();
        }

        _connection.CloseFrom(_daemon.Host);
        _qemu.Listener = null;
        MigrationSnapshot end = _engine.Snapshot(_daemon.Now);
        if (end.Outcome is not (MigrationOutcome.Completed or MigrationOutcome.Unsettled))
        {
            // The daemon's end of QEMU's stream closes too.
            _qemu.StreamBroke();
        }

        _ended(end);
    }
}
