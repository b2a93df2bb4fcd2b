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
    public Task<CollectStoreResponse> CollectAsync(string storeName)
    {
        var entry = stores.Find(storeName);
        return Track(StoreErrors.GuardAsync(entry.Name, () => Task.Run(() =>
        {
            var now = clock.GetUtcNow();
            // What moves into new packs is soon freed in old ones: the quota is not for this.
            var options = Stores.WriterOptions(entry) with { QuotaBytes = 0 };
            var report = new StoreCollector(stores.Open(entry), trust, options)
                .Run(MoveId.Create(now), settings.HostName, now.ToUnixTimeMilliseconds());
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
        })));
    }

    /// <summary>Copies parcels to another store.</summary>
    public async Task<CopyParcelsResponse> CopyAsync(CopyParcelsRequest request)
    {
        var (from, to) = (stores.Find(request.From), stores.Find(request.To));
        var only = request.Reference.Length == 0 ? null
            : (await FindAsync(request.Reference, from.Name, ResumeMode.Fork)).Manifest;
        return await Track(StoreErrors.GuardAsync($"{from.Name}' or '{to.Name}", () => Task.Run(() =>
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
                _shutdown.Token.ThrowIfCancellationRequested();
                var report = copier.Copy(guest, id, writing);
                response.Parcels += report.IsNew ? 1u : 0;
                response.Chunks += (ulong)report.Chunks;
                response.WrittenBytes += (ulong)report.BytesWritten;
                response.FetchedBytes += (ulong)report.BytesRead;
            }

            return response;
        })));
    }

    /// <summary>Looks through a store, and brings what is lost from another one, if one is named.</summary>
    public Task<VerifyStoreResponse> VerifyAsync(string storeName, bool contents, string repairFrom)
    {
        var entry = stores.Find(storeName);
        var other = repairFrom.Length > 0 ? stores.Find(repairFrom) : null;
        return Track(StoreErrors.GuardAsync(entry.Name, () => Task.Run(() =>
        {
            var store = stores.Open(entry);
            using var session = stores.Begin(store);
            using var rescuer = other is null ? null : stores.Open(other).OpenReader();
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
            var report = new StoreVerifier(store, trust, options).Run(contents, Rescue);
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
        })));
    }
}
