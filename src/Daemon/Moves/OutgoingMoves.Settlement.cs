using System.Net;
using Godwit.Api.V1;
using Godwit.Daemon.Guests;
using Godwit.Host.Qemu;
using Godwit.Host.Registry;
using Godwit.Host.Transfers;
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
    private static readonly TimeSpan ServeAgain = TimeSpan.FromMilliseconds(200);

    /// <summary>An operator decides where the guest of an unsettled move runs.</summary>
    /// <exception cref="GodwitException">
    /// <c>migration-settled</c>: nothing is undecided. <c>host-unknown</c>: not one of the two. <c>disk-in-use</c>: the
    /// guest runs, and it is not here.
    /// </exception>
    public async Task<Move> DecideAsync(
        string idOrGuest, string host, bool resumesCopy, CancellationToken cancellationToken)
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

        if (host != settings.HostName && move.Record.Policy.MayTurnToPostcopy
            && guests.Find(move.Record.GuestUuid)?.Machine is not null)
        {
            throw new GodwitException("migration-fetching",
                $"Migration {move.Id} may have turned to postcopy: if guest '{move.Record.Guest}' runs on '{host}', it "
                + $"may lack memory that only host '{settings.HostName}' has, and that would be given up.",
                $"Bring the daemon of '{host}' back: it fetches the rest by itself. If that host is gone for good, "
                + $"'--guest-runs-on {settings.HostName}'.");
        }

        if (host == settings.HostName)
        {
            RequireDisksFree(guests.Find(move.Record.GuestUuid)!);
        }

        var changed = move.Changed;
        _departures[move.Id].Decide(new Decision(host, resumesCopy));
        // Not until the guest runs where it was wanted: it may not start, or the destination may have been faster.
        while (move.Record.Snapshot.Outcome == MigrationOutcome.Unsettled)
        {
            await changed.WaitAsync(cancellationToken);
            changed = move.Changed;
        }

        return move;
    }

    // Whoever writes to its disks runs the guest: an operator who says otherwise errs, and would lose both copies.
    private static void RequireDisksFree(LocalGuest guest)
    {
        foreach (var disk in guest.Record.Contract.Disks)
        {
            if (DiskLock.IsWritten(disk.Path))
            {
                throw new GodwitException("disk-in-use",
                    $"Disk {disk.Path} of guest '{guest.Record.Name}' is being written to: the guest runs.",
                    "Decide for the host where it runs, or switch that host off first.");
            }
        }
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
        if (handOver.State == HandOverState.Committed)
        {
            recorded = recorded with
            {
                Snapshot = recorded.Snapshot with
                {
                    Phase = MigrationPhase.Committed, Outcome = MigrationOutcome.Pending,
                },
                GuestRunsOn = "",
            };
        }

        var departure = new Departure(guest, host, new Move(recorded), recorded.Policy.MayTurnToPostcopy);
        _departures[handOver.Migration] = departure;
        departure.Finished = Task.Run(
            () => SettleAsync(departure, recorded.Snapshot, CommitFate.InDoubt, isPrepared: false),
            CancellationToken.None);
    }

    /// <param name="fate">Of a commit that the journal has.</param>
    private async Task SettleAsync(
        Departure departure, MigrationSnapshot final, CommitFate fate, bool isPrepared)
    {
        var (move, guest, host) = (departure.Move, departure.Guest, departure.Host);
        try
        {
            if (handOvers.Find(move.Id) is { IsOutstanding: true } handOver)
            {
                await SettleCommittedAsync(departure, handOver, final, fate);
            }
            else
            {
                if (isPrepared)
                {
                    await AbandonAsync(move.Id, host, final.Error);
                }

                if (final.ErrorCode == "guest-lost" && guest is { Machine: null, Record.Detail.Length: 0 })
                {
                    // Whoever watched it die saw a commit being recorded, and left to the settlement what it means.
                    await OwnAsync(
                        guest, move.Id, guest.Record.Owned with { Intent = GuestIntent.Stopped }, final.Error);
                }

                guest.MigrationId = "";
                await EndReportAsync(departure, final, final.ErrorCode == "guest-lost" ? "" : settings.HostName);
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

        _departures.TryRemove(move.Id, out _);
    }

    /// <summary>Carries out what <see cref="Settlement"/> decides.</summary>
    private async Task SettleCommittedAsync(
        Departure departure, HandOverRecord handOver, MigrationSnapshot final, CommitFate fate)
    {
        var guest = departure.Guest;
        var begun = clock.GetTimestamp();
        TimeSpan Now() => clock.GetElapsedTime(begun);
        var settlement = new Settlement(handOver, fate, settings.HostName, Now());
        while (true)
        {
            if (departure.TakeDecision() is { } decision
                && settlement.Decide(decision.Host, decision.ResumesCopy, Now()))
            {
                Log.MoveDecided(logger, handOver.Migration, guest.Record.Name, decision.Host);
            }

            switch (settlement.Next(Now()))
            {
                case SettlementStep.Wait wait:
                    await Task.WhenAny(departure.Decided, Task.Delay(wait.For, clock, _shutdown.Token));
                    _shutdown.Token.ThrowIfCancellationRequested();
                    break;
                case SettlementStep.Ask ask:
                    var (answer, detail) = await AskAsync(departure, handOver, ask, settlement.Epoch);
                    settlement.Answered(answer, detail, Now());
                    break;
                case SettlementStep.Serve:
                    final = await ServeAsync(departure, final);
                    settlement.Done();
                    break;
                case SettlementStep.Write write:
                    if (await TryRecordAsync(write.Record))
                    {
                        Log.MoveSettled(logger, handOver.Migration, Now().TotalSeconds, write.Record.State.ToString(),
                            guest.Record.Name);
                        settlement.Done();
                    }
                    else
                    {
                        settlement.Failed(Now());
                    }

                    break;
                case SettlementStep.EndCopy:
                    await EndCopyAsync(departure);
                    settlement.Done();
                    break;
                case SettlementStep.RunCopy:
                    settlement.CopyRuns(await RunCopyAsync(guest));
                    break;
                case SettlementStep.StartAnew:
                    settlement.CopyRuns(await guests.TryStartAnewAsync(guest));
                    break;
                case SettlementStep.Own own:
                    await OwnAsync(guest, handOver.Migration, own.Owned);
                    settlement.Done();
                    break;
                case SettlementStep.ReportUnsettled report:
                    await ReportUnsettledAsync(departure, final, report.Detail);
                    settlement.Done();
                    break;
                case SettlementStep.Settled settled:
                    guest.MigrationId = "";
                    var (end, runsOn) = EndOf(departure.Move, handOver, final, fate, settled);
                    await EndReportAsync(departure, end, runsOn);
                    settlement.Done();
                    break;
                case SettlementStep.End:
                    return;
            }
        }
    }

    /// <summary>Brings the guest at the destination what it lacks, until it has all or the link breaks.</summary>
    private async Task<MigrationSnapshot> ServeAsync(Departure departure, MigrationSnapshot final)
    {
        try
        {
            final = await ServeOnceAsync(departure, final);
        }
        catch (GodwitException exception)
        {
            Log.MoveUnanswered(
                logger, departure.Move.Id, departure.Guest.Record.Name, departure.Host.Name, exception.Message);
        }

        if (final.Outcome != MigrationOutcome.Completed)
        {
            await Task.Delay(ServeAgain, clock, _shutdown.Token);
        }

        // What the destination says counts, not what was sent to it.
        return final with { Outcome = MigrationOutcome.Unsettled };
    }

    private async Task<MigrationSnapshot> ServeOnceAsync(Departure departure, MigrationSnapshot final)
    {
        const int TicketBytes = 32;
        var (move, guest) = (departure.Move, departure.Guest);
        if (guest.Machine is not { } machine)
        {
            if (move.Record.Snapshot.Outcome != MigrationOutcome.Unsettled)
            {
                Log.RestLost(logger, move.Id, guest.Record.Name, move.Record.To);
                var lost = final with
                {
                    Phase = MigrationPhase.Ended,
                    Outcome = MigrationOutcome.Unsettled,
                    ErrorCode = "migration-unsettled",
                    Error = $"{guest.Record.Name} runs on {move.Record.To} without the rest of its memory: its QEMU on "
                        + $"{settings.HostName}, which alone had it, has ended. It stops at the first page that it "
                        + $"lacks. End it there: 'godwit vm stop --force {guest.Record.Name}', then start it again.",
                };
                move.Set(record => record with { Snapshot = lost, GuestRunsOn = move.Record.To });
            }

            await Task.Delay(AskDeadline, clock, _shutdown.Token);
            return final;
        }

        if (departure.Fetching is not { Ticket.Length: TicketBytes, LanePort: > 0 and <= 65535,
            Lanes: > 0 and <= 16, WireVersion: >= WireVersions.Postcopy and <= WireVersions.Max } offer)
        {
            return final;
        }

        var host = await membership.FindAsync(move.Record.To, _shutdown.Token);
        var terms = new TransferTerms(move.Id, guest.Record.Name, settings.HostName, host.Name, move.Record.Policy,
            offer.Ticket.ToByteArray(), (int)offer.WireVersion, (int)offer.Lanes, Postcopy: true);
        var endpoint = new IPEndPoint(await ResolveAsync(host, _shutdown.Token), (int)offer.LanePort);
        Log.RestServed(logger, move.Id, guest.Record.Name, host.Name);
        var steps = new DepartureSteps(() => Task.CompletedTask, () => Task.CompletedTask);
        var transfer = new SourceTransfer(machine, terms, endpoint, trust.ClientOptions(host.Name, _ => { }),
            machines.Directory(guest.Record.Contract), steps, logger);
        transfer.Changed += snapshot => move.Set(record => record with
        {
            GuestRunsOn = host.Name,
            Snapshot = Monotonic(record.Snapshot, Joined(final, snapshot)),
        });
        departure.Start(transfer);
        shares.Set(transfer, move.Record.Policy.BandwidthBitsPerSecond);
        try
        {
            return Joined(final, await transfer.ServeRestAsync(_shutdown.Token));
        }
        finally
        {
            shares.Remove(transfer);
        }
    }

    // One report of a move in two parts.
    private static MigrationSnapshot Joined(MigrationSnapshot first, MigrationSnapshot second) => first with
    {
        Phase = second.Phase,
        Outcome = second.Outcome,
        Verdict = second.Verdict,
        Next = second.Next,
        Method = first.Method == "precopy" ? second.Method : first.Method,
        Fraction = Math.Max(first.Fraction, second.Fraction),
        RemainingBytes = second.RemainingBytes,
        TotalBytes = Math.Max(first.TotalBytes, second.TotalBytes),
        WireBytesPerSecond = second.WireBytesPerSecond,
        TimeLeft = second.TimeLeft,
        WireBytes = first.WireBytes + second.WireBytes,
        Elapsed = first.Elapsed + second.Elapsed,
        DaemonCpuTime = first.DaemonCpuTime + second.DaemonCpuTime,
        Faults = second.Faults ?? first.Faults,
    };

    private (MigrationSnapshot Final, string RunsOn) EndOf(
        Move move, HandOverRecord handOver, MigrationSnapshot final, CommitFate fate, SettlementStep.Settled settled)
    {
        var guest = move.Record.Guest;
        if (settled.Guest == SettledGuest.RunsThere)
        {
            return (final with { Outcome = MigrationOutcome.Completed, ErrorCode = "", Error = "" }, handOver.Peer);
        }

        if (settled.Guest == SettledGuest.DiedThere)
        {
            return (Failed(final, "guest-lost",
                $"{guest} was handed over to {handOver.Peer} and died there: {settled.Detail} "
                + $"Start it again there: 'godwit vm start {guest}'."), "");
        }

        var isUntold = fate == CommitFate.Untold;
        var text = isUntold ? final.Error
            : settled.HasDecided
                ? $"An operator decided that {guest} runs on {settings.HostName}; {handOver.Peer} has not answered."
                : $"{handOver.Peer} did not run {guest} and never will by this migration.";
        if (settled.Guest == SettledGuest.DiedHere)
        {
            return (Failed(final, "guest-lost",
                $"{text} Its copy on {settings.HostName} has ended meanwhile: it runs nowhere. "
                + $"Start it again: 'godwit vm start {guest}'."), "");
        }

        if (settled.Guest == SettledGuest.StartedHere)
        {
            return (Failed(final, "migration-overruled",
                $"{text} It was started anew on {settings.HostName}, from its disks."), settings.HostName);
        }

        var where = $"{text} It runs on {settings.HostName}, where it was.";
        return (isUntold ? final
            : settled.HasDecided ? Failed(final, "migration-overruled", where)
            : Failed(final, "handover-refused", where), settings.HostName);
    }

    private async Task<bool> TryRecordAsync(HandOverRecord record)
    {
        try
        {
            await handOvers.RecordAsync(record);
            return true;
        }
        catch (GodwitException exception)
        {
            Log.HandOverUnrecorded(logger, record.Migration, record.State.ToString(), exception.Message);
            return false;
        }
    }

    private async Task<bool> RunCopyAsync(LocalGuest guest)
    {
        if (guest.Machine is not { } machine || await guests.GoOnAsync(machine) != "running")
        {
            var stopped = guest.Record.Owned with { Intent = GuestIntent.Stopped };
            await guests.OwnAsync(guest, stopped, "Its QEMU ended while the guest was being handed over.");
            return false;
        }

        guest.IsPaused = false;
        return true;
    }

    /// <summary>Ends the copy; the memory of a guest that has left stays behind for the day it comes back.</summary>
    private async Task EndCopyAsync(Departure departure)
    {
        var guest = departure.Guest;
        var hasLeft = handOvers.Find(departure.Move.Id) is { State: HandOverState.Left };
        var memory = hasLeft ? inventory.TakeMemory(guest, departure.Move.Record.Policy) : null;
        await GuestKeeper.EndCopyAsync(guest);
        if (hasLeft)
        {
            inventory.Left(guest, memory);
        }
    }

    private async Task OwnAsync(LocalGuest guest, string migration, GuestOwnership owned, string? detail = "")
    {
        try
        {
            await guests.OwnAsync(guest, owned, detail);
        }
        catch (GodwitException exception)
        {
            // The journal has it: the registry catches up at the next start.
            Log.OwnershipUnrecorded(logger, migration, exception.Message, guest.Record.Name, settings.HostName);
        }
    }

    private async Task EndReportAsync(Departure departure, MigrationSnapshot final, string runsOn)
    {
        var (move, host) = (departure.Move, departure.Host);
        var record = move.Record with
        {
            Snapshot = final with
            {
                Phase = MigrationPhase.Ended, Forecast = final.Forecast ?? move.Record.Snapshot.Forecast,
            },
            GuestRunsOn = runsOn,
        };
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
        }
        else
        {
            Log.MoveFailed(logger, move.Id, final.ErrorCode, final.Error, record.Guest,
                runsOn.Length > 0 ? runsOn : "no host");
        }

        if (handOvers.Find(move.Id) is { State: HandOverState.Left })
        {
            // The destination keeps the same report; a watcher that sees the end may ask either host for it.
            var epoch = departure.Guest.Record.Epoch;
            await TellAsync(record, epoch, host.Name);
            _ = Task.Run(() => TellOthersAsync(record, epoch, host.Name), CancellationToken.None);
        }

        move.Set(_ => record);
    }

    private async Task<(HandOverAnswer Answer, string Detail)> AskAsync(
        Departure departure, HandOverRecord handOver, SettlementStep.Ask ask, long epoch)
    {
        try
        {
            // Looked up each time: it may come back under another address, or be removed for good.
            var host = await membership.FindAsync(handOver.Peer, _shutdown.Token);
            var request = new SettleMigrationRequest
            {
                MigrationId = handOver.Migration,
                GuestUuid = handOver.Guest.ToString(),
                Epoch = epoch,
                Fence = ask.Fence,
                Commits = ask.Commits,
            };
            var response = await links.CallAsync(host, AskDeadline,
                (peer, options) => peer.SettleMigrationAsync(request, options), _shutdown.Token);
            if (!response.Journal.Span.SequenceEqual(handOver.PeerJournal.ToByteArray()) && !ask.Fence)
            {
                return (HandOverAnswer.None, $"host '{host.Name}' has another journal than at the start of the move");
            }

            departure.Fetching = response.Verdict == HandOverVerdict.Fetching ? response : null;
            return (response.Verdict switch
            {
                HandOverVerdict.Fetching => HandOverAnswer.Fetching,
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

    private static MigrationSnapshot Failed(MigrationSnapshot final, string code, string text) =>
        final with { Outcome = MigrationOutcome.Failed, ErrorCode = code, Error = text };
}
