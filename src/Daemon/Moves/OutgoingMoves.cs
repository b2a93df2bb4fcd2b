using System.Collections.Concurrent;
using System.Net;
using Godwit.Api.V1;
using Godwit.Daemon.Cluster;
using Godwit.Daemon.Guests;
using Godwit.Daemon.Inventories;
using Godwit.Host.Qemu;
using Godwit.Host.Registry;
using Godwit.Host.Transfers;
using Godwit.Host.Trust;
using Godwit.Migration;
using Godwit.Migration.HandOver;
using MigrationPolicy = Godwit.Migration.MigrationPolicy;
using MigrationPhase = Godwit.Migration.MigrationPhase;
using MigrationOutcome = Godwit.Migration.MigrationOutcome;

namespace Godwit.Daemon.Moves;

/// <summary>Guests that leave this host: the checks, the move, and who owns the guest afterwards.</summary>
internal sealed partial class OutgoingMoves(
    DaemonSettings settings, GuestKeeper guests, Machines machines, QemuFacts qemu, Membership membership,
    PeerLinks links, ClusterTrust trust, HandOvers handOvers, MoveReports reports, InventoryKeeper inventory,
    LadderBook ladders, SwitchoverTurns turns, BandwidthShares shares, TimeProvider clock,
    ILogger<OutgoingMoves> logger)
    : IDisposable
{
    private static readonly TimeSpan CheckDeadline = TimeSpan.FromSeconds(10);
    private static readonly TimeSpan PrepareDeadline = TimeSpan.FromSeconds(60);
    private static readonly TimeSpan MeasuringPatience = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan ProgressPeriod = TimeSpan.FromSeconds(5);
    private readonly ConcurrentDictionary<string, Departure> _departures = new();
    private readonly CancellationTokenSource _shutdown = new();

    public IEnumerable<Move> All => _departures.Values.Select(departure => departure.Move);

    /// <summary>Takes up what an earlier daemon left in the middle.</summary>
    public async Task StartAsync()
    {
        foreach (var handOver in handOvers.Outstanding)
        {
            await ResumeSettlementAsync(handOver);
        }

        foreach (var record in await reports.ListAsync("", uint.MaxValue, CancellationToken.None))
        {
            if (record.From == settings.HostName && record.Snapshot.Phase != MigrationPhase.Ended
                && !_departures.ContainsKey(record.Id))
            {
                await reports.PutAsync(EndOfReport(record));
            }
        }
    }

    // Of a move that the last daemon neither finished nor left in doubt.
    private MigrationRecord EndOfReport(MigrationRecord record)
    {
        var guest = guests.Find(record.GuestUuid);
        var snapshot = record.Snapshot with { Phase = MigrationPhase.Ended };
        if (guest is { Machine: null } && guest.Record.Host == settings.HostName)
        {
            return record with
            {
                GuestRunsOn = "",
                Snapshot = snapshot with
                {
                    Outcome = MigrationOutcome.Failed,
                    ErrorCode = "guest-lost",
                    Error = LostText(record.Guest, guest.Record.Contract),
                },
            };
        }

        return guest?.Record.Host == record.To
            ? record with
            {
                GuestRunsOn = record.To, Snapshot = snapshot with { Outcome = MigrationOutcome.Completed },
            }
            : record with
            {
                GuestRunsOn = settings.HostName,
                Snapshot = snapshot with
                {
                    Outcome = MigrationOutcome.Failed,
                    ErrorCode = "daemon-ended",
                    Error = $"godwitd on host '{settings.HostName}' ended in the middle of the move. "
                        + $"{record.Guest} runs on {settings.HostName}, where it was.",
                },
            };
    }

    /// <summary>Refuses for every reason that can be known beforehand; otherwise starts the move and returns.</summary>
    public async Task<Move> StartAsync(
        string name, string to, MigrationPolicy policy, CancellationToken cancellationToken)
    {
        policy = ladders.Resolve(policy);
        var (guest, host, refusals, notes) = await CheckAsync(name, to, policy, cancellationToken);
        MoveRefusals.Throw(guest.Record.Name, to, refusals);
        _shutdown.Token.ThrowIfCancellationRequested();
        QemuMachine machine;
        var id = MoveId.Create(clock.GetUtcNow());
        using (await GuestKeeper.EnterAsync(guest, cancellationToken))
        {
            machine = RequireMovable(guest);
            await guests.CatchUpAsync(guest);
            // From here on nobody else starts, stops or moves it.
            guest.MigrationId = id;
        }

        var record = guest.Record;
        var postcopy = policy.MayTurnToPostcopy && notes.Count == 0;
        var departure = new Departure(guest, host, new Move(new MigrationRecord(
            id, record.Uuid, record.Name, settings.HostName, host.Name, policy, clock.GetUtcNow(), settings.HostName,
            new MigrationSnapshot { MayTurnToPostcopy = postcopy })), postcopy);
        _departures[id] = departure;
        Log.MoveStarted(logger, id, record.Name, settings.HostName, host.Name);
        departure.Finished = Task.Run(() => MoveAsync(departure, machine), CancellationToken.None);
        return departure.Move;
    }

    public Move? Find(string idOrGuest)
    {
        var moves = _departures.Values.Select(departure => departure.Move).ToList();
        var ofGuest = moves.Where(move => move.Record.Guest == idOrGuest).MaxBy(move => move.Id);
        var byId = moves.Where(move => move.Id.StartsWith(idOrGuest, StringComparison.Ordinal)).ToList();
        return ofGuest ?? (idOrGuest.Length > 0 && byId.Count == 1 ? byId[0] : null);
    }

    /// <summary>Asks a move to end before its commit, and waits until the guest's place is settled.</summary>
    /// <exception cref="GodwitException">
    /// <c>migration-committed</c> if it is too late, <c>migration-over</c>.
    /// </exception>
    public async Task CancelAsync(Move move, CancellationToken cancellationToken)
    {
        if (!_departures.TryGetValue(move.Id, out var departure))
        {
            throw Over(move.Record);
        }

        // The transfer is asked before the token falls: once the token has ended it, it too says that it is too late.
        var isTooLate = departure.Transfer?.Cancel() == false;
        if (isTooLate && handOvers.Find(move.Id) is not null)
        {
            throw new GodwitException("migration-committed",
                $"Migration {move.Id} has been committed: "
                + $"guest '{move.Record.Guest}' belongs to host '{move.Record.To}'.",
                $"Move it back when it has arrived: 'godwit vm migrate {move.Record.Guest} --to {settings.HostName}' "
                + $"on host '{move.Record.To}'.");
        }

        await departure.Cancel.CancelAsync();
        await departure.Finished.WaitAsync(cancellationToken);
    }

    /// <summary>Changes what a move may cost while it runs.</summary>
    /// <exception cref="GodwitException">
    /// <c>migration-over</c>; <c>migration-late</c>: the guest is about to be paused, or has been.
    /// </exception>
    public void Change(Move move, ChangeMigrationRequest request)
    {
        if (!_departures.TryGetValue(move.Id, out var departure) || departure.Transfer is not { } transfer)
        {
            throw Over(move.Record);
        }

        void Require(bool done)
        {
            if (!done)
            {
                throw new GodwitException("migration-late",
                    $"Migration {move.Id} is {move.Record.Snapshot.Verdict}: the guest is paused, about to be, or runs "
                    + $"on host '{move.Record.To}'.", "Its rate can still be set; nothing else can be changed now.");
            }
        }

        if (request.HasMaxDowntimeMs)
        {
            var policy = move.Record.Policy with { DowntimeMax = TimeSpan.FromMilliseconds(request.MaxDowntimeMs) };
            MoveRefusals.Throw(move.Record.Guest, move.Record.To, [.. CheckBudget(policy)]);
            Require(transfer.SetDowntimeMax(policy.DowntimeMax));
            move.Set(record => record with { Policy = policy });
        }

        if (request.HasSuspended)
        {
            Require(transfer.Suspend(request.Suspended));
        }

        if (request.HasBandwidthBitsPerSecond)
        {
            var cap = (long)Math.Min(request.BandwidthBitsPerSecond, long.MaxValue);
            shares.Set(transfer, cap);
            move.Set(record => record with { Policy = record.Policy with { BandwidthBitsPerSecond = cap } });
        }
    }

    public static GodwitException Over(MigrationRecord record) => new("migration-over",
        $"Migration {record.Id} has ended ({record.Snapshot.Outcome.ToString().ToLowerInvariant()}); "
        + $"guest '{record.Guest}' was then on host '{record.GuestRunsOn}'.", "There is nothing to cancel.");

    /// <summary>Ends every move that is not committed and finishes those that are.</summary>
    public async Task StopAsync()
    {
        await _shutdown.CancelAsync();
        await Task.WhenAll(_departures.Values.Select(departure => departure.Finished));
    }

    public void Dispose() => _shutdown.Dispose();

    private async Task MoveAsync(Departure departure, QemuMachine machine)
    {
        var move = departure.Move;
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(_shutdown.Token, departure.Cancel.Token);
        using var moving = CancellationTokenSource.CreateLinkedTokenSource(stop.Token);
        var progress = KeepProgressAsync(move, moving.Token);
        var started = clock.GetTimestamp();
        var isPrepared = false;
        MigrationSnapshot final;
        try
        {
            await reports.PutAsync(move.Record);
            var measured = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            _ = ForecastBesideAsync(departure, measured, stop.Token);
            var prepared = await PrepareAsync(departure, machine, stop.Token);
            isPrepared = true;
            // What is measured of link and processors is not to be the move's own beginning.
            await Task.WhenAny(measured.Task, Task.Delay(MeasuringPatience, clock, stop.Token));
            final = await TransferAsync(departure, machine, prepared, stop.Token);
        }
        catch (OperationCanceledException) when (stop.IsCancellationRequested)
        {
            var cause = _shutdown.IsCancellationRequested
                ? $"godwitd on host '{settings.HostName}' is shutting down" : "The migration was cancelled";
            final = End(move, started, MigrationOutcome.Cancelled, "migration-cancelled", cause + ".");
        }
        catch (GodwitException exception)
        {
            final = End(move, started, MigrationOutcome.Failed, exception.Code, Because(exception));
        }
        catch (Exception exception)
        {
            Log.CallBroken(logger, $"Migration {move.Id}", exception);
            final = End(move, started, MigrationOutcome.Failed, "internal", exception.Message);
        }

        await moving.CancelAsync();
        await progress;
        // Whoever needed it first has missed it, and does not know why.
        if (final.Outcome == MigrationOutcome.Failed && await machine.HasDiedAsync())
        {
            final = final with
            {
                ErrorCode = "guest-lost", Error = LostText(move.Record.Guest, machine.Contract),
            };
        }

        await SettleAsync(departure, final, HandOverRules.FateOf(final.Outcome), isPrepared);
    }

    // What a daemon that takes the move up after this one knows of it. Not in the blackout, where the disk is needed.
    private async Task KeepProgressAsync(Move move, CancellationToken cancellationToken)
    {
        using var timer = new PeriodicTimer(ProgressPeriod, clock);
        try
        {
            while (await timer.WaitForNextTickAsync(cancellationToken))
            {
                if (move.Record is { Snapshot.Phase: MigrationPhase.Copying } record)
                {
                    await reports.PutAsync(record);
                }
                else if (move.Record.Snapshot.Phase > MigrationPhase.Copying)
                {
                    return;
                }
            }
        }
        catch (OperationCanceledException)
        {
        }
        catch (GodwitException exception)
        {
            Log.ReportLost(logger, move.Id, settings.HostName, exception.Message);
        }
    }

    private string LostText(string guest, MachineContract contract) =>
        $"The QEMU of {guest} on {settings.HostName} ended during the move, and the guest with it: it runs nowhere. "
        + $"What QEMU said last: {machines.LastWords(contract)}. Start it again: 'godwit vm start {guest}'.";

    private async Task<PrepareIncomingResponse> PrepareAsync(
        Departure departure, QemuMachine machine, CancellationToken cancellationToken)
    {
        var record = departure.Guest.Record;
        var request = new PrepareIncomingRequest
        {
            MigrationId = departure.Move.Id,
            Spec = ContractMapping.ToSpec(record.Contract),
            From = settings.HostName,
            Policy = MoveMapping.ToApi(departure.Move.Record.Policy),
            SourceQemuVersion = qemu.VersionText,
            Lanes = (uint)settings.Lanes,
            WireVersionMin = WireVersions.Min,
            WireVersionMax = WireVersions.Max,
            Epoch = record.Epoch,
            CreatedUnixMs = record.Created.ToUnixTimeMilliseconds(),
            CpuFeaturesMissing = { await machine.FeaturesMissingAsync(cancellationToken) },
            Postcopy = departure.Postcopy,
        };
        return await links.CallAsync(departure.Host, PrepareDeadline,
            (peer, options) => peer.PrepareIncomingAsync(request, options), cancellationToken);
    }

    private async Task<MigrationSnapshot> TransferAsync(
        Departure departure, QemuMachine machine, PrepareIncomingResponse prepared, CancellationToken cancellationToken)
    {
        const int TicketBytes = 32;
        var (move, host) = (departure.Move, departure.Host);
        const int JournalBytes = 16;
        if (prepared.Ticket.Length != TicketBytes || prepared.Journal.Length != JournalBytes
            || prepared.LanePort is 0 or > 65535
            || prepared.WireVersion is < WireVersions.Min or > WireVersions.Max)
        {
            throw new GodwitException("stream-format",
                $"Host '{host.Name}' answered with a ticket of {prepared.Ticket.Length} bytes, "
                + $"a journal's identity of {prepared.Journal.Length} bytes, port {prepared.LanePort} "
                + $"and wire version {prepared.WireVersion}.",
                "Compare the versions of both daemons with 'godwit host list'.");
        }

        var terms = new TransferTerms(
            move.Id, move.Record.Guest, settings.HostName, host.Name, move.Record.Policy, prepared.Ticket.ToByteArray(),
            (int)prepared.WireVersion, settings.Lanes,
            departure.Postcopy && prepared.WireVersion >= WireVersions.Postcopy);
        var endpoint = new IPEndPoint(await ResolveAsync(host, cancellationToken), (int)prepared.LanePort);
        PeerVerdict? refused = null;
        GodwitException? unrecorded = null;
        var guest = departure.Guest.Record;
        var commit = new HandOverRecord(HandOverState.Committed, move.Id, guest.Uuid, host.Name, guest.Epoch + 1,
            new Guid(prepared.Journal.Span));
        async Task CommitAsync()
        {
            try
            {
                await handOvers.RecordAsync(commit);
            }
            catch (GodwitException exception)
            {
                unrecorded = exception;
                throw;
            }
        }

        var steps = new DepartureSteps(
            CommitAsync, () => handOvers.RecordAsync(commit with { State = HandOverState.Reclaimed }));

        using var arrived = inventory.OpenArrival(guest.Contract, move.Record.Policy, host.Name);
        var transfer = new SourceTransfer(
            machine, terms, endpoint, trust.ClientOptions(host.Name, verdict => refused = verdict),
            machines.Directory(guest.Contract), steps, logger, turns,
            terms.WireVersion >= WireVersions.ChangedPages ? arrived : null);
        transfer.Changed += snapshot => move.Set(record => record with
        {
            Snapshot = Monotonic(record.Snapshot, snapshot),
            GuestRunsOn = RunsThere(snapshot) ? host.Name : record.GuestRunsOn,
        });
        departure.Start(transfer);
        shares.Set(transfer, move.Record.Policy.BandwidthBitsPerSecond);
        // Silent from the pause on: the switch must not hear the guest from here once it may run there.
        void FollowPause(QmpEvent qmpEvent)
        {
            if (qmpEvent.Name is "STOP" or "RESUME")
            {
                machines.SetLinks(machine, up: qmpEvent.Name == "RESUME");
            }
        }

        machine.EventReceived += FollowPause;
        MigrationSnapshot final;
        try
        {
            final = await transfer.RunAsync(cancellationToken);
        }
        finally
        {
            machine.EventReceived -= FollowPause;
            shares.Remove(transfer);
        }

        if (final.Outcome is not (MigrationOutcome.Completed or MigrationOutcome.Unsettled))
        {
            machines.SetLinks(machine, up: true);
        }

        if (final.Outcome != MigrationOutcome.Failed)
        {
            return final;
        }

        // The transfer knows that something failed; what and why is known here.
        return unrecorded is not null
            ? final with { ErrorCode = unrecorded.Code, Error = $"{Because(unrecorded)} {WhereItIs(move)}" }
            : refused is { } verdict
                ? final with { ErrorCode = verdict.Code, Error = $"{final.Error} Cause: {verdict.Reason}." }
                : final;
    }

    // The last snapshot says "ended" only after the owner is recorded and the source's QEMU is gone: until then a
    // watcher that sees the end would find the guest in between.
    private static MigrationSnapshot Monotonic(MigrationSnapshot previous, MigrationSnapshot next) => next with
    {
        Phase = next.Phase == MigrationPhase.Ended
            ? (MigrationPhase)Math.Min(
                (int)MigrationPhase.Committed, Math.Max((int)previous.Phase, (int)LastOpen(next)))
            : next.Phase,
        Outcome = MigrationOutcome.Pending,
        Forecast = previous.Forecast,
        ErrorCode = "",
        Error = "",
    };

    private static MigrationPhase LastOpen(MigrationSnapshot snapshot) =>
        snapshot.Outcome == MigrationOutcome.Completed ? MigrationPhase.Committed : MigrationPhase.Preparing;

    private async Task AbandonAsync(string id, HostRecord host, string reason)
    {
        try
        {
            var request = new AbandonIncomingRequest { MigrationId = id, Reason = reason };
            await links.CallAsync(host, CheckDeadline,
                (peer, options) => peer.AbandonIncomingAsync(request, options), CancellationToken.None);
        }
        catch (GodwitException exception)
        {
            // It ends the arrival by itself: its lanes are gone, or its reservation lapses.
            Log.ReportLost(logger, id, host.Name, exception.Message);
        }
    }

    private async Task TellOthersAsync(MigrationRecord record, long epoch, string destination)
    {
        foreach (var host in await membership.ListAsync(CancellationToken.None))
        {
            if (host.Name != destination && host.Name != settings.HostName)
            {
                await TellAsync(record, epoch, host.Name);
            }
        }
    }

    private async Task TellAsync(MigrationRecord record, long epoch, string name)
    {
        var request = new RecordMigrationRequest
        {
            Migration = MoveMapping.ToApi(record),
            GuestUuid = record.GuestUuid.ToString(),
            Epoch = epoch,
        };
        try
        {
            var host = await membership.FindAsync(name, CancellationToken.None);
            await links.CallAsync(host, CheckDeadline,
                (peer, options) => peer.RecordMigrationAsync(request, options), CancellationToken.None);
        }
        catch (GodwitException exception)
        {
            Log.ReportLost(logger, record.Id, name, exception.Message);
        }
    }

    private MigrationSnapshot End(
        Move move, long started, MigrationOutcome outcome, string code, string error) => move.Record.Snapshot with
        {
            Phase = MigrationPhase.Ended,
            Outcome = outcome,
            ErrorCode = code,
            Error = $"{error} {WhereItIs(move)}",
            Elapsed = clock.GetElapsedTime(started),
        };

    // QEMU's own words, with which a message may end, have no full stop.
    private static string Because(GodwitException exception) =>
        $"{exception.Message.TrimEnd('.')}. {exception.Remedy}".TrimEnd();

    private string WhereItIs(Move move) => $"{move.Record.Guest} runs on {settings.HostName}, where it was.";

    private static async Task<IPAddress> ResolveAsync(HostRecord host, CancellationToken cancellationToken)
    {
        var name = new Uri($"https://{host.Address}").Host.Trim('[', ']');
        if (IPAddress.TryParse(name, out var address))
        {
            return address;
        }

        try
        {
            return (await Dns.GetHostAddressesAsync(name, cancellationToken))[0];
        }
        catch (System.Net.Sockets.SocketException exception)
        {
            throw new GodwitException("host-unreachable",
                $"The address {name} of host '{host.Name}' cannot be resolved: {exception.Message}.",
                "Check DNS, or let the host join with an IP address.", exception);
        }
    }

    // In postcopy the guest's place is known long before the move is over.
    private static bool RunsThere(MigrationSnapshot snapshot) =>
        snapshot.Phase == MigrationPhase.Committed && snapshot.Verdict == "fetching"
        && snapshot.Downtime > TimeSpan.Zero;

    private sealed class Departure(LocalGuest guest, HostRecord host, Move move, bool postcopy)
    {
        /// <summary>The move may turn to postcopy.</summary>
        public bool Postcopy => postcopy;
        /// <summary>What the destination said when it lacked memory.</summary>
        public SettleMigrationResponse? Fetching { get; set; }

        private readonly Lock _expecting = new();
        private Godwit.Migration.Convergence.Forecast? _expected;
        private volatile TaskCompletionSource<Decision> _decision =
            new(TaskCreationOptions.RunContinuationsAsynchronously);

        public LocalGuest Guest => guest;
        public HostRecord Host => host;
        public Move Move => move;
        public CancellationTokenSource Cancel { get; } = new();
        public SourceTransfer? Transfer { get; private set; }

        /// <summary>The move has begun: what was expected of it meanwhile is told to it.</summary>
        public void Start(SourceTransfer transfer)
        {
            lock (_expecting)
            {
                Transfer = transfer;
                if (_expected is not null)
                {
                    transfer.Expect(_expected);
                }
            }
        }

        public void Expect(Godwit.Migration.Convergence.Forecast forecast)
        {
            lock (_expecting)
            {
                _expected = forecast;
                Transfer?.Expect(forecast);
            }
        }

        /// <summary>Ends when an operator has named a host that has not been taken yet.</summary>
        public Task Decided => _decision.Task;
        public Task Finished { get; set; } = Task.CompletedTask;

        /// <summary>An operator says where the guest runs.</summary>
        public void Decide(Decision decision) => _decision.TrySetResult(decision);

        /// <summary>Null if there is none that has not been taken.</summary>
        public Decision? TakeDecision()
        {
            if (!_decision.Task.IsCompleted)
            {
                return null;
            }

            var decision = _decision.Task.Result;
            _decision = new(TaskCreationOptions.RunContinuationsAsynchronously);
            return decision;
        }
    }

    /// <param name="ResumesCopy">The paused copy goes on, if the host is this one.</param>
    private sealed record Decision(string Host, bool ResumesCopy);
}
