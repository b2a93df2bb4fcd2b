using Godwit.ChunkStore;
using Godwit.GuestStreams.Qemu;
using Godwit.Migration.Convergence;
using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Migration;

/// <summary>What a source engine is told before it starts.</summary>
public sealed record SourceEngineOptions
{
    public required string Guest { get; init; }
    public required string From { get; init; }
    public required string To { get; init; }
    public required MigrationPolicy Policy { get; init; }
    /// <summary>Page lanes.</summary>
    public required int Lanes { get; init; }
    /// <summary>QEMU waits for our acknowledgement before it stops the guest (8.1 and later).</summary>
    public required bool HoldsSwitchover { get; init; }
    /// <summary>True for a RAM block whose memory the shell can read at any time.</summary>
    public required Func<RamBlock, bool> IsShared { get; init; }
    /// <summary>
    /// How long it takes to compare all shared memory with what was sent of it, for a QEMU whose dirty feed misses
    /// writes: done once, with the guest paused. Null for a feed that can be relied on.
    /// </summary>
    public TimeSpan? MemoryCheck { get; init; }
    /// <summary>The agreed version of the wire protocol.</summary>
    public required int WireVersion { get; init; }
    /// <summary>Page contents kept for blocks that are not shared, while they wait for their turn.</summary>
    public int CarriedPagesMax { get; init; } = 16384;
    /// <summary>
    /// Fingerprints taken from the destination at most; 0 if no page may be sent by its name: the destination speaks
    /// version 1, or the user does not want it.
    /// </summary>
    public int OffersMax { get; init; }
    /// <summary>
    /// Both QEMUs can turn to postcopy, and a lane for urgent pages was agreed: the last one.
    /// </summary>
    public bool Postcopy { get; init; }
    /// <summary>
    /// Other migrations of this host may be about to pause their guests: this one asks for its turn first.
    /// </summary>
    public bool AsksForTurn { get; init; }
}

/// <summary>What a lane shall do next.</summary>
public enum LaneWork
{
    /// <summary>Nothing now; ask again after a change or the stated wait.</summary>
    Wait,
    /// <summary>Send the pages taken.</summary>
    Batch,
    /// <summary>Send a barrier: every page of this lane is on its way.</summary>
    Barrier,
    /// <summary>Send a barrier of the pause: what this lane had before the guest was stopped is on its way.</summary>
    PauseBarrier,
    /// <summary>The migration has ended.</summary>
    End,
}

/// <summary>The source's side of a migration: rounds, pacing, switchover, commit.</summary>
/// <remarks>
/// A synchronous state machine. Inputs are QEMU's stream, messages, QMP events and ticks, each with the time; results
/// are effects to be performed in order and pages handed to lanes. It has no clock, socket, file or thread, and no
/// locking: the shell serialises every call.
/// </remarks>
public sealed partial class SourceEngine : IQemuStreamSink
{
    private const int ListedSectionPages = 1024;
    private const int PingEveryMilliseconds = 200;
    private static readonly TimeSpan LinkSilenceMax = TimeSpan.FromSeconds(15);

    private readonly SourceEngineOptions _options;
    private readonly MigrationPolicy _policy;
    private readonly QemuStreamReader _reader;
    private readonly Queue<Effect> _effects = new();
    private readonly LinkEstimate _link = new();
    private readonly RateLimit _limit = new();
    private readonly CoreLimit _cores;
    private readonly CodingChooser _coding;
    private readonly CarriedPages _carried;
    // Sent by each lane: one at the end of precopy, or one at the pause and one at the end of postcopy.
    private readonly int[] _barriers;

    private PageQueue? _queue;
    private bool[] _shared = [];
    private TimeSpan _now;
    private TimeSpan _startedAt;
    private TimeSpan _lastHeard;
    private TimeSpan _lastPing;
    private long _pingNumber;
    private readonly Dictionary<long, TimeSpan> _pings = [];
    private int _completeSections;
    private long _pagesSinceCaughtUp;

    public SourceEngine(SourceEngineOptions options, TimeSpan now)
    {
        _options = options;
        _policy = options.Policy;
        _reader = new QemuStreamReader(this);
        _carried = new CarriedPages(options.CarriedPagesMax);
        _barriers = new int[options.Lanes + (options.Postcopy ? 1 : 0)];
        _asksAnswered = new int[_barriers.Length];
        _downtimeMax = _policy.DowntimeMax;
        _bandwidth = _policy.BandwidthBitsPerSecond;
        _offered = new FingerprintSet(options.OffersMax);
        _believes = options.OffersMax > 0;
        _now = _startedAt = _lastHeard = _roundStartedAt = _countedSince = _lastCaughtUp = now;
        _limit.Set(StartRate(), now);
        _cores = new CoreLimit(_policy.Cores, now);
        _coding = new CodingChooser(_policy.Compression, options.WireVersion, options.Lanes, _policy.Cores);
    }

