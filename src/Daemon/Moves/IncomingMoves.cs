using System.Collections.Concurrent;
using System.Security.Cryptography;
using Godwit.Api.V1;
using Godwit.ChunkStore;
using Godwit.Daemon.Guests;
using Godwit.Daemon.Inventories;
using Godwit.Host.Network;
using Godwit.Host.Inventory;
using Godwit.Host.Qemu;
using Godwit.Host.Registry;
using Godwit.Host.Transfers;
using Godwit.Migration;
using Godwit.Migration.HandOver;
using Google.Protobuf;
using MigrationPhase = Godwit.Migration.MigrationPhase;
using MigrationOutcome = Godwit.Migration.MigrationOutcome;

namespace Godwit.Daemon.Moves;

/// <summary>Guests on their way to this host: a waiting QEMU, a reservation, and a transfer each.</summary>
internal sealed class IncomingMoves(
    DaemonSettings settings, IncomingChecks checks, GuestKeeper guests, Machines machines, LaneListener lanes,
    HandOvers handOvers, MoveReports reports, InventoryKeeper inventory, TimeProvider clock,
    ILogger<IncomingMoves> logger) : IDisposable
{
    private const int TicketBytes = 32;
    private static readonly TimeSpan SettlePatience = TimeSpan.FromSeconds(5);
    private readonly ConcurrentDictionary<string, Arrival> _arrivals = new();
    private readonly SemaphoreSlim _preparing = new(1);
    private readonly CancellationTokenSource _shutdown = new();

    private long ReservedBytes => _arrivals.Values.Sum(arrival => arrival.Contract.MemoryBytes);

    public Task<List<Refusal>> CheckAsync(
        CheckIncomingRequest request, string from, CancellationToken cancellationToken) =>
        checks.CheckAsync(request, from, ReservedBytes, cancellationToken);

    /// <summary>Takes up arrivals that an earlier daemon left without all of their memory.</summary>
    public void Start()
    {
        foreach (var guest in guests.All.Where(guest => guest.TakenUp is not null))
        {
            TryTakeUp(guest, guest.TakenUp!);
        }
    }

    private void TryTakeUp(LocalGuest guest, HandOverRecord handOver)
    {
        lock (guest)
        {
            if (!_arrivals.ContainsKey(handOver.Migration) && TakeUp(guest, handOver) is { } arrival)
            {
                _arrivals[handOver.Migration] = arrival;
                arrival.Finished = Task.Run(() => ReceiveAsync(arrival, guest, null), CancellationToken.None);
            }
        }
    }

    private Arrival? TakeUp(LocalGuest guest, HandOverRecord handOver)
    {
        var contract = guest.Record.Contract;
        try
        {
            if (HeldGuest.TryOpen(contract, machines.Directory(contract), handOver.Migration) is not { } held)
            {
                // Its QEMU has ended; whoever watches it finds out.
                Log.ArrivalNotTakenUp(logger, handOver.Migration, contract.Name, "its QEMU has ended");
                guest.MigrationId = "";
                guest.TakenUp = null;
                return null;
            }

            // Lanes and ticket are agreed when the source asks.
            var terms = new TransferTerms(handOver.Migration, contract.Name, handOver.Peer, settings.HostName,
                new(), RandomNumberGenerator.GetBytes(TicketBytes), WireVersions.Max, settings.Lanes,
                Postcopy: true);
            var steps = new ArrivalSteps(
                () => Task.CompletedTask, () => Task.CompletedTask,
                async () =>
                {
                    await guest.Adopted.Task;
                    return TimeSpan.Zero;
                });
            var transfer = new DestinationTransfer(
                null, terms, machines.Directory(contract), steps, null, logger, held: held);
            Log.ArrivalTakenUp(logger, handOver.Migration, contract.Name, handOver.Peer);
            return new Arrival(contract, transfer, null, new Move(new MigrationRecord(
                terms.MigrationId, contract.Uuid, contract.Name, terms.From, terms.To, terms.Policy, clock.GetUtcNow(),
                settings.HostName, new MigrationSnapshot())));
        }
        catch (Exception exception) when (exception is IOException or GodwitException or UnauthorizedAccessException)
        {
            if (exception is EndOfStreamException && HasAll(guest))
            {
                guest.MigrationId = "";
                guest.TakenUp = null;
                return null;
            }

            // It may lack memory: until it has been taken up nobody is told that it runs, for the source would give up
            // what is missing. It is tried again whenever the source asks.
            Log.ArrivalNotTakenUp(logger, handOver.Migration, contract.Name, exception.Message);
            return null;
        }
    }

    private static bool HasAll(LocalGuest guest)
    {
        try
        {
            return guest.Machine is { } machine && (string?)machine
                .ExecuteAsync("query-migrate", null, CancellationToken.None).GetAwaiter().GetResult()?["status"]
                == "completed";
        }
        catch (Exception exception) when (exception is GodwitException or QmpException or IOException)
        {
            return false;
        }
    }

    public IEnumerable<Refusal> CheckPostcopy() => checks.CheckPostcopy();

    public IEnumerable<Move> All => _arrivals.Values.Select(arrival => arrival.Move);

    /// <summary>Which contents could be rebuilt here for a guest that came; nothing is begun by asking.</summary>
    /// <exception cref="GodwitException"><c>contract-invalid</c>.</exception>
    public async Task<FindContentsResponse> FindContentsAsync(FindContentsRequest request)
    {
        const int NamesMax = 4096;
        var contract = ContractMapping.ToContract(request.Spec);
        // As in a move: what a peer names as a disk is opened here.
        if (MachineContractRules.Check(contract) is [var refusal, ..])
        {
            throw new GodwitException(refusal.Code, refusal.Message, refusal.Remedy);
        }

        if (request.Names.Length % ContentName.Size != 0 || request.Names.Length > NamesMax * ContentName.Size)
        {
            throw new GodwitException("contract-invalid",
                $"Contents are asked for by {request.Names.Length} bytes of names; a name has {ContentName.Size} "
                + $"bytes, and {NamesMax} are possible.",
                "Compare the versions of both daemons with 'godwit host list'.");
        }

        var found = new byte[request.Names.Length / ContentName.Size];
        using var known = await inventory.OpenAsync(
            contract, MoveMapping.ToPolicy(request.Policy), withRunning: false);
        for (var index = 0; known is not null && index < found.Length; index++)
        {
            found[index] = known.Holds(ContentName.Read(request.Names.Span[(index * ContentName.Size)..]))
                ? (byte)1 : (byte)0;
        }

        return new FindContentsResponse { Found = ByteString.CopyFrom(found) };
    }

    /// <summary>Starts the waiting QEMU; the guest arrives as soon as the source presents the ticket.</summary>
    public async Task<PrepareIncomingResponse> PrepareAsync(
        PrepareIncomingRequest request, CancellationToken cancellationToken)
    {
        var contract = ContractMapping.ToContract(request.Spec);
        await _preparing.WaitAsync(cancellationToken);
        try
        {
            // Asked again although the source asked before: the host may have changed, and the source may be another.
            var check = new CheckIncomingRequest
            {
                Spec = request.Spec,
                WireVersionMin = request.WireVersionMin,
                WireVersionMax = request.WireVersionMax,
                CpuFeaturesMissing = { request.CpuFeaturesMissing },
            };
            MoveRefusals.Throw(
                contract.Name, settings.HostName, await CheckAsync(check, request.From, cancellationToken));
            return await PrepareCheckedAsync(request, contract, cancellationToken);
        }
        finally
        {
            _preparing.Release();
        }
    }

    private async Task<PrepareIncomingResponse> PrepareCheckedAsync(
        PrepareIncomingRequest request, MachineContract contract, CancellationToken cancellationToken)
    {
        const uint LanesMax = 16;
        if (request.Lanes is 0 or > LanesMax || request.MigrationId.Length is 0 or > 64)
        {
            throw new GodwitException("contract-invalid",
                $"Host '{request.From}' asks for {request.Lanes} lanes; 1 to {LanesMax} are possible.",
                "Set lanes in its configuration.");
        }

        var terms = new TransferTerms(
            request.MigrationId, contract.Name, request.From, settings.HostName, MoveMapping.ToPolicy(request.Policy),
            RandomNumberGenerator.GetBytes(TicketBytes), (int)Math.Min(request.WireVersionMax, (uint)WireVersions.Max),
            (int)request.Lanes);
        terms = terms with { Postcopy = request.Postcopy && terms.WireVersion >= WireVersions.Postcopy };
        if (terms.Postcopy && CheckPostcopy().FirstOrDefault() is { } impossible)
        {
            throw new GodwitException(impossible.Code, impossible.Message, impossible.Remedy);
        }

        var created = DateTimeOffset.FromUnixTimeMilliseconds(
            Math.Clamp(request.CreatedUnixMs, 0, DateTimeOffset.MaxValue.ToUnixTimeMilliseconds()));
        var guest = await guests.ExpectAsync(contract, request.From, request.Epoch, created, request.MigrationId);
        QemuMachine machine;
        try
        {
            machine = await machines.StartAsync(contract, incoming: true, cancellationToken);
        }
        catch (GodwitException exception)
        {
            await guests.DropIncomingAsync(guest);
            throw new GodwitException(
                exception.Code, $"On host '{settings.HostName}': {exception.Message}", exception.Remedy, exception);
        }
        catch
        {
            await guests.DropIncomingAsync(guest);
            throw;
        }

        // Made ready now, so that nothing but sending is left at the instant of resume.
        var announcer = Machines.OpenAnnouncer(machine);
        var handOver = new HandOverRecord(HandOverState.Resuming, terms.MigrationId, contract.Uuid, terms.From,
            request.Epoch + 1, Guid.Empty);
        var steps = new ArrivalSteps(
            () => handOvers.RecordAsync(handOver),
            () => handOvers.RecordAsync(handOver with { State = HandOverState.Refused }),
            () => ArriveAsync(guest, machine, announcer));
        var known = terms.WireVersion >= WireVersions.Inventory
            ? await inventory.OpenAsync(contract, terms.Policy) : null;
        var came = terms.WireVersion >= WireVersions.Inventory
            ? inventory.BeginArrival(contract, terms.Policy, terms.From) : null;
        var transfer = new DestinationTransfer(
            machine, terms, machines.Directory(contract), steps, known, logger, came);
        var move = new Move(new MigrationRecord(
            terms.MigrationId, contract.Uuid, contract.Name, terms.From, terms.To, terms.Policy, clock.GetUtcNow(),
            terms.From, new MigrationSnapshot()));
        var arrival = new Arrival(contract, transfer, announcer, move);
        _arrivals[terms.MigrationId] = arrival;
        lanes.Expect(transfer);
        arrival.Finished = Task.Run(() => ReceiveAsync(arrival, guest, machine, came), CancellationToken.None);
        _ = LapseAsync(arrival);
        Log.MoveExpected(logger, terms.MigrationId, contract.Name, terms.From, terms.Lanes);
        return new PrepareIncomingResponse
        {
            Ticket = ByteString.CopyFrom(terms.Ticket),
            LanePort = (uint)lanes.Port,
            WireVersion = (uint)terms.WireVersion,
            Journal = ByteString.CopyFrom(handOvers.Identity.ToByteArray()),
        };
    }

    /// <summary>Ends an arrival that was never committed; does nothing for one that is unknown or over.</summary>
    public async Task AbandonAsync(string migrationId, string caller, string reason)
    {
        if (!_arrivals.TryGetValue(migrationId, out var arrival))
        {
            return;
        }

        if (arrival.Transfer.Terms.From != caller)
        {
            throw new GodwitException("certificate-host-mismatch",
                $"Migration {migrationId} is of host '{arrival.Transfer.Terms.From}'; "
                + $"the certificate names '{caller}'.",
                "A host ends its own moves only: cancel it there.");
        }

        if (arrival.Transfer.Abandon(reason))
        {
            Log.MoveAbandoned(logger, migrationId, arrival.Contract.Name, reason);
            // The source says that the move has ended only after this: the next may then begin at once.
            await arrival.Finished;
        }
    }

    /// <summary>Says who may run the guest of a move from the caller; final unless it is unknown.</summary>
    public async Task<SettleMigrationResponse> SettleAsync(
        SettleMigrationRequest request, string caller, CancellationToken cancellationToken)
    {
        var response = new SettleMigrationResponse
        {
            Journal = ByteString.CopyFrom(handOvers.Identity.ToByteArray()),
        };
        if (guests.All.FirstOrDefault(one => one.TakenUp?.Migration == request.MigrationId)
            is { TakenUp: { } left } found)
        {
            RequireParty(request.MigrationId, left.Peer, caller);
            await Task.Run(() => TryTakeUp(found, left), cancellationToken);
            if (found.TakenUp is not null && !_arrivals.ContainsKey(request.MigrationId))
            {
                response.Detail = "The guest runs and may lack memory; its QEMU cannot be taken up yet.";
                return response;
            }
        }

        if (_arrivals.TryGetValue(request.MigrationId, out var arrival))
        {
            RequireParty(request.MigrationId, arrival.Transfer.Terms.From, caller);
            if (request.Fence && arrival.Transfer.IsFetching)
            {
                var fenced = guests.Find(arrival.Contract.Uuid);
                await FenceAsync(request, handOvers.Find(request.MigrationId), fenced, caller);
            }

            // Whoever asks has lost the lanes: what has not been committed on them is by this word, or never will be.
            // One that nobody waits for any more is out of date.
            cancellationToken.ThrowIfCancellationRequested();
            if (request.Commits && !request.Fence)
            {
                arrival.Transfer.Commit();
            }
            else
            {
                arrival.Transfer.Abandon($"Host '{caller}' asks how the move has ended.");
            }

            using var patience = new CancellationTokenSource(SettlePatience, clock);
            using var waiting = CancellationTokenSource.CreateLinkedTokenSource(patience.Token, cancellationToken);
            if (!request.Fence)
            {
                await ComeToRestAsync(arrival, waiting.Token);
                // Whoever asks keeps what the guest lacks, unless it has been given to somebody else meanwhile.
                if (arrival.Transfer.IsFetching && await TryRejoinAsync(arrival.Transfer, response))
                {
                    return response;
                }
            }

            await arrival.Finished.WaitAsync(waiting.Token).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            if (!arrival.Finished.IsCompleted)
            {
                response.Detail = "The guest is being started, or ended.";
                return response;
            }
        }

        var record = handOvers.Find(request.MigrationId);
        if (record is not null)
        {
            RequireParty(request.MigrationId, record.Peer, caller);
        }

        var guest = Guid.TryParse(request.GuestUuid, out var uuid) ? guests.Find(uuid) : null;
        if (request.Fence)
        {
            await FenceAsync(request, record, guest, caller);
            response.Verdict = HandOverVerdict.Refused;
            return response;
        }

        var copy = guest?.Machine is null ? GuestCopy.Gone : guest.IsPaused ? GuestCopy.Paused : GuestCopy.Running;
        var answer = handOvers.Answer(
            guest?.Record.Owned, guest?.Record.Detail.Length > 0, copy, request.MigrationId, request.Epoch);
        response.Verdict = answer switch
        {
            HandOverAnswer.Runs => HandOverVerdict.Runs,
            HandOverAnswer.Died => HandOverVerdict.Died,
            HandOverAnswer.Refused => HandOverVerdict.Refused,
            _ => HandOverVerdict.Unknown,
        };
        response.Detail = guest?.Record.Detail ?? "";
        Log.MoveAsked(logger, request.MigrationId, caller, answer.ToString());
        return response;
    }

    private async Task<bool> TryRejoinAsync(DestinationTransfer transfer, SettleMigrationResponse response)
    {
        var ticket = RandomNumberGenerator.GetBytes(TicketBytes);
        if (!await Task.Run(() => transfer.TryRejoin(ticket)))
        {
            return false;
        }

        lanes.Expect(transfer);
        response.Verdict = HandOverVerdict.Fetching;
        response.Ticket = ByteString.CopyFrom(ticket);
        response.LanePort = (uint)lanes.Port;
        response.WireVersion = (uint)transfer.Terms.WireVersion;
        response.Lanes = (uint)transfer.Terms.Lanes;
        return true;
    }

    private void RequireParty(string migration, string source, string caller)
    {
        if (source != caller)
        {
            throw new GodwitException("migration-foreign",
                $"Host '{caller}' asks about migration {migration}, which brings a guest of host '{source}' to "
                + $"'{settings.HostName}'.", "Only the two hosts of a migration may settle it.");
        }
    }

    // An operator has decided that the guest runs at the source. A copy of it here is void, whatever it does.
    private async Task FenceAsync(
        SettleMigrationRequest request, HandOverRecord? record, LocalGuest? guest, string caller)
    {
        if (guest is not null && HandOverRules.IsFenced(record, guest.Record.Uuid))
        {
            await guests.FenceAsync(guest, caller, request.Epoch);
        }

        if (record?.State is null or HandOverState.Resuming)
        {
            await handOvers.RecordAsync(new HandOverRecord(HandOverState.Refused, request.MigrationId,
                guest?.Record.Uuid ?? Guid.Empty, caller, request.Epoch, Guid.Empty));
        }
    }

    /// <summary>
    /// Waits until this host's own end of a move is written down and the guest is free for the next one: what the
    /// source reports takes the place of it, and whoever hears of the end from there may ask here at once.
    /// </summary>
    public async Task FinishAsync(string migration)
    {
        if (_arrivals.TryGetValue(migration, out var arrival))
        {
            await Task.WhenAny(arrival.Finished, Task.Delay(SettlePatience, clock, _shutdown.Token));
        }
    }

    /// <summary>
    /// Ends every arrival that is not committed and waits for those that are, but not for memory that is to come: the
    /// guest runs, its QEMU holds the stream, and the next daemon takes that up.
    /// </summary>
    public async Task StopAsync()
    {
        await _shutdown.CancelAsync();
        await Task.WhenAll(_arrivals.Values.Select(arrival => ComeToRestAsync(arrival, CancellationToken.None)));
    }

    // It is over, or its guest runs and only lacks memory.
    private async Task ComeToRestAsync(Arrival arrival, CancellationToken cancellationToken)
    {
        while (!arrival.Finished.IsCompleted && !arrival.Transfer.IsFetching
            && !cancellationToken.IsCancellationRequested)
        {
            await Task.WhenAny(arrival.Finished, Task.Delay(TimeSpan.FromMilliseconds(10), clock, cancellationToken));
        }
    }

    public void Dispose()
    {
        _preparing.Dispose();
        _shutdown.Dispose();
    }

    /// <summary>Called at the instant of resume: the network first, for clients wait for it; then the record.</summary>
    /// <returns>From the resume to the first announcement.</returns>
    private async Task<TimeSpan> ArriveAsync(LocalGuest guest, QemuMachine machine, Announcer announcer)
    {
        var contract = guest.Record.Contract;
        var announced = machines.Announce(announcer, contract.Name);
        try
        {
            await guests.TakeAsync(guest);
        }
        catch (GodwitException exception)
        {
            // The guest runs here whatever the registry says; a restart finds it running and records it then.
            Log.OwnershipUnrecorded(
                logger, guest.MigrationId, exception.Message, contract.Name, settings.HostName);
        }

        guests.Attach(guest, machine);
        return announced;
    }

    /// <param name="machine">Null for an arrival that was taken up.</param>
    /// <param name="came">What is noted of the guest's memory; disposed of here.</param>
    private async Task ReceiveAsync(
        Arrival arrival, LocalGuest guest, QemuMachine? machine, ArrivedMemory? came = null)
    {
        using var noted = came;
        try
        {
            await ReceiveNotedAsync(arrival, guest, machine, noted);
        }
        catch (Exception exception)
        {
            // The guest stays on its way here until the daemon is restarted: nobody may have to guess why.
            Log.ArrivalBroken(logger, arrival.Transfer.Terms.MigrationId, arrival.Contract.Name, exception);
            throw;
        }
    }

    private async Task ReceiveNotedAsync(
        Arrival arrival, LocalGuest guest, QemuMachine? machine, ArrivedMemory? noted)
    {
        var terms = arrival.Transfer.Terms;
        var snapshot = await arrival.Transfer.RunAsync(_shutdown.Token);
        if (snapshot.Outcome == MigrationOutcome.Completed)
        {
            inventory.Arrived(guest, noted);
            guest.MigrationId = "";
            guest.TakenUp = null;
            arrival.Move.Set(record => record with { Snapshot = snapshot, GuestRunsOn = settings.HostName });
            Log.MoveEnded(logger, terms.MigrationId, "completed", snapshot.Elapsed.TotalSeconds, snapshot.WireBytes,
                snapshot.Downtime.TotalMilliseconds, arrival.Contract.Name, settings.HostName);
        }
        else
        {
            arrival.Move.Set(record => record with { Snapshot = snapshot });
            arrival.Announcer?.Dispose();
            if (!await JournalIsPutBackAsync())
            {
                // The next daemon finds QEMU, and in the journal whether the guest may run.
                return;
            }

            if (terms.Postcopy)
            {
                await guests.EndArrivalAsync(guest, machine);
            }
            else if (machine is not null)
            {
                await Machines.EndAsync(machine);
            }

            guest.TakenUp = null;
            try
            {
                // Closed: an operator at the source has decided that it runs here.
                if (handOvers.Find(terms.MigrationId) is { State: HandOverState.Resuming or HandOverState.Closed })
                {
                    await guests.LoseAsync(guest, snapshot.Error);
                }
                else
                {
                    await guests.DropIncomingAsync(guest);
                }
            }
            catch (GodwitException exception)
            {
                // Its record stays and says "incoming"; the next arrival or the next start of the daemon ends that.
                Log.OwnershipUnrecorded(
                    logger, terms.MigrationId, exception.Message, arrival.Contract.Name, terms.From);
            }

            Log.MoveFailed(
                logger, terms.MigrationId, snapshot.ErrorCode, snapshot.Error, arrival.Contract.Name, terms.From);
        }

        try
        {
            // The source's report, which knows more, takes its place when it comes.
            await reports.PutAsync(arrival.Move.Record);
        }
        catch (GodwitException exception)
        {
            Log.ReportLost(logger, terms.MigrationId, settings.HostName, exception.Message);
        }

        _arrivals.TryRemove(terms.MigrationId, out _);
    }

    // A record that could not be written may stand in the journal all the same. A daemon that started now, and found it
    // without a QEMU, would take the guest for one that came and died.
    private async Task<bool> JournalIsPutBackAsync()
    {
        while (!handOvers.TryPutBack())
        {
            try
            {
                await Task.Delay(TimeSpan.FromSeconds(1), clock, _shutdown.Token);
            }
            catch (OperationCanceledException)
            {
                return false;
            }
        }

        return true;
    }

    /// <summary>Gives up a reservation that no lane has claimed in time.</summary>
    private async Task LapseAsync(Arrival arrival)
    {
        var patience = TimeSpan.FromSeconds(settings.ReservationSeconds);
        await Task.WhenAny(arrival.Finished, Task.Delay(patience, clock, _shutdown.Token));
        if (!arrival.Finished.IsCompleted && !arrival.Transfer.HasLane)
        {
            var reason = $"No lane of host '{arrival.Transfer.Terms.From}' came within {patience.TotalSeconds:F0} s.";
            await AbandonAsync(arrival.Transfer.Terms.MigrationId, arrival.Transfer.Terms.From, reason);
        }
    }

    private sealed class Arrival(
        MachineContract contract, DestinationTransfer transfer, Announcer? announcer, Move move)
    {
        public MachineContract Contract => contract;
        public DestinationTransfer Transfer => transfer;
        public Announcer? Announcer => announcer;
        public Move Move => move;
        public Task Finished { get; set; } = Task.CompletedTask;
    }
}
