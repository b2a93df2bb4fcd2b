using Godwit.Api.V1;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.Daemon.Guests;
using Godwit.Daemon.Moves;
using Godwit.Host.Parcels;
using Godwit.Host.Qemu;
using Godwit.Host.Registry;
using Godwit.Migration;
using ParcelKind = Godwit.ChunkStore.Parcels.ParcelKind;

namespace Godwit.Daemon.Parcels;

// Out of a parcel: which one, whether it may be run here, whose the guest is, and then the guest itself.
internal sealed partial class ParcelKeeper
{
    private static readonly TimeSpan TellDeadline = TimeSpan.FromSeconds(10);
    private static readonly TimeSpan RemoteDeadline = TimeSpan.FromMinutes(30);

    /// <summary>Wakes a guest, here or on another host.</summary>
    public async Task<ResumeGuestResponse> ResumeAsync(
        ResumeGuestRequest request, CancellationToken cancellationToken)
    {
        if (request.On.Length > 0 && request.On != settings.HostName)
        {
            var host = await membership.FindAsync(request.On, cancellationToken);
            var there = request.Clone();
            there.On = "";
            return await links.CallAsync(
                host, RemoteDeadline, (peer, options) => peer.ResumeHereAsync(there, options), cancellationToken);
        }

        var (entry, manifest) = await FindAsync(request.Reference, request.Store, request.Mode);
        return await Track(StoreErrors.GuardAsync(
            entry.Name, () => ResumeHereAsync(entry, manifest, request, cancellationToken)));
    }

    private async Task<ResumeGuestResponse> ResumeHereAsync(
        StoreEntry entry, ParcelManifest manifest, ResumeGuestRequest request, CancellationToken cancellationToken)
    {
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(_shutdown.Token, cancellationToken);
        var started = clock.GetTimestamp();
        var store = stores.Open(entry);
        var fork = request.Mode == ResumeMode.Fork ? ResumePlan.Fork(manifest, request.NewName) : null;
        using var reserved = await guests.ReserveAsync(
            fork?.Contract.Uuid ?? Guid.Parse(manifest.Guest), manifest.Id, stop.Token);
        if (request.Mode == ResumeMode.Rollback && guests.Find(Guid.Parse(manifest.Guest)) is { } known)
        {
            // The word on where it sleeps may be in another store than the one gone back to.
            await GiveUpIfClaimedAsync(known);
        }

        var home = fork is null ? RequireHome(manifest) : store;
        var takenFrom = "";
        ResumePlan plan;
        if (fork is null && request.TakeOver)
        {
            (plan, takenFrom) = await PlanTakeOverAsync(home, manifest, stop.Token);
        }
        else
        {
            plan = fork ?? await Task.Run(
                () => request.Mode == ResumeMode.Rollback ? PlanRollback(home, manifest) : PlanResume(home, manifest),
                stop.Token);
        }

        await RequireFitAsync(manifest, plan, stop.Token);
        var lasting = new List<IDisposable>();
        try
        {
            return await ResumeHereAsync(
                entry, store, home, manifest, plan, takenFrom, request, reserved, lasting, started, stop.Token);
        }
        finally
        {
            lasting.ForEach(one => one.Dispose());
        }
    }

