using Godwit.Api.V1;
using Godwit.ChunkStore.Parcels;
using Godwit.Daemon.Guests;
using Godwit.Host.Parcels;
using Godwit.Migration;
using ParcelKind = Godwit.ChunkStore.Parcels.ParcelKind;

namespace Godwit.Daemon.Parcels;

// What a resume will need, fetched ahead of it.
internal sealed partial class ParcelKeeper
{
    private static readonly TimeSpan HoardToldEvery = TimeSpan.FromMilliseconds(250);
    private readonly Dictionary<Guid, Hoarding> _hoarding = [];

    /// <summary>Hoards what a parcel needs, here or on another host.</summary>
    /// <param name="told">Told how far it is, and at last how it ended.</param>
    public async Task HoardAsync(
        HoardGuestRequest request, Func<HoardProgress, Task> told, CancellationToken cancellationToken)
    {
        if (request.On.Length > 0 && request.On != settings.HostName)
        {
            var host = await membership.FindAsync(request.On, cancellationToken);
            var there = request.Clone();
            there.On = "";
            await links.FollowAsync(host, (peer, options) => peer.HoardHere(there, options), told, cancellationToken);
            return;
        }

        if (request.ByItself && settings.HoardMebibytes == 0)
        {
            throw new GodwitException("hoard-off", $"Host '{settings.HostName}' fetches nothing of its own accord.",
                "Set hoardMebibytes there; 'godwit vm hoard' works without it.");
        }

        var (entry, manifest) = await FindAsync(request.Reference, request.Store, ResumeMode.Fork);
        await Task.Run(() => RequireWorthHoarding(manifest, request.Reference), cancellationToken);
        await Track(StoreErrors.GuardAsync(
            entry.Name, () => HoardHereAsync(entry, manifest, request, told, cancellationToken)));
    }

    private async Task<bool> HoardHereAsync(
        StoreEntry entry, ParcelManifest manifest, HoardGuestRequest request, Func<HoardProgress, Task> told,
        CancellationToken cancellationToken)
    {
        using var turn = await TakeHoardingTurnAsync(Guid.Parse(manifest.Guest), request.ByItself, cancellationToken);
        var stop = turn.Stop;
        var contract = ContractJson.Read(manifest);
        var started = clock.GetTimestamp();
        await using var work = new StoreWork(
            entry.Name, TimeSpan.FromSeconds(settings.StoreSilenceSeconds), clock, stop);
        ParcelHoarder? hoarder = null;
        HoardProgress Progress(HoardReport report) => new()
        {
            Parcel = ParcelMapping.ToApi(entry.Name, manifest, ""),
            Host = settings.HostName,
            NeededBytes = (ulong)report.Needed,
            HeldBytes = (ulong)report.Held,
            WantedBytes = (ulong)report.Wanted,
            HoardedBytes = (ulong)report.Hoarded,
            LeftBytes = (ulong)report.Left,
            FetchedBytes = (ulong)report.Fetched,
            TotalSeconds = clock.GetElapsedTime(started).TotalSeconds,
        };

        async Task RunAsync(Func<Task> step)
        {
            var running = work.RunAsync(step);
            while (await Task.WhenAny(running, Task.Delay(HoardToldEvery, clock, stop.Token)) != running
                && !stop.IsCancellationRequested)
            {
                try
                {
                    await told(Progress(hoarder!.Report));
                }
                catch
                {
                    // Nobody listens any more. What it works with is disposed of behind it.
                    await stop.CancelAsync();
                    await running.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
                    throw;
                }
            }

            await running;
        }

        try
        {
            var store = await work.RunAsync(() => stores.Open(entry));
            work.Own(await work.RunAsync(() => stores.Begin(store)));
            var have = work.Own(await inventory.OpenBesideHoardAsync(contract));
            var hoard = work.Own(inventory.BeginHoard(contract, have));
            var reader = work.Own(store.OpenReader(hoard, stop.Token));
            hoarder = new ParcelHoarder(reader, manifest, have, hoard);
            work.Steps = () => hoarder.Steps;
            var bytes = 0L;
            await RunAsync(async () => bytes = await hoarder.PlanAsync(stop.Token));
            var room = inventory.MakeHoardRoom(
                contract, bytes, request.ByItself ? (long)settings.HoardMebibytes << 20 : null);
            if (room < bytes && !request.ByItself)
            {
                throw NoRoom(manifest, $"{bytes >> 20} MiB, and it has room for {room >> 20} MiB");
            }

            var lacking = bytes - room;
            await RunAsync(() => hoarder.FetchAsync(
                (hoarder.Report.Wanted - lacking) / Godwit.Pages.Page.Size,
                request.ByItself ? (ulong)settings.HoardMegabits * 1_000_000 : request.BandwidthBitsPerSecond,
                stop.Token));
            var report = hoarder.Report;
            Log.ParcelHoarded(
                logger, manifest.Id, manifest.Name, report.Hoarded, report.Held, report.Left, report.Fetched,
                clock.GetElapsedTime(started).TotalSeconds);
            var last = Progress(report);
            last.Ended = true;
            await told(last);
            return true;
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException
            && !StoreErrors.IsKnown(exception))
        {
            throw NoRoom(manifest, $"what cannot be written there: {exception.Message}");
        }
        catch (OperationCanceledException exception) when (!cancellationToken.IsCancellationRequested)
        {
            Log.ParcelHoardEnded(logger, manifest.Id, manifest.Name, exception.Message);
            throw new GodwitException("hoard-ended",
                $"Host '{settings.HostName}' hoards no more for guest '{manifest.Name}': it resumes it, or ends.",
                "What has come by then is used. If the guest still sleeps, hoard again.", exception);
        }
        catch (Exception exception)
        {
            Log.ParcelHoardEnded(logger, manifest.Id, manifest.Name, exception.Message);
            throw;
        }
    }