    public MigrationPhase Phase { get; private set; } = MigrationPhase.Preparing;

    public MigrationOutcome Outcome { get; private set; } = MigrationOutcome.Pending;

    /// <summary>Gives the next effect to perform; false when there is none.</summary>
    public bool TryTakeEffect(out Effect effect) => _effects.TryDequeue(out effect!);

    /// <summary>Rounds that have ended.</summary>
    public int Round => _rounds.Count;

    /// <summary>
    /// True if the lane that asked last has to wait because the link, or the cap on it, takes no more now.
    /// </summary>
    public bool WaitsForLink { get; private set; }

    /// <summary>How a lane codes the batch it has just taken.</summary>
    public BlockCoding NextCoding() => _coding.Next();

    /// <summary>What a delta may cost before the whole page is cheaper; 0 where there must be none.</summary>
    public int DeltaBytesMax =>
        _policy.Compression && _takesDeltas ? _coding.DeltaBytesMax : 0;

    /// <summary>True while the shell shall read QEMU's stream; false lets QEMU wait in its write.</summary>
    public bool FeedOpen => Phase != MigrationPhase.Ended && (!_suspended || _switchoverRequested) && FeedWanted()
        && CarriedRoom();

    /// <summary>RAM sections of QEMU's stream read to their end.</summary>
    public long SectionsEnded { get; private set; }

    /// <summary>Bytes from QEMU's stream, cut anywhere.</summary>
    /// <exception cref="StreamFormatException">
    /// The stream is not one we can carry; the migration has to end.
    /// </exception>
    public void Feed(ReadOnlySpan<byte> bytes, TimeSpan now)
    {
        _now = now;
        _reader.Feed(bytes);
        Step();
    }

    /// <summary>
    /// The feed has been read at least as far as it reached when it was opened: what QEMU knew at that moment, we know
    /// now, unless it is still in the middle of a long list.
    /// </summary>
    public void FeedCaughtUp(TimeSpan now)
    {
        _now = now;
        // The first section that was not cut short ends what QEMU knew; it then looks at its bitmap anew, whatever its
        // downtime limit, and the second says that there was nothing more. A guest that dirties pages faster than QEMU
        // lists them never gives two, and then twice its memory has to be enough.
        if (_completeSections < 2 && _pagesSinceCaughtUp < 2 * (_queue?.TotalPages ?? 0))
        {
            return;
        }

        _pagesSinceCaughtUp = 0;
        _lastCaughtUp = now;
        _caughtUp = true;
        BeginLookIfDue();
        Step();
    }

    /// <summary>A message of the destination.</summary>
    public void Receive(ControlMessage message, TimeSpan now)
    {
        _now = _lastHeard = now;
        switch (message)
        {
            case ControlMessage.Received m:
                if (m.FrameBytes > _link.Sent)
                {
                    throw new StreamFormatException(
                        0, $"The destination acknowledges {m.FrameBytes} bytes; {_link.Sent} have been sent.");
                }

                _link.OnAcknowledged(m.FrameBytes, now, starved: _queue is { Current: 0 } || SentManyNames());
                break;
            case ControlMessage.Pong m when _pings.Remove(m.Number, out TimeSpan sent):
                _link.OnRoundTrip(now - sent, now);
                break;
            case ControlMessage.Ping m:
                Do(new Effect.Send(new ControlMessage.Pong(m.Number)));
                break;
            case ControlMessage.InventoryOffer m:
                TakeOffer(m);
                break;
            case ControlMessage.InventoryReady m:
                _offersComplete = true;
                _takesDeltas = m.TakesDeltas;
                break;
            case ControlMessage.PagesWanted m when
                Phase is MigrationPhase.Copying or MigrationPhase.Switchover or MigrationPhase.Committed:
                ReturnPages(m);
                break;
            case ControlMessage.PagesPlaced when Phase == MigrationPhase.Switchover:
                _parts = _parts with { LastRound = now - _pausedAt };
                break;
            case ControlMessage.Loaded m when Phase == MigrationPhase.Switchover && !_loaded:
                _loaded = true;
                _loadedAt = now;
                _parts = _parts with { DeviceState = m.Handed, Load = m.Load };
                Do(new Effect.HoldStream());
                break;
            case ControlMessage.Running m when Phase == MigrationPhase.Committed && !_confirmed:
                Confirmed(m);
                break;
            case ControlMessage.PagesRequested m when _postcopy:
                RequestPages(m);
                break;
            case ControlMessage.PagesMissing m when _resumed && !_feedEnded:
                TakeMissing(m);
                break;
            case ControlMessage.MissingTold when _resumed && !_feedEnded:
                BeginFetching();
                break;
            case ControlMessage.MemoryComplete m when _fetching && Phase == MigrationPhase.Committed:
                MemoryComplete(m);
                break;
            // Whether the guest is lost only this host can tell: it has not left.
            case ControlMessage.Abort m when m.Code == "guest-lost":
                Fail(MigrationOutcome.Failed, "destination-qemu", $"{_options.To} gave up: {m.Text}");
                break;
            case ControlMessage.Abort m:
                Fail(MigrationOutcome.Failed, m.Code, $"{_options.To} gave up: {m.Text}");
                break;
            default:
                throw new StreamFormatException(0, $"The destination sent {message.GetType().Name} while {Phase}.");
        }

        Step();
    }

