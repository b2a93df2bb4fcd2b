using Godwit.GuestStreams.Qemu;
using Godwit.Migration.Postcopy;
using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Migration;

/// <summary>The destination's side: pages in place, device state loaded, then wait for the commit and run.</summary>
/// <remarks>
/// Like <see cref="SourceEngine"/> a synchronous state machine without I/O. Lanes write pages by themselves; the engine
/// only learns of barriers and bytes. Until the commit arrives every failure ends with a guest that never runs here.
/// </remarks>
public sealed partial class DestinationEngine : IQemuStreamSink
{
    private static readonly TimeSpan AcknowledgeEvery = TimeSpan.FromMilliseconds(4);
    private const long AcknowledgeBytes = 256 << 10;
    private static readonly TimeSpan LinkSilenceMax = TimeSpan.FromSeconds(15);

    // Device state of a guest with many devices is a few megabytes; a peer may not make us hold more than this.
    private const long DeviceStateHeldMax = 64 << 20;

    private readonly string _guest;
    private readonly string _from;
    private readonly int _lanes;
    private readonly Queue<Effect> _effects = new();
    private readonly List<ReadOnlyMemory<byte>> _heldDeviceState = [];
    private readonly HashSet<int> _barriers = [];
    private readonly int[] _asks;
    private long _offersSent;
    private long _offersHeard;
    private ControlMessage.StreamCommand? _switchoverStart;
    private TimeSpan _now;
    private TimeSpan _startedAt;
    private TimeSpan _lastHeard;
    private TimeSpan _lastAcknowledgedAt;
    private TimeSpan _placedAt;
    private TimeSpan _firstDeviceStateAt;
    private TimeSpan _committedAt;
    private TimeSpan _runningAt;
    private TimeSpan _announcedAt;
    private long _received;
    private long _acknowledged;
    private long _heldBytes; // of device state, ever
    private bool _placed;
    private bool _loaded;
    private bool _deviceStateBegun;
    // QEMU has been told to run the guest: from then on it may have run.
    private bool _ordered;
    // Why the guest does not run here although it was handed over.
    private string? _refusal;
    // The guest is loaded, and not every lane is there any more.
    private string? _laneLost;
    private string _errorCode = "";
    private string _error = "";

    /// <param name="lanes">Those that bring pages, the urgent one included.</param>
    /// <param name="isShared">True for a RAM block whose memory the shell writes, if postcopy was agreed.</param>
    public DestinationEngine(
        string guest, string from, int lanes, TimeSpan now, Func<RamBlock, bool>? isShared = null)
    {
        _guest = guest;
        _from = from;
        _lanes = lanes;
        _isShared = isShared;
        _asks = new int[lanes + 1];
        _now = _startedAt = _lastHeard = now;
    }

    public MigrationPhase Phase { get; private set; } = MigrationPhase.Preparing;

    public MigrationOutcome Outcome { get; private set; } = MigrationOutcome.Pending;

    /// <summary>The guest's RAM blocks; null until the prologue has come.</summary>
    public IReadOnlyList<RamBlock>? Blocks { get; private set; }

    /// <summary>What QEMU's sections of RAM are numbered; 0 until the prologue has come.</summary>
    public QemuStreamHead? Head { get; private set; }

    public bool TryTakeEffect(out Effect effect) => _effects.TryDequeue(out effect!);

    public void Receive(ControlMessage message, TimeSpan now)
    {
        _now = _lastHeard = now;
        if (Phase == MigrationPhase.Ended)
        {
            return;
        }

        switch (message)
        {
            case ControlMessage.Prologue m when Blocks is null:
                new QemuStreamReader(this).Feed(m.Verbatim.Span);
                if (Blocks is null)
                {
                    throw new StreamFormatException(
                        m.Verbatim.Length, "The prologue ends before the RAM block list does.");
                }

                Phase = MigrationPhase.Copying;
                Do(new Effect.WritePrologue(m.Verbatim));
                break;
            case ControlMessage.StreamCommand m when Blocks is not null && _switchoverStart is null && _heldBytes == 0:
                _switchoverStart = m;
                break;
            case ControlMessage.PagesMissing m when _missing is not null && !_missingTold && !_isRunning:
                _missing.Add(m);
                break;
            case ControlMessage.MissingTold when _missing is not null && !_missingTold && !_isRunning:
                _missingTold = true;
                AllPaused();
                break;
            case ControlMessage.DeviceState m when Blocks is not null && !_loaded:
                TakeDeviceState(m.Bytes);
                break;
            case ControlMessage.Ping m:
                Do(new Effect.Send(new ControlMessage.Pong(m.Number)));
                break;
            case ControlMessage.Pong m:
                _offersHeard = Math.Max(_offersHeard, Math.Min(m.Number, _offersSent));
                break;
            case ControlMessage.Commit when _loaded && Phase < MigrationPhase.Committed:
                Commit();
                break;
            case ControlMessage.Abort m when Phase < MigrationPhase.Committed:
                Fail(m.Code, $"{_from} ended the migration: {m.Text}", tellPeer: false);
                break;
            default:
                throw new StreamFormatException(
                    0, $"The source sent {message.GetType().Name} out of its turn ({Phase}).");
        }
    }