    private GodwitException NoRoom(ParcelManifest manifest, string what) => new("hoard-room",
        $"To hoard parcel {manifest.Id} of guest '{manifest.Name}' the inventory of host '{settings.HostName}' takes "
        + $"{what}.",
        "Raise inventoryMebibytes there, make room with 'godwit store trim', or free space on its disk: 'df'.");

    // A guest's name means where it goes on from; a parcel that is named may be wanted for a fork or a rollback.
    private void RequireWorthHoarding(ParcelManifest manifest, string reference)
    {
        var known = guests.Find(Guid.Parse(manifest.Guest));
        if (known?.Machine is not null && known.Record.Host == settings.HostName)
        {
            throw Awake(manifest, settings.HostName);
        }

        if (!manifest.Id.StartsWith(reference, StringComparison.Ordinal) && manifest.Kind == ParcelKind.Suspend
            && ResumedOn(manifest) is { Length: > 0 } owner)
        {
            throw Awake(manifest, owner);
        }
    }

    private static GodwitException Awake(ParcelManifest manifest, string host) => new("hoard-awake",
        $"Guest '{manifest.Name}' runs on host '{host}' and has no parcel that it would go on from elsewhere.",
        $"On '{host}': 'godwit vm suspend {manifest.Name}', or 'godwit vm checkpoint {manifest.Name}' to hoard most of "
        + "it while it runs on.");

    /// <summary>Waits until nobody hoards for a guest; what one does of its own accord gives way.</summary>
    private async Task<Hoarding> TakeHoardingTurnAsync(
        Guid guest, bool byItself, CancellationToken cancellationToken)
    {
        var stop = CancellationTokenSource.CreateLinkedTokenSource(_shutdown.Token, cancellationToken);
        var mine = new Hoarding(this, guest, byItself, stop);
        while (true)
        {
            Hoarding? other;
            lock (_hoarding)
            {
                if (_hoarding.TryAdd(guest, mine))
                {
                    return mine;
                }

                other = _hoarding[guest];
            }

            // One that nobody follows any more is about to end as well.
            if (!other.IsByItself && !other.Stop.IsCancellationRequested)
            {
                stop.Dispose();
                throw new GodwitException("hoard-busy",
                    $"Host '{settings.HostName}' is hoarding for guest {guest} already.",
                    "Wait until that has ended, or end it where it was asked for.");
            }

            await other.EndAsync();
        }
    }

    /// <summary>Ends the hoarding for a guest, which is about to need what has come.</summary>
    private async Task EndHoardingAsync(Guid guest)
    {
        Hoarding? hoarding;
        lock (_hoarding)
        {
            hoarding = _hoarding.GetValueOrDefault(guest);
        }

        if (hoarding is not null)
        {
            await hoarding.EndAsync();
        }
    }

    /// <summary>The sole right to hoard for a guest; ends with its disposal.</summary>
    private sealed class Hoarding(ParcelKeeper keeper, Guid guest, bool byItself, CancellationTokenSource stop)
        : IDisposable
    {
        private readonly TaskCompletionSource _over = new(TaskCreationOptions.RunContinuationsAsynchronously);

        public bool IsByItself => byItself;

        public CancellationTokenSource Stop => stop;

        public async Task EndAsync()
        {
            try
            {
                await stop.CancelAsync();
            }
            catch (ObjectDisposedException)
            {
                // It has ended by itself.
            }

            await _over.Task;
        }

        public void Dispose()
        {
            lock (keeper._hoarding)
            {
                keeper._hoarding.Remove(guest);
            }

            stop.Dispose();
            _over.TrySetResult();
        }
    }
}
