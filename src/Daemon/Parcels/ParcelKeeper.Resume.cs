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

    /// <summary>Finds the parcel that is meant: by its id, or the newest of a guest.</summary>
    private Task<(StoreEntry Entry, ParcelManifest Manifest)> FindAsync(
        string reference, string storeName, ResumeMode mode) => Task.Run(() =>
    {
        var matches = new List<(StoreEntry Entry, ParcelManifest Manifest, bool IsById)>();
        Exception? failure = null;
        var failed = "";
        foreach (var entry in storeName.Length > 0 ? [stores.Find(storeName)] : stores.All)
        {
            try
            {
                var store = stores.Open(entry);
                foreach (var (uuid, id) in ParcelShelf.List(store))
                {
                    var isById = reference.Length >= 4 && id.StartsWith(reference, StringComparison.Ordinal);
                    if (ParcelShelf.Find(store, uuid, id, trust) is { } manifest
                        && (isById || Matches(manifest, reference)))
                    {
                        matches.Add((entry, manifest, isById));
                    }
                }
            }
            catch (Exception exception) when (StoreErrors.IsKnown(exception))
            {
                (failure, failed) = (exception, entry.Name);
            }
        }

        var byId = matches.Where(match => match.IsById).ToList();
        if (byId.Count == 1 || (byId.Count > 1 && byId.All(match => match.Manifest.Id == byId[0].Manifest.Id)))
        {
            return (byId[0].Entry, byId[0].Manifest);
        }

        var newest = matches
            .Where(match => !match.IsById
                && (mode != ResumeMode.Resume || match.Manifest.Kind == ParcelKind.Suspend))
            .OrderBy(match => match.Manifest.Epoch).ThenBy(match => match.Manifest.Id, StringComparer.Ordinal)
            .LastOrDefault();
        return newest.Manifest is not null ? (newest.Entry, newest.Manifest)
            : failure is not null ? throw StoreErrors.Explain(failed, failure)
            : throw new GodwitException("parcel-unknown", byId.Count > 1
                    ? $"'{reference}' is the beginning of {byId.Count} parcels' ids."
                    : $"No store of host '{settings.HostName}' has a parcel of '{reference}'.",
                "List them with 'godwit vm history'; another store is named with --store.");
    });

    private async Task<ResumeGuestResponse> ResumeHereAsync(
        StoreEntry entry, ParcelManifest manifest, ResumeGuestRequest request, CancellationToken cancellationToken)
    {
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(_shutdown.Token, cancellationToken);
        var started = clock.GetTimestamp();
        var store = stores.Open(entry);
        var plan = request.Mode switch
        {
            ResumeMode.Rollback => await PlanRollbackAsync(store, manifest, stop.Token),
            ResumeMode.Fork => ResumePlan.Fork(manifest, request.NewName),
            _ => PlanResume(manifest),
        };
        await RequireFitAsync(manifest, plan, stop.Token);
        var lasting = new List<IDisposable> { stores.Begin(store) };
        try
        {
            return await ResumeHereAsync(entry, store, manifest, plan, request, lasting, started, stop.Token);
        }
        finally
        {
            lasting.ForEach(one => one.Dispose());
        }
    }

    /// <param name="lasting">Disposed of by the caller, unless it is taken over by what goes on afterwards.</param>
    private async Task<ResumeGuestResponse> ResumeHereAsync(
        StoreEntry entry, Store store, ParcelManifest manifest, ResumePlan plan, ResumeGuestRequest request,
        List<IDisposable> lasting, long started, CancellationToken cancellationToken)
    {
        var (contract, epoch) = (plan.Contract, plan.Epoch);
        var note = new ParcelNote(entry.Name, manifest.Id, ParcelStage.Resuming);
        var home = plan.MustClaim ? RequireHome(manifest) : store;
        await ClaimAsync(home, manifest, plan);
        if (request.Mode == ResumeMode.Rollback)
        {
            await GiveUpCopyAsync(contract.Uuid, cancellationToken);
        }

        LocalGuest guest;
        try
        {
            guest = await guests.AdoptParcelAsync(contract, epoch, note);
        }
        catch
        {
            Unclaim(home, manifest, plan);
            throw;
        }

        guest.MigrationId = manifest.Id;
        QemuMachine? machine = null;
        LazyMemory? lazy = null;
        try
        {
            using var reader = store.OpenReader();
            var known = await inventory.OpenAsync(contract, new Godwit.Migration.MigrationPolicy());
            if (known is not null)
            {
                lasting.Add(known);
            }

            var restorer = new ParcelRestorer(reader, manifest, known);
            await Task.Run(() => RestoreDisks(restorer, manifest, plan, cancellationToken), cancellationToken);
            machine = await machines.StartAsync(contract, incoming: true, cancellationToken);
            if (request.Lazy)
            {
                lazy = await LazyMemory.BeginAsync(
                    machine, manifest, restorer, store, known, machines.Directory(contract), logger, cancellationToken);
            }
            else
            {
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
            // From here on a restart of the daemon finds a guest that is to run.
            await guests.WakeAsync(guest, lazy is null ? ParcelStage.Awake : ParcelStage.Filling);
            guests.Attach(guest, machine);
            var running = machine;
            machine = null;
            await running.ExecuteAsync("cont", null, CancellationToken.None);
            machines.Announce(announcer, contract.Name);
            if (lazy is not null)
            {
                _ = Track(FillAsync(guest, lazy, [.. lasting]));
                lasting.Clear();
            }
            else
            {
                guest.MigrationId = "";
            }

            inventory.Arrived(guest);
            _ = Track(TellAsync(manifest));
            var seconds = clock.GetElapsedTime(started).TotalSeconds;
            var report = restorer.Report with
            {
                FetchedBytes = restorer.Report.FetchedBytes + (lazy?.FetchedBytes ?? 0),
            };
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
            };
        }
        catch (Exception exception) when (guest.Record.Parcel is { Stage: ParcelStage.Resuming })
        {
            // It has not run: the parcel is as it was, and anybody may resume it.
            Log.ParcelReturned(logger, manifest.Id, contract.Name, exception.Message);
            if (lazy is not null)
            {
                await lazy.DisposeAsync();
            }

            if (machine is not null)
            {
                await Machines.EndAsync(machine);
            }

            guest.MigrationId = "";
            await guests.ReturnParcelAsync(guest);
            Unclaim(home, manifest, plan);
            throw;
        }
    }

    private Store? TryOpenHome(ParcelManifest manifest)
    {
        foreach (var entry in stores.All)
        {
            try
            {
                if (stores.Open(entry) is { } store && store.Descriptor.Id == manifest.Home)
                {
                    return store;
                }
            }
            catch (Exception exception) when (StoreErrors.IsKnown(exception))
            {
                // It may be another one.
            }
        }

        return null;
    }

    // A copy of a parcel in another store has what it takes to run the guest, and not the word who may.
    private Store RequireHome(ParcelManifest manifest) => TryOpenHome(manifest) ?? throw new GodwitException(
        "parcel-copy",
        $"Parcel {manifest.Id} is a copy: who may run guest '{manifest.Name}' is decided in the store that it was made "
        + $"in ({manifest.Home}), which host '{settings.HostName}' does not reach.",
        "Make that store known here with 'godwit store create', or begin another guest: 'godwit vm fork'.");

    /// <summary>Looks whether another host has taken over a guest that sleeps here: the store has the word.</summary>
    public async Task LookForClaimAsync(string uuid)
    {
        if (!Guid.TryParse(uuid, out var id) || guests.Find(id) is not { } guest)
        {
            return;
        }

        using var alone = await GuestKeeper.EnterAsync(guest, CancellationToken.None);
        var record = guest.Record;
        if (record.Parcel is not { Stage: ParcelStage.Asleep } note || record.Host != settings.HostName)
        {
            return;
        }

        await StoreErrors.GuardAsync(note.Store, async () =>
        {
            var store = stores.Open(stores.Find(note.Store));
            if (ParcelShelf.FindClaim(store, id.ToString(), record.Epoch + 1) is { } claim
                && claim.Host != settings.HostName)
            {
                await guests.GiveUpAsleepAsync(guest, claim.Host, record.Epoch + 1);
            }

            return true;
        });
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

    /// <summary>Waits until all of a guest's memory is there.</summary>
    /// <remarks>The end of the daemon waits for it too: without it the guest could not go on.</remarks>
    private async Task FillAsync(LocalGuest guest, LazyMemory lazy, List<IDisposable> lasting)
    {
        var started = clock.GetTimestamp();
        var note = guest.Record.Parcel!;
        await lazy.Completed.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        await lazy.DisposeAsync();
        lasting.ForEach(one => one.Dispose());
        if (lazy.Completed.IsCompletedSuccessfully)
        {
            Log.ParcelFilled(logger, note.Id, guest.Record.Name, clock.GetElapsedTime(started).TotalSeconds,
                lazy.FetchedBytes, lazy.PagesAsked);
        }

        guest.MigrationId = "";
        try
        {
            await guests.StoreParcelAsync(guest, note with { Stage = ParcelStage.Awake });
        }
        catch (GodwitException exception)
        {
            Log.ParcelUnsettled(logger, note.Id, guest.Record.Name, note.Store, exception.Message);
        }
    }

    private static void RestoreDisks(
        ParcelRestorer restorer, ParcelManifest manifest, ResumePlan plan, CancellationToken cancellationToken)
    {
        foreach (var part in manifest.Disks)
        {
            restorer.RestoreDisk(part, plan.PathOf(part.Name), plan.IsOwnDisk(part.Name), cancellationToken);
        }
    }

    /// <summary>The guest as it is known here may not run any more: it goes back to what it was.</summary>
    private async Task GiveUpCopyAsync(Guid uuid, CancellationToken cancellationToken)
    {
        if (guests.Find(uuid) is { } known)
        {
            using var alone = await GuestKeeper.EnterAsync(known, cancellationToken);
            await GuestKeeper.EndCopyAsync(known);
        }
    }

    private ResumePlan PlanResume(ParcelManifest manifest)
    {
        var contract = ContractJson.Read(manifest);
        if (manifest.Kind != ParcelKind.Suspend)
        {
            throw new GodwitException("parcel-checkpoint",
                $"Parcel {manifest.Id} is a checkpoint: guest '{manifest.Name}' went on after it.",
                $"Go back to it with 'godwit vm rollback {manifest.Id}', or begin another guest from it with "
                + $"'godwit vm fork {manifest.Id} --name NAME'.");
        }

        var plan = new ResumePlan(contract, manifest.Epoch + 1, MustClaim: true);
        if (guests.Find(contract.Uuid) is not { } known)
        {
            return plan;
        }

        if (known.MigrationId.Length > 0)
        {
            throw GuestKeeper.State(known, $"is busy ({known.MigrationId})", "Wait until that has ended.");
        }

        var record = known.Record;
        if (record.Host == settings.HostName && record.Parcel is not { Stage: ParcelStage.Asleep })
        {
            throw GuestKeeper.State(known, known.Machine is not null ? "runs here" : "is stopped here, and not asleep",
                $"Start it with 'godwit vm start', or go back to the parcel: 'godwit vm rollback {manifest.Id}'.");
        }

        if (record.Epoch > manifest.Epoch && !(record.Epoch == manifest.Epoch + 1 && record.Parcel?.Id == manifest.Id))
        {
            throw Stale(manifest, record.Host);
        }

        return plan;
    }

    // Whoever owns the guest takes it back, or anybody if it sleeps and nobody has resumed it.
    private Task<ResumePlan> PlanRollbackAsync(
        Store store, ParcelManifest manifest, CancellationToken cancellationToken) => Task.Run(() =>
    {
        var contract = ContractJson.Read(manifest);
        var epoch = manifest.Epoch;
        if (guests.Find(contract.Uuid) is { } known)
        {
            guests.RequireHere(known);
            epoch = Math.Max(epoch, known.Record.Epoch);
        }

        foreach (var (_, id) in ParcelShelf.List(store).Where(parcel => parcel.Guest == manifest.Guest))
        {
            cancellationToken.ThrowIfCancellationRequested();
            epoch = Math.Max(epoch, ParcelShelf.Find(store, manifest.Guest, id, trust)?.Epoch ?? 0);
        }

        return new ResumePlan(contract, epoch + 1, MustClaim: true);
    }, cancellationToken);

    private static GodwitException Stale(ParcelManifest manifest, string owner) => new("parcel-stale",
        $"Guest '{manifest.Name}' has been resumed from parcel {manifest.Id} already, by host '{owner}': it is its "
        + "owner now.",
        $"Look at 'godwit vm show {manifest.Name}' there; 'godwit vm history {manifest.Name}' lists its parcels.");

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

        foreach (var (code, message, remedy) in guests.Clashes(contract))
        {
            Refuse(code, $"On host '{settings.HostName}': {message}", remedy);
        }

        MoveRefusals.Throw(contract.Name, settings.HostName, refusals);
    }

    private async Task ClaimAsync(Store store, ParcelManifest manifest, ResumePlan plan)
    {
        if (!plan.MustClaim)
        {
            return;
        }

        var claim = new ParcelClaim(manifest.Id, settings.HostName, clock.GetUtcNow().ToUnixTimeMilliseconds());
        if (await Task.Run(() => ParcelShelf.TryClaim(
            store, manifest.Guest, plan.Epoch, claim, Stores.Random)) is { } other)
        {
            await LookForClaimAsync(manifest.Guest);
            throw Stale(manifest, other.Host);
        }
    }

    private void Unclaim(Store store, ParcelManifest manifest, ResumePlan plan)
    {
        if (!plan.MustClaim)
        {
            return;
        }

        try
        {
            ParcelShelf.Unclaim(store, manifest.Guest, plan.Epoch);
        }
        catch (StorageException exception)
        {
            // It stays this host's to resume.
            Log.ParcelUnsettled(logger, manifest.Id, manifest.Name, "", exception.Message);
        }
    }
}