    /// <param name="takenFrom">The host that the guest is taken from by an operator's word, or empty.</param>
    /// <param name="lasting">Disposed of by the caller, unless it is taken over by what goes on afterwards.</param>
    private async Task<ResumeGuestResponse> ResumeHereAsync(
        StoreEntry entry, Store store, Store home, ParcelManifest manifest, ResumePlan plan, string takenFrom,
        ResumeGuestRequest request, GuestKeeper.Reservation reserved, List<IDisposable> lasting, long started,
        CancellationToken cancellationToken)
    {
        var contract = plan.Contract;
        var note = new ParcelNote(entry.Name, manifest.Id, ParcelStage.Resuming);
        List<(Store Store, long Epoch)> claimed = [];
        LocalGuest? guest = null;
        QemuMachine? machine = null;
        LazyMemory? lazy = null;
        var taking = Task.CompletedTask;
        Task? noting = null;
        // Whether what the guest was here before is gone: then it can only go on from the parcel.
        var isGivenUp = false;
        var runs = false;
        try
        {
            await EndHoardingAsync(Guid.Parse(manifest.Guest));
            // Where the store is far each word in it takes seconds, and so do the disks where they are large: they do
            // not wait for each other, and what has to come from afar comes meanwhile.
            if (plan.MustClaim)
            {
                taking = Task.Run(
                    () => TakeAsync(home, manifest, plan, claimed, takenFrom), CancellationToken.None);
            }

            lasting.Add(await Task.Run(() => stores.Begin(store), CancellationToken.None));
            var known = await inventory.OpenAsync(contract, new Godwit.Migration.MigrationPolicy());
            if (known is not null)
            {
                lasting.Add(known);
            }

            await using var reading = request.Lazy
                ? LazyContent.BeginRead(store, manifest, known, cancellationToken) : null;
            using var reader = store.OpenReader(known, cancellationToken);
            var restorer = new ParcelRestorer(reader, manifest, known);
            await Task.Run(() => CompareDisks(restorer, manifest, plan, cancellationToken), cancellationToken);
            await taking;
            guest = await guests.AdoptParcelAsync(contract, plan.Epoch, note);
            // It may be said too early that a guest has run, and never too late.
            noting = plan.MustClaim
                ? Task.Run(() => ParcelShelf.NoteRun(
                    home, manifest.Guest, plan.Epoch, Claim(manifest), Stores.Random), CancellationToken.None)
                : null;
            await Task.Run(
                () => RestoreDisks(restorer, manifest, plan, isOwn: false, cancellationToken), cancellationToken);
            isGivenUp = guest.BeforeArrival is { Parcel: not { Stage: ParcelStage.Asleep } } before
                && before.Host == settings.HostName;
            await guests.EndEveryCopyAsync(guest);
            await Task.Run(
                () => RestoreDisks(restorer, manifest, plan, isOwn: true, cancellationToken), cancellationToken);
            machine = await machines.StartAsync(contract, incoming: true, cancellationToken);
            if (reading is not null)
            {
                var content = await reading.Result;
                guest.WakePages = content.Wake;
                lazy = await LazyMemory.BeginAsync(
                    machine, manifest, content, store, known, machines.Directory(contract), logger, cancellationToken);
            }
            else
            {
                guest.WakePages = await Task.Run(restorer.ReadWake, cancellationToken);
                foreach (var memory in machine.OpenMemory())
                {
                    using (memory)
                    {
                        await Task.Run(() => restorer.RestoreMemory(memory, cancellationToken), cancellationToken);
                    }
                }

                await restorer.LoadStateAsync(machine, machines.Directory(contract), cancellationToken);
            }

            var announcer = Machines.OpenAnnouncer(machine);
            if (noting is not null)
            {
                // Whoever takes a guest over claims first and looks then whether it may have run; who owns it looks
                // whether it was taken over when it is noted that it may run: one of the two sees the other.
                await noting;
                await Task.Run(() => RequireNewest(home, manifest, plan.Epoch), CancellationToken.None);
            }

            // From here on a restart of the daemon finds a guest that is to run.
            await guests.WakeAsync(guest, lazy is null ? ParcelStage.Awake : ParcelStage.Filling);
            isGivenUp = true;
            guests.Attach(guest, machine);
            var running = machine;
            machine = null;
            await LetRunAsync(running);
            runs = true;
            machines.Announce(announcer, contract.Name);
            if (request.Mode == ResumeMode.Resume)
            {
                await NoteResumedAsync(SleepBook.Of(manifest), clock.GetUtcNow(), known);
            }

            if (lazy is not null)
            {
                reserved.Leave();
                _ = Track(FillAsync(guest, lazy, [.. lasting]));
                lasting.Clear();
            }
            else
            {
                reserved.Dispose();
                var awake = guest;
                _ = Track(Task.Run(() => RemoveNeed(awake, note), CancellationToken.None));
            }

            inventory.Arrived(guest);
            _ = Track(TellAsync(manifest));
            var seconds = clock.GetElapsedTime(started).TotalSeconds;
            var report = restorer.Report;
            if (reading is not null)
            {
                // What is fetched since goes on from what came ahead.
                report += (await reading.Result).Report with { FetchedBytes = lazy!.FetchedBytes };
            }

            Log.ParcelResumed(
                logger, manifest.Id, contract.Name, entry.Name, seconds, report.FetchedBytes, report.RebuiltBytes,
                report.KeptBytes);
            return new ResumeGuestResponse
            {
                Guest = guests.Describe(guest),
                Parcel = ParcelMapping.ToApi(entry.Name, manifest, settings.HostName),
                TotalSeconds = seconds,
                FetchedBytes = (ulong)report.FetchedBytes,
                KeptBytes = (ulong)report.KeptBytes,
                RebuiltBytes = (ulong)report.RebuiltBytes,
                ReadBytes = (ulong)report.ReadBytes,
                TakenFrom = takenFrom,
            };
        }
        catch (Exception exception) when (!runs)
        {
            Log.ParcelReturned(logger, manifest.Id, contract.Name, exception.Message);
            if (lazy is not null)
            {
                await lazy.DisposeAsync();
            }

            if (machine is not null)
            {
                await Machines.EndAsync(machine);
            }

            // What is taken back below has to be there by then.
            await Task.WhenAll(taking, noting ?? Task.CompletedTask)
                .ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            var asleepHere = $"{contract.Name} sleeps on {settings.HostName} in parcel {manifest.Id}: only this host "
                + "can wake it.";
            if (isGivenUp)
            {
                // Its disks may be of two instants, or it may have run: it sleeps in the parcel, and only here.
                await guests.FallAsleepAsync(guest!, note);
                Log.ParcelKept(logger, manifest.Id, contract.Name);
                throw StoreErrors.Explain(entry.Name, exception, asleepHere);
            }

            // It has not run: the parcel is as it was, and anybody may resume it.
            var isFree = claimed.ConvertAll(one => TryUnclaim(one.Store, manifest, one.Epoch)).TrueForAll(done => done)
                && claimed.Contains((home, plan.Epoch));
            var asBefore = request.Mode == ResumeMode.Resume
                ? $"{contract.Name} sleeps in parcel {manifest.Id} of store '{entry.Name}', as before."
                : $"{manifest.Name} is as it was.";
            if (guest is null)
            {
                throw StoreErrors.Explain(entry.Name, exception, asBefore);
            }

            if (noting is null || isFree || guest.BeforeArrival?.Host == settings.HostName)
            {
                await guests.ReturnParcelAsync(guest);
                throw StoreErrors.Explain(entry.Name, exception, asBefore);
            }

            // The store says that it may have run here, and this host alone knows that it has not.
            await guests.FallAsleepAsync(guest, note);
            Log.ParcelKept(logger, manifest.Id, contract.Name);
            throw StoreErrors.Explain(entry.Name, exception, asleepHere);
        }
    }