    /// <summary>QEMU keeps the guest paused from now on, whatever becomes of this daemon.</summary>
    public void StreamHeld(TimeSpan now)
    {
        _now = now;
        if (Phase == MigrationPhase.Switchover)
        {
            _committing = true;
            Do(new Effect.RecordCommit());
        }
    }

    /// <summary>The commit stands on disk.</summary>
    /// <remarks>
    /// What went wrong while it was being written takes effect now: nobody has been told of the commit, so it is taken
    /// back, on disk first.
    /// </remarks>
    public void CommitRecorded(TimeSpan now)
    {
        _now = now;
        _committing = false;
        if (_failure is { } failure)
        {
            Do(new Effect.RecordReclaim());
            Fail(failure.Outcome, failure.Code, failure.Text);
            return;
        }

        Phase = MigrationPhase.Committed;
        _committedAt = now;
        _parts = _parts with { Commit = now - _loadedAt };
        Do(new Effect.Send(new ControlMessage.Commit()));
        if (_postcopy)
        {
            BeginFetching();
        }
    }

    /// <summary>The commit could not be recorded; nobody has been told of it.</summary>
    public void CommitNotRecorded(string text, TimeSpan now)
    {
        _now = now;
        _committing = false;
        if (_failure is { } failure)
        {
            Fail(failure.Outcome, failure.Code, failure.Text);
            return;
        }

        Fail(MigrationOutcome.Failed, "journal-unwritable", text);
    }

    /// <summary>QEMU has stopped the guest's processors.</summary>
    public void GuestStopped(TimeSpan at, TimeSpan now)
    {
        _now = now;
        Pause(at);
        Step();
    }

    /// <summary>A page of a shared block is not what was last sent of it, and QEMU has not said so.</summary>
    public void PageDiffers(int blockIndex, PageNumber page) => _queue!.Report(blockIndex, page, zero: false);

    /// <summary>
    /// Every page of the paused guest that differs from what was sent is reported: this is all there is.
    /// </summary>
    public void MemoryChecked(TimeSpan now)
    {
        _now = now;
        _feedEnded = true;
        Step();
    }

    /// <summary>QEMU has begun its pass number <paramref name="pass"/> over its dirty bitmap.</summary>
    public void QemuPass(int pass, TimeSpan now)
    {
        _now = now;
        _qemuPass = pass;
        Step();
    }

    /// <summary>QEMU's migration failed or ended unasked, or QEMU itself did.</summary>
    /// <remarks>
    /// Once the destination may run the guest and fetches the rest, all of that is in memory that the shell holds.
    /// </remarks>
    public void QemuFailed(string text, TimeSpan now)
    {
        _now = now;
        if (_fetching)
        {
            return;
        }

        Fail(MigrationOutcome.Failed, "qemu-migration", text);
    }

    /// <summary>A lane broke.</summary>
    public void LinkLost(string text, TimeSpan now)
    {
        _now = now;
        Fail(MigrationOutcome.Failed, "link-lost", text);
    }

