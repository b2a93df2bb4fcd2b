using Godwit.Api.V1;
using Grpc.Core;

namespace Godwit.Daemon.Services;

// What this host can rebuild by name.
internal sealed partial class ControlService
{
    public override Task<ListInventoryResponse> ListInventory(
        ListInventoryRequest request, ServerCallContext context) => Task.Run(() =>
    {
        var response = new ListInventoryResponse { QuotaBytes = (ulong)inventory.QuotaBytes };
        response.Entries.AddRange(inventory.List().Select(entry => new InventoryEntry
        {
            Kind = entry.Kind.ToString().ToLowerInvariant(),
            Name = entry.Label,
            GuestUuid = entry.Guest == Guid.Empty ? "" : entry.Guest.ToString(),
            Blocks = (ulong)entry.Blocks,
            DiskBytes = (ulong)entry.DiskBytes,
            MadeUnixMs = entry.Made.ToUnixTimeMilliseconds(),
        }));
        return response;
    });

    public override Task<TrimInventoryResponse> TrimInventory(
        TrimInventoryRequest request, ServerCallContext context) => Task.Run(() => new TrimInventoryResponse
    {
        FreedBytes = (ulong)inventory.Trim((long)Math.Min(request.BytesMax, long.MaxValue)),
    });
}
