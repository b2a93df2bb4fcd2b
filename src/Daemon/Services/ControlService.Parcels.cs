using Godwit.Api.V1;
using Godwit.ChunkStore.Storage;
using Godwit.Daemon.Parcels;
using Grpc.Core;

namespace Godwit.Daemon.Services;

// Guests in parcels, and the stores that those lie in.
internal sealed partial class ControlService
{
    public override Task<Parcel> SuspendGuest(SuspendGuestRequest request, ServerCallContext context) =>
        parcels.SuspendAsync(request.Guest, request.Store, request.KeepRunning, context.CancellationToken);

    public override Task<ResumeGuestResponse> ResumeGuest(ResumeGuestRequest request, ServerCallContext context) =>
        parcels.ResumeAsync(request, context.CancellationToken);

    public override Task<ListParcelsResponse> ListParcels(ListParcelsRequest request, ServerCallContext context) =>
        parcels.ListAsync(request.Guest, request.Store);

    public override Task<Parcel> RemoveParcel(ParcelRequest request, ServerCallContext context) =>
        parcels.RemoveAsync(request.Reference, request.Store);

    public override Task<StoreInfo> CreateStore(StoreSpec request, ServerCallContext context) =>
        Task.Run(() => Describe(stores.Create(request)));

    public override Task<ListStoresResponse> ListStores(ListStoresRequest request, ServerCallContext context) =>
        Task.Run(() =>
        {
            var response = new ListStoresResponse();
            response.Stores.AddRange(stores.All.Select(Describe));
            return response;
        });

    public override Task<Empty> ForgetStore(StoreRequest request, ServerCallContext context)
    {
        parcels.ForgetStore(request.Name);
        return Task.FromResult(new Empty());
    }

    public override Task<CollectStoreResponse> CollectStore(StoreRequest request, ServerCallContext context) =>
        parcels.CollectAsync(request.Name);

    public override Task<CopyParcelsResponse> CopyParcels(CopyParcelsRequest request, ServerCallContext context) =>
        parcels.CopyAsync(request);

    public override Task<VerifyStoreResponse> VerifyStore(VerifyStoreRequest request, ServerCallContext context) =>
        parcels.VerifyAsync(request.Name, request.Contents, request.RepairFrom);

    private StoreInfo Describe(StoreEntry entry)
    {
        var info = new StoreInfo
        {
            Spec = new StoreSpec
            {
                Name = entry.Name, Location = entry.Location, KeyFile = entry.KeyFile,
                QuotaBytes = (ulong)entry.QuotaBytes, Coding = entry.Coding,
            },
        };
        try
        {
            var store = stores.Open(entry);
            store.Refresh();
            var use = StoreUse.Of(store.Objects);
            info.Id = store.Descriptor.Id;
            info.Bytes = (ulong)use.Bytes;
            info.Chunks = (ulong)store.Chunks;
            info.Packs = (uint)use.Packs;
            info.Parcels = (uint)use.Parcels;
        }
        catch (Exception exception)
            when (StoreErrors.IsKnown(exception) || exception is Godwit.Migration.GodwitException)
        {
            info.Detail = exception.Message;
        }

        return info;
    }
}