    /// <summary>What the destination sent, or QEMU did, cannot be trusted.</summary>
    public void Broken(StreamFormatException error, TimeSpan now)
    {
        _now = now;
        Fail(MigrationOutcome.Failed, "stream-format", $"{error.Message} (offset {error.Offset})");
    }

    /// <summary>Ends the migration unless it is committed.</summary>
    /// <returns>False if it is too late.</returns>
    public bool Cancel(TimeSpan now)
    {
        _now = now;
        if (Phase >= MigrationPhase.Committed)
        {
            return false;
        }

        Fail(MigrationOutcome.Cancelled, "migration-cancelled", "The migration was cancelled.");
        return true;
    }

    /// <summary>Time passes; the shell calls this every few milliseconds to tens of milliseconds.</summary>
    public void Tick(TimeSpan now)
    {
        _now = now;
        if (Phase == MigrationPhase.Ended)
        {
            return;
        }

        if (now - _lastPing >= TimeSpan.FromMilliseconds(PingEveryMilliseconds))
        {
            _lastPing = now;
            _pings[++_pingNumber] = now;
            _pings.Remove(_pingNumber - 100);
            Do(new Effect.Send(new ControlMessage.Ping(_pingNumber)));
        }

        if (now - _lastHeard > LinkSilenceMax)
        {
            Fail(
                MigrationOutcome.Failed, "link-lost",
                $"{_options.To} has been silent for {LinkSilenceMax.TotalSeconds} s.");
        }

        Step();
    }

    /// <summary>Hands out a lane's next pages.</summary>
    /// <param name="wait">When there is nothing to do now: ask again after this at the latest.</param>
    public LaneWork Take(int lane, TakenPages taken, TimeSpan now, out TimeSpan wait)
    {
        wait = TimeSpan.FromMilliseconds(50);
        WaitsForLink = false;
        if (Phase == MigrationPhase.Ended)
        {
            return LaneWork.End;
        }

        if (_queue is not null && _postcopy)
        {
            return TakeInPostcopy(lane, taken, now, ref wait);
        }

        if (_queue is null || _suspended || _link.InFlight >= _link.Window || lane >= _options.Lanes)
        {
            WaitsForLink = _queue is not null && !_suspended;
            return lane >= _options.Lanes && _feedEnded && LastBarrier(lane) ? LaneWork.Barrier : LaneWork.Wait;
        }

        if (AwaitsOffers(now))
        {
            return LaneWork.Wait;
        }

        // The processors belong to the guest while it runs; once it is paused, to nobody else.
        TimeSpan limited = Phase == MigrationPhase.Copying ? _cores.Wait(now) : TimeSpan.Zero;
        WaitsForLink = limited == TimeSpan.Zero;
        limited = limited > TimeSpan.Zero ? limited : _limit.Wait(now);
        WaitsForLink &= limited > TimeSpan.Zero;
        if (limited > TimeSpan.Zero)
        {
            wait = limited;
            return LaneWork.Wait;
        }

        if (_queue.Take(lane, taken))
        {
            return LaneWork.Batch;
        }

        return _feedEnded && !_queue.HasPagesFor(lane) && LastBarrier(lane) ? LaneWork.Barrier : LaneWork.Wait;
    }

    private bool LastBarrier(int lane)
    {
        bool first = _barriers[lane] == 0;
        _barriers[lane] = Math.Max(_barriers[lane], 1);
        return first;
    }

    /// <summary>
    /// Wishes of the destination that a lane has answered: its barrier says the number.
    /// </summary>
    public int AsksAnswered(int lane) => _asksAnswered[lane];

    /// <summary>
    /// True if the block's pages are read from shared memory; otherwise <see cref="TakeCarried"/> has them.
    /// </summary>
    public bool IsShared(RamBlock block) => _shared[block.Index];

    /// <summary>
    /// Copies the contents of pages taken from a block that is not shared into the batch. Has to happen under the same
    /// serialisation as <see cref="Take"/>: a newer record would otherwise replace the content in between.
    /// </summary>
    public void TakeCarried(TakenPages taken, PageBatchBuilder batch)
    {
        for (int i = 0; i < taken.Count; i++)
        {
            if (taken.IsZero(i))
            {
                batch.AddZero(taken[i]);
            }
            else if (!_carried.TryTake(taken.Block.Index, taken[i], batch.AddContents(taken[i], 1)))
            {
                throw new InvalidOperationException(
                    $"Page {taken[i]} of block {taken.Block.Name} was taken but its content is not there.");
            }
        }
    }

