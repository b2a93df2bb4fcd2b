using Godwit.Api.V1;
using Godwit.ChunkStore;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.Daemon.Moves;
using Godwit.Host.Registry;
using Godwit.Migration;

namespace Godwit.Daemon.Parcels;

// Upkeep of stores.
internal sealed partial class ParcelKeeper
{
    /// <summary>Forgets a store that no guest of this host needs.</summary>
    public void ForgetStore(string storeName)
    {
        var entry = stores.Find(storeName);
        if (guests.All.FirstOrDefault(guest => guest.Record.Host == settings.HostName
            && guest.Record.Parcel is { } note && note.Store == entry.Name
            && note.Stage != ParcelStage.Awake) is { } one)
        {
            throw new GodwitException("store-busy",
                $"{one.Record.Name} is in parcel {one.Record.Parcel!.Id} of store '{entry.Name}'.",
                $"Resume it first: 'godwit vm resume {one.Record.Name}'.");
        }

        stores.Forget(entry.Name);
    }

    /// <summary>Removes what no parcel needs.</summary>
    public Task<CollectStoreResponse> CollectAsync(string storeName, CancellationToken cancellation)
    {
        var entry = stores.Find(storeName);
        return UntilStoppedAsync(entry.Name, stop =>
        {
            var now = clock.GetUtcNow();
            // What moves into new packs is soon freed in old ones: the quota is not for this.
            var options = Stores.WriterOptions(entry) with { QuotaBytes = 0 };
            var report = new StoreCollector(stores.Open(entry), trust, options)
                .Run(MoveId.Create(now), settings.HostName, now.ToUnixTimeMilliseconds(), stop);
            Log.StoreCollected(logger, entry.Name, report.PacksRemoved, report.BytesFreed, report.Waiting);
            return new CollectStoreResponse
            {
                ChunksLive = (ulong)report.ChunksLive,
                PacksRemoved = (uint)report.PacksRemoved,
                FreedBytes = (ulong)report.BytesFreed,
                MovedBytes = (ulong)report.BytesMoved,
                PacksCondemned = (uint)report.PacksCondemned,
                WaitingFor = (uint)report.Waiting,
            };
        }, cancellation);
    }

    /// <summary>Copies parcels to another store.</summary>
    public async Task<CopyParcelsResponse> CopyAsync(
        CopyParcelsRequest request, CancellationToken cancellation)
    {
        var (from, to) = (stores.Find(request.From), stores.Find(request.To));
        var only = request.Reference.Length == 0 ? null
            : (await FindAsync(request.Reference, from.Name, ResumeMode.Fork)).Manifest;
        return await UntilStoppedAsync($"{from.Name}' or '{to.Name}", stop =>
        {
            var (source, destination) = (stores.Open(from), stores.Open(to));
            using var reading = stores.Begin(source);
            using var writing = stores.Begin(destination);
            var copier = new StoreCopier(source, destination, trust, Stores.WriterOptions(to));
            var response = new CopyParcelsResponse();
            foreach (var (guest, id) in ParcelShelf.List(source)
                .Where(parcel => only is null || parcel.Id == only.Id)
                .OrderBy(parcel => parcel.Id, StringComparer.Ordinal))
            {
                stop.ThrowIfCancellationRequested();
                var report = copier.Copy(guest, id, writing, stop);
                response.Parcels += report.IsNew ? 1u : 0;
                response.Chunks += (ulong)report.Chunks;
                response.WrittenBytes += (ulong)report.BytesWritten;
                response.FetchedBytes += (ulong)report.BytesRead;
            }

            return response;
        }, cancellation);
    }

    /// <summary>Looks through a store, and brings what is lost from another one, if one is named.</summary>
    public Task<VerifyStoreResponse> VerifyAsync(
        string storeName, bool contents, string repairFrom, CancellationToken cancellation)
    {
        var entry = stores.Find(storeName);
        var other = repairFrom.Length > 0 ? stores.Find(repairFrom) : null;
        return UntilStoppedAsync(entry.Name, stop =>
        {
            var store = stores.Open(entry);
            using var session = stores.Begin(store);
            using var rescuer = other is null ? null : stores.Open(other).OpenReader(stop);
            byte[]? Rescue(ChunkId id)
            {
                try
                {
                    return rescuer?.Read(id);
                }
                catch (ChunkLostException)
                {
                    return null;
                }
            }

            // What is put again takes the place of what goes with the next collection.
            var options = Stores.WriterOptions(entry) with { QuotaBytes = 0 };
            var report = new StoreVerifier(store, trust, options).Run(contents, Rescue, stop);
            var response = new VerifyStoreResponse
            {
                Parcels = (uint)report.Parcels,
                Chunks = (ulong)report.Chunks,
                ReadBytes = (ulong)report.BytesRead,
                Lost = (uint)report.Lost.Count,
                Repaired = (uint)report.Repaired,
                Unrepaired = (uint)report.Unrepaired,
            };
            response.Problems.AddRange(report.Problems);
            return response;
        }, cancellation);
    }

    /// <summary>Vouches for the parcels of a host that is about to be removed, in every store in reach.</summary>
    /// <remarks>
    /// Guests that it put to sleep could not be resumed by anybody afterwards. A store that says nothing is not waited
    /// for: a host that has to go must not stay a member because of it.
    /// </remarks>
    public Task VouchAsync(string former) => Task.WhenAll(stores.All.Select(entry => VouchAsync(entry, former)));

    private async Task VouchAsync(StoreEntry entry, string former)
    {
        try
        {
            var count = await Task.Run(() => ParcelShelf.Vouch(
                    stores.Open(entry), former, settings.HostName, trust, trust, Stores.Random))
                .WaitAsync(TimeSpan.FromSeconds(settings.StoreSilenceSeconds), clock);
            Log.ParcelsVouched(logger, count, former, entry.Name);
        }
        catch (Exception exception) when (exception is TimeoutException || StoreErrors.IsKnown(exception))
        {
            var reason = exception is TimeoutException
                ? $"it was not done within {settings.StoreSilenceSeconds} s" : exception.Message;
            Log.ParcelsNotVouched(logger, former, entry.Name, reason);
        }
    }

    // Whoever asked may go, and the daemon may end: the store is whole at any point, and the next run goes on.
    private async Task<T> UntilStoppedAsync<T>(
        string store, Func<CancellationToken, T> work, CancellationToken cancellation)
    {
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(_shutdown.Token, cancellation);
        return await Track(StoreErrors.GuardAsync(
            store, () => Task.Run(() => work(stop.Token), CancellationToken.None)));
    }
}
