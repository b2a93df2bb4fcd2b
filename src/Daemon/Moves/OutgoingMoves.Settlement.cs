using Godwit.Api.V1;
using Godwit.Daemon.Guests;
using Godwit.Host.Registry;
using Godwit.Migration;
using Godwit.Migration.HandOver;
using MigrationOutcome = Godwit.Migration.MigrationOutcome;
using MigrationPhase = Godwit.Migration.MigrationPhase;
using MigrationPolicy = Godwit.Migration.MigrationPolicy;

namespace Godwit.Daemon.Moves;

/// <summary>How a move ends: who may run the guest, by the rules of docs/formats/hand-over.md.</summary>
internal sealed partial class OutgoingMoves
{
    private static readonly TimeSpan AskDeadline = TimeSpan.FromSeconds(8);
    private static readonly TimeSpan AskAgainMin = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan AskAgainMax = TimeSpan.FromSeconds(5);
    // A move that has not been settled by then is reported as unsettled. The asking goes on.
    private static readonly TimeSpan UnsettledAfter = TimeSpan.FromSeconds(10);

    /// <summary>An operator decides where the guest of an unsettled move runs.</summary>
    /// <exception cref="GodwitException">
    /// <c>migration-settled</c>: nothing is undecided. <c>host-unknown</c>: not one of the two.
    /// </exception>
    public async Task<Move> DecideAsync(string idOrGuest, string host, CancellationToken cancellationToken)
    {
        if (Find(idOrGuest) is not { } move
            || handOvers.Find(move.Id) is not { State: HandOverState.Committed }
            || move.Record.Snapshot.Outcome != MigrationOutcome.Unsettled)
        {
            throw new GodwitException("migration-settled",
                $"There is no unsettled migration '{idOrGuest}' on host '{settings.HostName}'.",
                "'godwit migration show ID' tells how a migration ended; settle it on the host that the guest left.");
        }

        if (host != move.Record.From && host != move.Record.To)
        {
            throw new GodwitException("host-unknown",
                $"Migration {move.Id} is between hosts '{move.Record.From}' and '{move.Record.To}', not '{host}'.",
                "Name the one of them on which the guest runs, or on which it shall.");
        }

        var changed = move.Changed;
        _departures[move.Id].Decision.TrySetResult(host);
        while (move.Record.GuestRunsOn != host)
        {
            await changed.WaitAsync(cancellationToken);
            changed = move.Changed;
        }

        return move;
    }

    private async Task ResumeSettlementAsync(HandOverRecord handOver)
    {
        if (guests.Find(handOver.Guest) is not { } guest)
        {
            Log.OwnershipUnrecorded(logger, handOver.Migration, "the registry does not know the guest",
                handOver.Guest.ToString(), settings.HostName);
            return;
        }

        var recorded = (await reports.ListAsync(guest.Record.Name, uint.MaxValue, CancellationToken.None))
            .FirstOrDefault(record => record.Id == handOver.Migration)
            ?? new MigrationRecord(handOver.Migration, handOver.Guest, guest.Record.Name, settings.HostName,
                handOver.Peer, new MigrationPolicy(), clock.GetUtcNow(), "", new MigrationSnapshot());
        var host = new HostRecord(handOver.Peer, "", "", HoldsAuthority: false);
        var snapshot = recorded.Snapshot with { Phase = MigrationPhase.Committed };
        var departure = new Departure(guest, host, new Move(recorded with { Snapshot = snapshot, GuestRunsOn = "" }));
        _departures[handOver.Migration] = departure;
        departure.Finished = Task.Run(
            () => SettleAsync(departure, snapshot, isPrepared: false), CancellationToken.None);
    }

    private async Task SettleAsync(Departure departure, MigrationSnapshot final, bool isPrepared)
    {
        var (move, guest, host) = (departure.Move, departure.Guest, departure.Host);
        var runsOn = settings.HostName;
        try
        {
            switch (handOvers.Find(move.Id))
            {
                case { State: HandOverState.Committed } handOver:
                    (final, runsOn) = await EndCommittedAsync(departure, handOver, final);
                    break;
                case { State: HandOverState.Overruled } handOver:
                    await FenceAsync(handOver);
                    _departures.TryRemove(move.Id, out _);
                    return;
                default:
                    if (final.ErrorCode == "guest-lost")
                    {
                        runsOn = "";
                    }

                    if (isPrepared)
                    {
                        await AbandonAsync(move.Id, host, final.Error);
                    }

                    break;
            }
        }
        catch (OperationCanceledException)
        {
            // The daemon ends. The journal says what the next one has to find out.
            return;
        }
        catch (Exception exception)
        {
            // As it is, nobody runs the guest who may not. A restart takes it up again.
            Log.OwnershipUnrecorded(logger, move.Id, exception.Message, move.Record.Guest, settings.HostName);
            return;
        }

        guest.MigrationId = "";
        await EndReportAsync(departure, final with { Phase = MigrationPhase.Ended }, runsOn);
        if (handOvers.Find(move.Id) is { State: HandOverState.Overruled } overruled)
        {
            await SettleAsync(departure, final, isPrepared: false);
            return;
        }

        _departures.TryRemove(move.Id, out _);
    }