    /// <summary>A lane has taken in a page batch and put its pages in place.</summary>
    public void BatchPlaced(long frameBytes, TimeSpan now)
    {
        _now = _lastHeard = now;
        _received += frameBytes;
        if (_received - _acknowledged >= (_missingTold ? AcknowledgeBytesShort : AcknowledgeBytes)
            || now - _lastAcknowledgedAt >= AcknowledgeEvery)
        {
            Acknowledge();
        }
    }

    /// <summary>Offers on their way: few enough that what is sent behind them is not late.</summary>
    public int OffersUnderway => (int)(_offersSent - _offersHeard);

    /// <summary>Tells the source of contents that this host may be able to rebuild.</summary>
    /// <param name="fingerprints">At most <see cref="ControlMessage.InventoryOffer.CountMax"/> of them.</param>
    public void Offer(ContentOrigin origin, ReadOnlyMemory<byte> fingerprints)
    {
        if (Phase <= MigrationPhase.Copying)
        {
            Do(new Effect.Send(new ControlMessage.InventoryOffer(origin, fingerprints)));
            Do(new Effect.Send(new ControlMessage.Ping(++_offersSent)));
        }
    }

    /// <summary>Everything that was ready has been offered: the source need not wait for more.</summary>
    /// <param name="takesDeltas">The shell can read the memory of the blocks that the source reads.</param>
    public void OffersReady(bool takesDeltas)
    {
        if (Phase <= MigrationPhase.Copying)
        {
            Do(new Effect.Send(new ControlMessage.InventoryReady(takesDeltas)));
        }
    }

    /// <summary>
    /// A lane could not rebuild pages by their names. Nothing counts as placed before their contents have come.
    /// </summary>
    public void PagesRefused(int lane, ControlMessage.PagesWanted pages, TimeSpan now)
    {
        _now = now;
        _asks[lane]++;
        Do(new Effect.Send(pages));
    }

    /// <summary>A lane's barrier: every page it was to bring is in place, if the source knew of every wish.</summary>
    /// <param name="lane">From 1.</param>
    /// <param name="answered">Wishes of this lane that the source had answered before it.</param>
    /// <returns>
    /// True if the lane is done, and no page may come on it any more; false if the barrier crossed a wish on its way:
    /// the pages and another barrier follow.
    /// </returns>
    public bool LaneBarrier(int lane, int answered, TimeSpan now)
    {
        _now = _lastHeard = now;
        if (_barriers.Contains(lane))
        {
            throw new StreamFormatException(0, $"Lane {lane} sent its barrier twice.");
        }

        if (answered > _asks[lane])
        {
            throw new StreamFormatException(
                0, $"Lane {lane} answers {answered} wishes; there were {_asks[lane]}.");
        }

        if (answered < _asks[lane])
        {
            return false;
        }

        _barriers.Add(lane);
        if (_barriers.Count < _lanes)
        {
            return true;
        }

        if (_missingTold)
        {
            AllSent();
            return true;
        }

        _placed = true;
        _placedAt = now;
        Phase = MigrationPhase.Switchover;
        Acknowledge();
        Do(new Effect.Send(new ControlMessage.PagesPlaced()));
        HandOverDeviceState();
        return true;
    }

    /// <summary>QEMU's own verdict on its return path: 0 means that it has loaded everything.</summary>
    public void QemuShut(uint code, TimeSpan now)
    {
        _now = now;
        if (_endWritten && Phase == MigrationPhase.Committed)
        {
            MemoryShut(code);
            return;
        }

        if (Phase >= MigrationPhase.Committed || _loaded)
        {
            return;
        }

        if (code != 0 || !_placed || _missingTold)
        {
            Fail("destination-load", $"QEMU refused the guest's state (return path code {code}).", tellPeer: true);
            return;
        }

        _loaded = true;
        Do(new Effect.Send(new ControlMessage.Loaded(_firstDeviceStateAt - _placedAt, now - _firstDeviceStateAt)));
    }

