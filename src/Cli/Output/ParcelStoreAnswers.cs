using System.Globalization;
using System.Text.Json.Nodes;
using Godwit.Api.V1;

namespace Godwit.Cli.Output;

/// <summary>Stores of parcels, as answers.</summary>
internal static class ParcelStoreAnswers
{
    public static Answer List(IReadOnlyList<StoreInfo> stores) => new()
    {
        Data = Json.Array(stores.Select(store => (JsonNode)Data(store))),
        Names = [.. stores.Select(store => store.Spec.Name)],
        Text = wide => [new Table(
            ["NAME", "PARCELS", "CHUNKS", "TAKES", "QUOTA", "AT", "DETAIL"],
            [.. stores.Select(store => (IReadOnlyList<string>)
            [
                store.Spec.Name, Count(store.Parcels), Count(store.Chunks), Units.Bytes(store.Bytes, wide),
                store.Spec.QuotaBytes == 0 ? "-" : Units.Bytes(store.Spec.QuotaBytes, wide), store.Spec.Location,
                store.Detail.Length == 0 ? "-" : store.Detail,
            ])])],
    };

    public static Answer Made(StoreInfo store)
    {
        var data = Data(store);
        data["made"] = store.IsNew;
        return new Answer
        {
            Data = data,
            Names = [store.Spec.Name],
            Text = wide => [new Line($"{store.Spec.Name} "
                + (store.IsNew ? $"made at {store.Spec.Location}" : $"found at {store.Spec.Location}: {store.Parcels} "
                    + $"parcels, {Units.Bytes(store.Bytes, wide)}"))],
        };
    }

    public static Answer Forgotten(string name) => new()
    {
        Data = new JsonObject { ["forgotten"] = name },
        Names = [name],
        Text = _ => [new Line($"{name} forgotten")],
    };

    public static Answer Collected(CollectStoreResponse answer) => new()
    {
        Data = new JsonObject
        {
            ["chunksLive"] = answer.ChunksLive,
            ["packsRemoved"] = answer.PacksRemoved,
            ["freedBytes"] = answer.FreedBytes,
            ["movedBytes"] = answer.MovedBytes,
            ["packsCondemned"] = answer.PacksCondemned,
            ["waitingFor"] = answer.WaitingFor,
        },
        Names = [],
        Text = wide =>
        [
            new Line($"{Units.Bytes(answer.FreedBytes, wide)} freed in {answer.PacksRemoved} packs, "
                + $"{answer.ChunksLive} chunks are in use"
                + (answer.PacksCondemned == 0 ? "" : $"; {answer.PacksCondemned} packs go when {answer.WaitingFor} "
                    + "sessions have ended: run it again then")),
        ],
    };

    public static Answer Copied(CopyParcelsResponse answer) => new()
    {
        Data = new JsonObject
        {
            ["parcels"] = answer.Parcels,
            ["chunks"] = answer.Chunks,
            ["writtenBytes"] = answer.WrittenBytes,
            ["fetchedBytes"] = answer.FetchedBytes,
        },
        Names = [],
        Text = wide => [new Line(
            $"{answer.Parcels} parcels copied: {answer.Chunks} chunks were not there, "
            + $"{Units.Bytes(answer.WrittenBytes, wide)} written")],
    };

    public static Answer Verified(VerifyStoreResponse answer) => new()
    {
        Data = new JsonObject
        {
            ["parcels"] = answer.Parcels,
            ["chunks"] = answer.Chunks,
            ["readBytes"] = answer.ReadBytes,
            ["lost"] = answer.Lost,
            ["repaired"] = answer.Repaired,
            ["unrepaired"] = answer.Unrepaired,
            ["problems"] = Json.Array(answer.Problems),
        },
        Names = [],
        Text = wide =>
        [
            new Line($"{answer.Parcels} parcels, {answer.Chunks} chunks, {Units.Bytes(answer.ReadBytes, wide)} read: "
                + (answer.Problems.Count == 0 ? "nothing is wrong"
                    : $"{answer.Lost} lost, {answer.Repaired} repaired")),
            .. answer.Problems.Select(problem => new Line(problem)),
        ],
    };

    private static JsonObject Data(StoreInfo store) => new()
    {
        ["name"] = store.Spec.Name,
        ["location"] = store.Spec.Location,
        ["endpoint"] = Json.Text(store.Spec.Endpoint),
        ["id"] = Json.Text(store.Id),
        ["encrypted"] = store.Spec.KeyFile.Length > 0,
        ["coding"] = store.Spec.Coding,
        ["quotaBytes"] = store.Spec.QuotaBytes,
        ["bytes"] = store.Bytes,
        ["chunks"] = store.Chunks,
        ["packs"] = store.Packs,
        ["parcels"] = store.Parcels,
        ["detail"] = Json.Text(store.Detail),
    };

    private static string Count(ulong count) => count.ToString(CultureInfo.InvariantCulture);
}