    private async Task EndReportAsync(Departure departure, MigrationSnapshot final, string runsOn)
    {
        var (move, host) = (departure.Move, departure.Host);
        var record = move.Record with { Snapshot = final, GuestRunsOn = runsOn };
        try
        {
            await reports.PutAsync(record);
        }
        catch (GodwitException exception)
        {
            Log.ReportLost(logger, move.Id, settings.HostName, exception.Message);
        }

        if (runsOn == host.Name)
        {
            Log.MoveEnded(logger, move.Id, "completed", final.Elapsed.TotalSeconds, final.WireBytes,
                final.Downtime.TotalMilliseconds, record.Guest, runsOn);
            // The destination keeps the same report; a watcher that sees the end may ask either host for it.
            var epoch = departure.Guest.Record.Epoch;
            await TellAsync(record, epoch, host.Name);
            _ = Task.Run(() => TellOthersAsync(record, epoch, host.Name), CancellationToken.None);
        }
        else
        {
            Log.MoveFailed(logger, move.Id, final.ErrorCode, final.Error, record.Guest,
                runsOn.Length > 0 ? runsOn : "no host");
        }

        move.Set(_ => record);
    }

    /// <summary>From a commit to one host that runs the guest.</summary>
    private async Task<(MigrationSnapshot Final, string RunsOn)> EndCommittedAsync(
        Departure departure, HandOverRecord handOver, MigrationSnapshot final)
    {
        var (move, guest) = (departure.Move, departure.Guest);
        var begun = clock.GetTimestamp();
        var (answer, detail) = final.Outcome switch
        {
            MigrationOutcome.Completed => (HandOverAnswer.Runs, ""),
            MigrationOutcome.Unsettled or MigrationOutcome.Pending => await AskAsync(departure, handOver, final),
            // It ended while the commit was being recorded, so nobody was told of it.
            _ => (HandOverAnswer.Refused, final.Error),
        };
        if (answer == HandOverAnswer.None)
        {
            return await DecidedAsync(departure, handOver, await departure.Decision.Task, final);
        }

        var state = HandOverRules.OnAnswer(handOver.State, answer)!.Value;
        await handOvers.RecordAsync(handOver with { State = state });
        Log.MoveSettled(
            logger, move.Id, clock.GetElapsedTime(begun).TotalSeconds, state.ToString(), move.Record.Guest);
        if (state == HandOverState.Left)
        {
            await GiveAsync(departure, handOver);
            return answer == HandOverAnswer.Runs
                ? (Completed(final), handOver.Peer)
                : (Failed(final, "guest-lost",
                    $"{move.Record.Guest} was handed over to {handOver.Peer} and died there: {detail} "
                    + $"Start it again there: 'godwit vm start {move.Record.Guest}'."), "");
        }

        return final.Outcome is MigrationOutcome.Unsettled or MigrationOutcome.Pending
            ? await RunHereAsync(departure, final, "handover-refused",
                $"{handOver.Peer} did not run {move.Record.Guest} and never will by this migration.")
            : (final, settings.HostName);
    }

    private async Task<(MigrationSnapshot Final, string RunsOn)> DecidedAsync(
        Departure departure, HandOverRecord handOver, string host, MigrationSnapshot final)
    {
        var (move, guest) = (departure.Move, departure.Guest);
        Log.MoveDecided(logger, move.Id, move.Record.Guest, host);
        if (host == handOver.Peer)
        {
            await handOvers.RecordAsync(handOver with { State = HandOverState.Left });
            await GiveAsync(departure, handOver);
            return (Completed(final), host);
        }

        var overruled = handOver with { State = HandOverState.Overruled, Epoch = handOver.Epoch + 1 };
        await handOvers.RecordAsync(overruled);
        await guests.OverruleAsync(guest, overruled.Epoch);
        return await RunHereAsync(departure, final, "migration-overruled",
            $"An operator decided that {move.Record.Guest} runs on {host}; {handOver.Peer} has not answered.");
    }

    private async Task<(MigrationSnapshot Final, string RunsOn)> RunHereAsync(
        Departure departure, MigrationSnapshot final, string code, string text)
    {
        var guest = departure.Guest;
        if (guest.Machine is { } machine && await guests.GoOnAsync(machine) == "running")
        {
            guest.IsPaused = false;
            return (Failed(final, code, $"{text} It runs on {settings.HostName}, where it was."), settings.HostName);
        }

        return (Failed(final, "guest-lost",
            $"{text} Its copy on {settings.HostName} has ended meanwhile: it runs nowhere. "
            + $"Start it again: 'godwit vm start {guest.Record.Name}'."), "");
    }