    private static async Task LetRunAsync(QemuMachine machine)
    {
        try
        {
            await machine.ExecuteAsync("cont", null, CancellationToken.None);
        }
        catch (QmpException exception)
        {
            throw new GodwitException("parcel-load",
                $"QEMU does not let {machine.Contract.Name} run: {exception.Message}",
                "If it speaks of a lock, somebody else has the image open: 'fuser -v' on each host that reaches it.",
                exception);
        }
    }

    // Whoever put it to sleep learns that it is awake elsewhere; if not now, then when it is asked for the guest.
    private async Task TellAsync(ParcelManifest manifest)
    {
        if (manifest.Host == settings.HostName)
        {
            return;
        }

        try
        {
            var host = await membership.FindAsync(manifest.Host, CancellationToken.None);
            await links.CallAsync(
                host, TellDeadline,
                (peer, options) => peer.NoticeResumeAsync(
                    new NoticeResumeRequest { GuestUuid = manifest.Guest }, options),
                CancellationToken.None);
        }
        catch (GodwitException exception)
        {
            Log.ParcelUntold(logger, manifest.Id, manifest.Name, manifest.Host, exception.Message);
        }
    }

    /// <summary>Refuses for every reason that can be known before anything is fetched.</summary>
    private async Task RequireFitAsync(
        ParcelManifest manifest, ResumePlan plan, CancellationToken cancellationToken)
    {
        var contract = plan.Contract;
        var installation = qemu.Require();
        var refusals = new List<Refusal>();
        void Refuse(string code, string message, string remedy) =>
            refusals.Add(new Refusal { Code = code, Message = message, Remedy = remedy });
        // What the parcel brings need not be there.
        var brought = manifest.Disks.Select(disk => plan.PathOf(disk.Name)).ToHashSet();
        foreach (var refusal in MachineContractRules.CheckContract(contract)
            .Concat(MachineContractRules.CheckHost(contract).Where(one =>
                !brought.Any(path => !File.Exists(path) && one.Message.Contains(path, StringComparison.Ordinal))))
            .Concat(await installation.CheckAsync(contract, [.. manifest.CpuFeaturesMissing], cancellationToken)))
        {
            Refuse(refusal.Code, $"On host '{settings.HostName}': {refusal.Message}", refusal.Remedy);
        }

        if (Version.TryParse(manifest.Qemu, out var made) && installation.Version is { } here
            && (made.Major, made.Minor).CompareTo((here.Major, here.Minor)) > 0)
        {
            Refuse("qemu-older",
                $"Parcel {manifest.Id} was made by QEMU {made}; host '{settings.HostName}' has {here}, which may not "
                + "read it.", "Upgrade QEMU there, or resume on another host.");
        }

        // What a rollback ends first gives its memory back.
        var freed = guests.Find(contract.Uuid)?.Machine is null ? 0 : contract.MemoryBytes;
        var available = freed + HostFacts.Memory().AvailableBytes - ((long)settings.MemoryReserveMebibytes << 20);
        if (contract.MemoryBytes > available)
        {
            Refuse("memory-short",
                $"Guest '{contract.Name}' has {contract.MemoryBytes >> 20} MiB of memory; host '{settings.HostName}' "
                + $"has {Math.Max(available, 0) >> 20} MiB to give.",
                "Free memory there, or choose another host: 'godwit host list' shows who has how much.");
        }

        foreach (var (message, remedy) in DiskClashes(manifest, plan))
        {
            Refuse("parcel-disk", $"On host '{settings.HostName}': {message}", remedy);
        }

        foreach (var (code, message, remedy) in guests.Clashes(contract))
        {
            Refuse(code, $"On host '{settings.HostName}': {message}", remedy);
        }

        MoveRefusals.Throw(contract.Name, settings.HostName, refusals);
    }
}
