using System.Text.Json.Nodes;
using Godwit.Api.V1;

namespace Godwit.Cli.Output;

/// <summary>What a host can rebuild, as answers.</summary>
internal static class StoreAnswers
{
    public static Answer List(IReadOnlyList<InventoryEntry> entries) => new()
    {
        Data = Json.Array(entries.Select(entry => (JsonNode)new JsonObject
        {
            ["kind"] = entry.Kind,
            ["name"] = entry.Name,
            ["guestUuid"] = entry.GuestUuid,
            ["blocks"] = entry.Blocks,
            ["diskBytes"] = entry.DiskBytes,
            ["madeUnixMs"] = entry.MadeUnixMs,
        })),
        Names = [.. entries.Select(entry => entry.Name)],
        Text = wide => [new Table(
            ["KIND", "NAME", "CONTENTS", "TAKES", "MADE"],
            [.. entries.Select(entry => (IReadOnlyList<string>)
            [
                entry.Kind, entry.Name, Units.Bytes(entry.Blocks * 4096, wide), Units.Bytes(entry.DiskBytes, wide),
                Json.LocalTime(entry.MadeUnixMs),
            ])])],
    };

    public static Answer Trimmed(TrimInventoryResponse trimmed) => new()
    {
        Data = new JsonObject { ["freedBytes"] = trimmed.FreedBytes },
        Names = [],
        Text = wide => [new Line($"{Units.Bytes(trimmed.FreedBytes, wide)} freed")],
    };
}
