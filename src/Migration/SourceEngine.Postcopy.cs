using Godwit.Migration.Postcopy;
using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Migration;

// Postcopy: the switch, and the pages that follow the guest. To its own QEMU it is the end of a precopy: the guest
// stands still, everything has been named, and the copy is kept until nobody needs it. What has not been sent by then
// is what the destination lacks, and this host sends it in an order of its own.
public sealed partial class SourceEngine
{
    private bool _postcopy;
    // QEMU's package has been read to its end.
    private bool _packaged;
    private bool _packageSent;
    // The destination may run the guest, and gets the rest of its memory.
    private bool _fetching;
    private bool _confirmed;
    // The engine began with a guest that runs at the destination already.
    private bool _resumed;
    private readonly PostcopyPackage _package = new();
    private FaultReport? _faults;

    /// <summary>
    /// An engine that goes on where another ended: the guest runs at the destination and lacks memory of this host's.
    /// </summary>
    /// <param name="blocks">Whose memory the shell reads, as the destination counts them.</param>
    public static SourceEngine Resume(SourceEngineOptions options, IReadOnlyList<RamBlock> blocks, TimeSpan now)
    {
        var engine = new SourceEngine(options, now)
        {
            Phase = MigrationPhase.Committed,
            _postcopy = true,
            _packaged = true,
            _packageSent = false,
            _confirmed = true,
            _resumed = true,
            _switchoverRequested = true,
            _firstRoundEnded = true,
            _firstPassDone = true,
            _queue = new PageQueue(blocks, options.Lanes, streaming: false),
            _shared = [.. blocks.Select(_ => true)],
        };
        engine._queue.BeginLastRound();
        Array.Fill(engine._barriers, 1);
        return engine;
    }

    /// <summary>The migration turns to postcopy, or has.</summary>
    public bool InPostcopy => _postcopy;

    /// <summary>Pages go as they are: the destination holds no version of any that anything could build on.</summary>
    public bool SendsWhole => _fetching;

    /// <summary>Names may stand for pages on this lane; on the urgent one a guest waits for the content.</summary>
    public bool MayName(int lane) => lane < _options.Lanes;

    private bool CanTurnToPostcopy =>
        _options.Postcopy && !_postcopy && !_switchoverRequested && _policy.Method != MigrationMethod.Precopy
        && _firstPassDone;

    // Postcopy waits for QEMU to have named every page: what is not in shared memory has to be read out before.
    private bool TurnsToPostcopyNow() =>
        _policy.Method is MigrationMethod.Hybrid or MigrationMethod.Postcopy && CanTurnToPostcopy
        && (_policy.Method == MigrationMethod.Postcopy || !NextRoundShrinks()) && TurnKeepsBudget() && MayTurn();

    private void RequestPostcopy()
    {
        _postcopy = true;
        RequestSwitchover();
    }

    // The tail comes in pieces and states no length, but how it ends tells that it has come whole.
    private void TakeTailInPostcopy(ReadOnlySpan<byte> verbatim)
    {
        _package.Add(verbatim);
        if (_packaged || !_package.TryBuild(out byte[] package))
        {
            return;
        }

        _packaged = true;
        List<ControlMessage.PagesMissing> told =
            [.. _queue!.Blocks.Where(IsShared).SelectMany(block => _queue.Missing(block.Index))];
        if (!PackageKeepsBudget(package.Length, told.Sum(missing => (long)missing.Regions.Length)))
        {
            return;
        }

        told.ForEach(missing => Do(new Effect.Send(missing)));
        Do(new Effect.Send(new ControlMessage.MissingTold()));
        foreach (byte[] piece in package.Chunk(256 << 10))
        {
            Do(new Effect.Send(new ControlMessage.DeviceState(piece)));
        }

        _packageSent = true;
    }