    public void Tick(TimeSpan now)
    {
        _now = now;
        if (Phase == MigrationPhase.Ended)
        {
            return;
        }

        if (_received > _acknowledged)
        {
            Acknowledge();
        }

        if (now - _lastHeard > LinkSilenceMax && !IsDetached && Phase == MigrationPhase.Committed && _missingTold)
        {
            Lost($"{_from} has been silent for {LinkSilenceMax.TotalSeconds} s.");
        }

        if (Phase < MigrationPhase.Committed && now - _lastHeard > LinkSilenceMax)
        {
            Fail("link-lost", $"{_from} has been silent for {LinkSilenceMax.TotalSeconds} s.", tellPeer: true);
        }
    }

    public MigrationSnapshot Snapshot(TimeSpan now) => new()
    {
        Phase = Phase,
        Outcome = Outcome,
        ErrorCode = _errorCode,
        Error = _error,
        TotalBytes = Blocks?.Sum(b => b.Length) ?? 0,
        WireBytes = _received,
        Elapsed = now - _startedAt,
        Verdict = Phase == MigrationPhase.Ended ? "ended"
            : IsDetached ? "waiting for the source" : _isRunning ? "fetching" : "receiving",
        RemainingBytes = (_missing?.Count ?? 0) * Page.Size,
        Faults = _missingTold ? _faults.Report() : null,
        Fraction = Outcome == MigrationOutcome.Completed ? 1 : 0,
        Parts = BlackoutParts.None with
        {
            Resume = _runningAt > _committedAt ? _runningAt - _committedAt : TimeSpan.Zero,
            Announcement = _announcedAt > _runningAt ? _announcedAt - _runningAt : TimeSpan.Zero,
        },
    };

    private void Acknowledge()
    {
        _acknowledged = _received;
        _lastAcknowledgedAt = _now;
        Do(new Effect.Send(new ControlMessage.Received(_received)));
    }

    private void TakeDeviceState(ReadOnlyMemory<byte> bytes)
    {
        _heldBytes += bytes.Length;
        if (_heldBytes > DeviceStateHeldMax)
        {
            throw new StreamFormatException(
                0, $"More than {DeviceStateHeldMax} bytes of device state; no guest has that much.");
        }

        _heldDeviceState.Add(bytes);
        HandOverDeviceState();
    }

    // Loading devices reads guest memory, so not a byte of their state may reach QEMU before the last page. And the
    // barriers, on their own connections, may overtake the command that stands before RAM's end, so that end is
    // written only when device state has come behind it.
    private void HandOverDeviceState()
    {
        if (!_placed || _heldDeviceState.Count == 0)
        {
            return;
        }

        if (!_deviceStateBegun)
        {
            _deviceStateBegun = true;
            _firstDeviceStateAt = _now;
            if (_switchoverStart is { } command)
            {
                Do(new Effect.WriteCommand(command.Number, command.Payload));
            }

            if (!_missingTold)
            {
                Do(new Effect.WriteEnd());
            }
        }

        foreach (ReadOnlyMemory<byte> bytes in _heldDeviceState)
        {
            Do(new Effect.WriteDeviceState(bytes));
            if (_missingTold)
            {
                FollowPackage(bytes.Span);
            }
        }

        _heldDeviceState.Clear();
    }

    private void Do(Effect effect)
    {
        // Nobody is there to hear it, and whoever comes next would take it for an answer to a word of its own.
        if (!(_isLost && effect is Effect.Send))
        {
            _effects.Enqueue(effect);
        }
    }

    void IQemuStreamSink.Prologue(ReadOnlySpan<byte> verbatim, QemuStreamHead head)
    {
        Head = head;
        Blocks = head.Blocks;
        if (_isShared is not null)
        {
            _missing = new MissingPages(Blocks, [.. Blocks.Select(_isShared)]);
        }
    }

    void IQemuStreamSink.Command(ushort number, ReadOnlySpan<byte> payload)
    {
    }

    void IQemuStreamSink.Page(int blockIndex, PageNumber page, ReadOnlySpan<byte> content) => throw NotInPrologue();

    void IQemuStreamSink.SectionEnd(bool final, int pages) => throw NotInPrologue();

    void IQemuStreamSink.Tail(ReadOnlySpan<byte> verbatim) => throw NotInPrologue();

    private static StreamFormatException NotInPrologue() =>
        new(0, "The prologue goes on behind the RAM block list; pages and device state travel on their own.");
}