    /// <summary>A lane is about to hand a frame to its connection, or has nothing left of what it took.</summary>
    public void Sent(in SentBatch batch, TimeSpan now)
    {
        _now = now;
        if (batch.FrameBytes > 0)
        {
            _link.OnSent(batch.FrameBytes, now);
            _limit.Pay(batch.FrameBytes);
        }

        _cores.Pay(batch.Cpu);
        _coding.Learn(batch, now);
        // What is left of a round may be gone before another coder has paid for its tables and its window.
        if (!_firstRoundEnded || DrainTime() >= WorthChoosing)
        {
            _coding.Decide(EffectiveRate(), roundBegins: _roundPages == 0, now);
        }

        _roundPages += batch.Pages;
        _roundZeroPages += batch.ZeroByRecord;
        _roundBytes += batch.FrameBytes;
        _pagesSent += batch.Pages;
        _zeroPagesSent += batch.ZeroByRecord;
        _contentFrameBytes += batch.FrameBytes;
        _pagesSinceHeard += batch.Pages - batch.Zero - batch.Unchanged;
        _saved.Add(batch);
        if (_queue!.Current == 0)
        {
            Step();
        }
    }

    private void Do(Effect effect) => _effects.Enqueue(effect);

    void IQemuStreamSink.Prologue(ReadOnlySpan<byte> verbatim, QemuStreamHead head)
    {
        if (verbatim.Length > FrameHeader.ControlBodyMax)
        {
            throw new StreamFormatException(
                0, $"The stream's head takes {verbatim.Length} bytes; the limit is {FrameHeader.ControlBodyMax}.");
        }

        _queue = new PageQueue(head.Blocks, _options.Lanes, streaming: !_options.HoldsSwitchover);
        _shared = [.. head.Blocks.Select(_options.IsShared)];
        Phase = MigrationPhase.Copying;
        _roundStartedAt = _countedSince = _now;
        Do(new Effect.Send(new ControlMessage.Prologue(verbatim.ToArray())));
    }

    void IQemuStreamSink.Page(int blockIndex, PageNumber page, ReadOnlySpan<byte> content)
    {
        if (!_shared[blockIndex])
        {
            if (content.IsEmpty)
            {
                _carried.Drop(blockIndex, page);
            }
            else if (!_carried.TryPut(blockIndex, page, content))
            {
                // CarriedRoom closes the feed well before; only one chunk larger than the reserve comes here.
                _carried.Grow(_carried.SlotsMax + CarriedReserve);
                _carried.TryPut(blockIndex, page, content);
            }
        }

        _queue!.Report(blockIndex, page, content.IsEmpty);
    }

    void IQemuStreamSink.SectionEnd(bool final, int pages)
    {
        SectionsEnded++;
        // QEMU ends a section after 50 ms whatever is left, but looks at its clock only after the first page and every
        // 64th from there. On a busy host that is soon: the number of pages alone says nothing.
        bool mayBeCut = pages % 64 == 1 || pages > ListedSectionPages;
        _completeSections = mayBeCut ? 0 : _completeSections + 1;
        _pagesSinceCaughtUp += pages;
        if (final)
        {
            Pause(_now);
            _feedEnded = _options.MemoryCheck is null;
            if (!_feedEnded)
            {
                Do(new Effect.CheckMemory([.. _queue!.Blocks.Where(IsShared)]));
            }
        }
    }

    void IQemuStreamSink.Command(ushort number, ReadOnlySpan<byte> payload)
    {
        switch (number)
        {
            case QemuCommand.Ping:
                Do(new Effect.AnswerPing(System.Buffers.Binary.BinaryPrimitives.ReadUInt32BigEndian(payload)));
                break;
            case QemuCommand.SwitchoverStart:
                Pause(_now);
                Do(new Effect.Send(new ControlMessage.StreamCommand(number, payload.ToArray())));
                break;
            case QemuCommand.OpenReturnPath:
                break;
            default:
                throw new StreamFormatException(0, $"QEMU sent command {number}, which no precopy needs.");
        }
    }

    void IQemuStreamSink.Tail(ReadOnlySpan<byte> verbatim)
    {
        if (_postcopy)
        {
            TakeTailInPostcopy(verbatim);
            return;
        }

        while (!verbatim.IsEmpty)
        {
            int length = Math.Min(verbatim.Length, 256 << 10);
            Do(new Effect.Send(new ControlMessage.DeviceState(verbatim[..length].ToArray())));
            verbatim = verbatim[length..];
        }
    }
}