    private LaneWork TakeInPostcopy(int lane, TakenPages taken, TimeSpan now, ref TimeSpan wait)
    {
        bool urgent = lane == _options.Lanes;
        if (!_packageSent)
        {
            // Until the destination knows what it lacks, only what is not in shared memory goes: QEMU has read it out.
            return !_resumed && !urgent && _queue!.TakeExcept(_shared, lane, taken) ? LaneWork.Batch : LaneWork.Wait;
        }

        if (_barriers[lane] == 0)
        {
            if (!urgent && _queue!.TakeExcept(_shared, lane, taken))
            {
                return LaneWork.Batch;
            }

            _barriers[lane] = 1;
            return LaneWork.PauseBarrier;
        }

        // A guest that is being loaded may wait for pages already.
        if (urgent && _barriers[lane] < 2 && _queue!.TakeRequested(taken))
        {
            return LaneWork.Batch;
        }

        if (!_fetching)
        {
            return LaneWork.Wait;
        }

        if (!urgent && _queue!.Current > 0)
        {
            // What the guest waits for goes ahead of everything, also of what would only stand in its way.
            if (_queue.Requested > 0 || _link.InFlight >= _link.Window)
            {
                WaitsForLink = true;
                return LaneWork.Wait;
            }

            TimeSpan limited = _limit.Wait(now);
            if (limited > TimeSpan.Zero)
            {
                WaitsForLink = true;
                wait = limited;
                return LaneWork.Wait;
            }

            if (_queue.TakePredicted(lane, taken))
            {
                return LaneWork.Batch;
            }
        }

        if (_barriers[lane] == 1 && (urgent ? _queue!.Current == 0 : !_queue!.HasPagesFor(lane)))
        {
            _barriers[lane] = 2;
            return LaneWork.Barrier;
        }

        return LaneWork.Wait;
    }

    private void BeginFetching()
    {
        _fetching = true;
        _feedEnded = true;
        _packageSent = true;
        _link.KeepShort();
        _queue!.OrderByHeat();
    }

    private void TakeMissing(ControlMessage.PagesMissing missing)
    {
        RequireBlock(missing.BlockIndex);
        _queue!.AddMissing(missing);
    }

    private void RequestPages(ControlMessage.PagesRequested requested)
    {
        RequireBlock(requested.BlockIndex);
        if (!_queue!.Request(requested.BlockIndex, requested.First, requested.Count))
        {
            throw new StreamFormatException(0,
                $"Page {requested.First} of RAM block {requested.BlockIndex} is requested and lies outside of it.");
        }
    }

    private void RequireBlock(int index)
    {
        if (index >= _shared.Length || !_shared[index])
        {
            throw new StreamFormatException(
                0, $"Pages of RAM block {index} are asked for; there are {_shared.Length} blocks.");
        }
    }

    private void MemoryComplete(ControlMessage.MemoryComplete message)
    {
        if (_queue!.Current > 0)
        {
            throw new StreamFormatException(
                0, $"{_options.To} says that it has all memory; {_queue.Current} pages have not been sent.");
        }

        _faults = message.Faults;
        CloseLastRound();
        Outcome = MigrationOutcome.Completed;
        if (!_resumed)
        {
            Do(new Effect.ConfirmToQemu());
        }

        Ended();
    }

    /// <summary>The daemon ends: the next one brings what the destination lacks, and the copy is kept for it.</summary>
    public void Leave(TimeSpan now)
    {
        _now = now;
        if (_fetching && Phase == MigrationPhase.Committed)
        {
            Fail(MigrationOutcome.Failed, "link-lost", $"The daemon of {_options.From} is shutting down.");
        }
    }

    // Nothing is lost: the copy here stands still, and whoever settles the migration brings the rest over another link.
    private void FetchingBroken(string text)
    {
        Outcome = MigrationOutcome.Unsettled;
        _errorCode = "migration-unsettled";
        _error = $"{text} {_options.Guest} runs on {_options.To} and waits for {_queue?.Current ?? 0} pages of its "
            + $"memory; the copy on {_options.From} keeps them until it has them.";
        Ended();
    }
}