    private async Task GiveAsync(Departure departure, HandOverRecord handOver)
    {
        var guest = departure.Guest;
        var memory = inventory.TakeMemory(guest, departure.Move.Record.Policy);
        await GuestKeeper.LeaveAsync(guest);
        inventory.Left(guest, memory);
        try
        {
            await guests.GiveAsync(guest, handOver.Peer, handOver.Epoch);
        }
        catch (GodwitException exception)
        {
            // The journal has it: the registry catches up at the next start.
            Log.OwnershipUnrecorded(
                logger, handOver.Migration, exception.Message, guest.Record.Name, settings.HostName);
        }
    }

    /// <summary>Asks until there is an answer, an operator's decision (then it is none), or the daemon ends.</summary>
    private async Task<(HandOverAnswer Answer, string Detail)> AskAsync(
        Departure departure, HandOverRecord handOver, MigrationSnapshot final)
    {
        var begun = clock.GetTimestamp();
        var wait = AskAgainMin;
        var isReported = false;
        while (true)
        {
            var (answer, detail) = await AskOnceAsync(handOver, fence: false);
            if (answer != HandOverAnswer.None)
            {
                return (answer, detail);
            }

            if (!isReported && clock.GetElapsedTime(begun) >= UnsettledAfter)
            {
                isReported = true;
                await ReportUnsettledAsync(departure, final, detail);
            }

            await Task.WhenAny(departure.Decision.Task, Task.Delay(wait, clock, _shutdown.Token));
            _shutdown.Token.ThrowIfCancellationRequested();
            if (departure.Decision.Task.IsCompleted)
            {
                return (HandOverAnswer.None, "");
            }

            wait = wait * 2 < AskAgainMax ? wait * 2 : AskAgainMax;
        }
    }

    private async Task<(HandOverAnswer Answer, string Detail)> AskOnceAsync(HandOverRecord handOver, bool fence)
    {
        try
        {
            // Looked up each time: it may come back under another address, or be removed for good.
            var host = await membership.FindAsync(handOver.Peer, _shutdown.Token);
            var request = new SettleMigrationRequest
            {
                MigrationId = handOver.Migration, GuestUuid = handOver.Guest.ToString(), Epoch = handOver.Epoch,
                Fence = fence,
            };
            var response = await links.CallAsync(host, AskDeadline,
                (peer, options) => peer.SettleMigrationAsync(request, options), _shutdown.Token);
            if (!response.Journal.Span.SequenceEqual(handOver.PeerJournal.ToByteArray()) && !fence)
            {
                return (HandOverAnswer.None, $"host '{host.Name}' has another journal than at the start of the move");
            }

            return (response.Verdict switch
            {
                HandOverVerdict.Runs => HandOverAnswer.Runs,
                HandOverVerdict.Died => HandOverAnswer.Died,
                HandOverVerdict.Refused => HandOverAnswer.Refused,
                _ => HandOverAnswer.None,
            }, response.Detail);
        }
        catch (GodwitException exception)
        {
            return (HandOverAnswer.None, exception.Message);
        }
    }

    private async Task ReportUnsettledAsync(Departure departure, MigrationSnapshot final, string detail)
    {
        var (move, host) = (departure.Move, departure.Host);
        var guest = move.Record.Guest;
        Log.MoveUnanswered(logger, move.Id, guest, host.Name, detail);
        var unsettled = final with
        {
            Phase = MigrationPhase.Ended,
            Outcome = MigrationOutcome.Unsettled,
            ErrorCode = "migration-unsettled",
            Error = $"{guest} was handed over to {host.Name}, which has not answered whether it runs there ({detail}). "
                + $"Its copy on {settings.HostName} stays paused. The question is asked until it is answered; if "
                + $"{host.Name} is gone for good: 'godwit migration settle {move.Id} --guest-runs-on HOST'.",
        };
        try
        {
            await reports.PutAsync(move.Record with { Snapshot = unsettled, GuestRunsOn = "" });
        }
        catch (GodwitException exception)
        {
            Log.ReportLost(logger, move.Id, settings.HostName, exception.Message);
        }

        move.Set(record => record with { Snapshot = unsettled, GuestRunsOn = "" });
    }

    // The guest runs here; what is left is to make sure that its other copy never does again.
    private async Task FenceAsync(HandOverRecord handOver)
    {
        var wait = AskAgainMin;
        while ((await AskOnceAsync(handOver, fence: true)).Answer != HandOverAnswer.Refused)
        {
            await Task.Delay(wait, clock, _shutdown.Token);
            wait = wait * 2 < AskAgainMax ? wait * 2 : AskAgainMax;
        }

        await handOvers.RecordAsync(handOver with { State = HandOverState.Reclaimed });
    }

    private static MigrationSnapshot Completed(MigrationSnapshot final) =>
        final with { Outcome = MigrationOutcome.Completed, ErrorCode = "", Error = "" };

    private static MigrationSnapshot Failed(MigrationSnapshot final, string code, string text) =>
        final with { Outcome = MigrationOutcome.Failed, ErrorCode = code, Error = text };
}
