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

    public override Task HoardGuest(
        HoardGuestRequest request, IServerStreamWriter<HoardProgress> responseStream, ServerCallContext context) =>
        parcels.HoardAsync(request, responseStream.WriteAsync, context.CancellationToken);

    public override Task<ResumePrediction> PredictResume(PredictResumeRequest request, ServerCallContext context) =>
        parcels.PredictAsync(request.Guest, context.CancellationToken);

    public override Task<ListParcelsResponse> ListParcels(ListParcelsRequest request, ServerCallContext context) =>
        parcels.ListAsync(request.Guest, request.Store);

    public override Task<Parcel> RemoveParcel(ParcelRequest request, ServerCallContext context) =>
        parcels.RemoveAsync(request.Reference, request.Store, request.Force);

    public override async Task<StoreInfo> CreateStore(StoreSpec request, ServerCallContext context)
    {
        var (entry, isNew) = await stores.CreateAsync(request);
        var info = (await DescribeAsync([entry]))[0];
        info.IsNew = isNew;
        return info;
    }

    public override async Task<ListStoresResponse> ListStores(ListStoresRequest request, ServerCallContext context)
    {
        var response = new ListStoresResponse();
        response.Stores.AddRange(await DescribeAsync(stores.All));
        return response;
    }

    public override Task<Empty> ForgetStore(StoreRequest request, ServerCallContext context)
    {
        parcels.ForgetStore(request.Name);
        return Task.FromResult(new Empty());
    }

    public override Task<CollectStoreResponse> CollectStore(StoreRequest request, ServerCallContext context) =>
        parcels.CollectAsync(request.Name, context.CancellationToken);

    public override Task<CopyParcelsResponse> CopyParcels(CopyParcelsRequest request, ServerCallContext context) =>
        parcels.CopyAsync(request, context.CancellationToken);

    public override Task<VerifyStoreResponse> VerifyStore(VerifyStoreRequest request, ServerCallContext context) =>
        parcels.VerifyAsync(
            request.Name, request.Contents, request.RepairFrom, context.CancellationToken);

    private async Task<StoreInfo[]> DescribeAsync(IEnumerable<StoreEntry> entries) =>
        [.. (await stores.AskAsync(entries, Describe)).Select(
            one => one.Answer ?? new StoreInfo { Spec = SpecOf(one.Entry), Detail = one.Failure!.Message })];

    private static StoreInfo Describe(StoreEntry entry, Store store)
    {
        store.Refresh();
        var use = StoreUse.Of(store.Objects);
        return new StoreInfo
        {
            Spec = SpecOf(entry),
            Id = store.Descriptor.Id,
            Bytes = (ulong)use.Bytes,
            Chunks = (ulong)store.Chunks,
            Packs = (uint)use.Packs,
            Parcels = (uint)use.Parcels,
        };
    }

    private static StoreSpec SpecOf(StoreEntry entry) => new()
    {
        Name = entry.Name, Location = entry.Location, KeyFile = entry.KeyFile, QuotaBytes = (ulong)entry.QuotaBytes,
        Coding = entry.Coding, Endpoint = entry.Endpoint, Region = entry.Region,
        CredentialsFile = entry.CredentialsFile,
    };
}
