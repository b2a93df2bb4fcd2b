using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Nodes;
using Godwit.Lab.Network;

namespace Godwit.Lab.Qemu;

/// <summary>A way stock QEMU migrates.</summary>
internal sealed record StockMode(string Name, string[] Capabilities, JsonObject Parameters, bool Postcopy = false)
{
    /// <summary>Switches to postcopy before any memory has been sent, and not after one pass over all of it.</summary>
    internal bool AtOnce { get; init; }

    internal static IReadOnlyList<StockMode> All { get; } =
    [
        new("default", [], []),
        new("xbzrle", ["xbzrle"], []),
        new("multifd-zstd", ["multifd"], new JsonObject { ["multifd-compression"] = "zstd", ["multifd-channels"] = 2 }),
        // With the default downtime limit precopy would end by itself before anybody could switch.
        new("postcopy", ["postcopy-ram"], new JsonObject { ["downtime-limit"] = 1 }, Postcopy: true),
        new("postcopy-preempt", ["postcopy-ram", "postcopy-preempt"], new JsonObject { ["downtime-limit"] = 1 },
            Postcopy: true),
        new("postcopy-now", ["postcopy-ram"], [], Postcopy: true) { AtOnce = true },
        new("preempt-now", ["postcopy-ram", "postcopy-preempt"], [], Postcopy: true) { AtOnce = true },
        new("auto-converge", ["auto-converge"], []),
    ];
}

/// <summary>What stock QEMU says of its own move; the client's view is taken beside it.</summary>
/// <param name="StoppedAt">The source's STOP event.</param>
/// <param name="ResumedAt">The destination's RESUME event.</param>
internal sealed record StockFigures(
    string Mode, string Outcome, double TotalSeconds, long WireBytes, double DowntimeMs, long Rounds,
    DateTime StoppedAt, DateTime ResumedAt)
{
    /// <summary>Bytes sent after the first round, or a little less: its end is seen within 3 ms in modes in
    /// which it matters, in others within 20.</summary>
    internal long LaterWireBytes { get; init; }
}

/// <summary>Moves a guest between two stock QEMUs, straight from one to the other.</summary>
internal static class StockMove
{
    private const int Port = 4440;

    /// <summary>Runs one move to its end.</summary>
    /// <param name="bandwidthBytesPerSecond">QEMU's max-bandwidth; 0: no limit, null: its default, 128 MiB/s.</param>
    /// <param name="limit">A move that has not ended by then is cancelled; its outcome is "not converged".</param>
    internal static StockFigures Run(
        StockQemu source, StockQemu destination, StockMode mode, long? bandwidthBytesPerSecond, TimeSpan limit)
    {
        foreach (StockQemu side in new[] { source, destination })
        {
            JsonArray capabilities = [.. mode.Capabilities.Prepend("events").Prepend("return-path").Select(name =>
                (JsonNode)new JsonObject { ["capability"] = name, ["state"] = true })];
            side.Qmp.Execute("migrate-set-capabilities", new JsonObject { ["capabilities"] = capabilities });
            JsonObject parameters = (JsonObject)mode.Parameters.DeepClone();
            if (bandwidthBytesPerSecond is { } bandwidth)
            {
                parameters["max-bandwidth"] = bandwidth;
            }

            if (parameters.Count > 0)
            {
                side.Qmp.Execute("migrate-set-parameters", parameters);
            }
        }

        source.Qmp.Events.Clear();
        destination.Qmp.Events.Clear();
        string uri = $"tcp:{LabNetwork.AddressOf(destination.Host)}:{Port}";
        destination.Qmp.Execute("migrate-incoming", new JsonObject { ["uri"] = uri });
        long began = Stopwatch.GetTimestamp();
        source.Qmp.Execute("migrate", new JsonObject { ["uri"] = uri });
        string status;
        bool switched = false;
        long firstRound = -1;
        // Every look costs the mover a little: only where the end of the first round matters.
        bool looksOften = mode.Postcopy || mode.Capabilities.Contains("xbzrle");
        JsonElement state;
        // A move that was called off says no more what it has sent.
        JsonElement ram = default;
        for (; ; )
        {
            Thread.Sleep(firstRound < 0 && looksOften ? 3 : 20);
            state = source.Qmp.Execute("query-migrate");
            status = state.GetProperty("status").GetString()!;
            ram = state.TryGetProperty("ram", out JsonElement sent) ? sent : ram;
            if (status is "completed" or "failed" or "cancelled")
            {
                break;
            }

            if (firstRound < 0 && status == "active" && ram.GetProperty("dirty-sync-count").GetInt64() >= 2)
            {
                firstRound = ram.GetProperty("transferred").GetInt64();
            }

            // Postcopy as its users run it: one full pass, then over.
            if (mode.Postcopy && !switched && (firstRound >= 0 || mode.AtOnce) && status == "active")
            {
                source.Qmp.Execute("migrate-start-postcopy");
                switched = true;
            }

            if (Stopwatch.GetElapsedTime(began) > limit && status is "active")
            {
                source.Qmp.Execute("migrate_cancel");
            }
        }

        if (status == "completed")
        {
            Wait.Until(
                () => destination.Qmp.Execute("query-status").GetProperty("status").GetString() == "running",
                TimeSpan.FromMinutes(3), "the destination to run");
        }

        // A postcopy that ended as a precopy would be measured under a wrong name.
        if (mode.Postcopy && status == "completed" && !source.Qmp.Events.Any(e =>
            e.Name == "MIGRATION" && e.Data.GetProperty("status").GetString() == "postcopy-active"))
        {
            status = "completed before postcopy began";
        }

        return new StockFigures(
            mode.Name,
            status == "cancelled" ? "not converged" : status,
            state.TryGetProperty("total-time", out JsonElement total)
                ? total.GetInt64() / 1000.0 : Stopwatch.GetElapsedTime(began).TotalSeconds,
            ram.ValueKind == JsonValueKind.Object ? ram.GetProperty("transferred").GetInt64() : 0,
            state.TryGetProperty("downtime", out JsonElement downtime) ? downtime.GetInt64() : 0,
            ram.ValueKind == JsonValueKind.Object ? ram.GetProperty("dirty-sync-count").GetInt64() : 0,
            source.Qmp.Events.FirstOrDefault(e => e.Name == "STOP")?.Time ?? default,
            destination.Qmp.Events.FirstOrDefault(e => e.Name == "RESUME")?.Time ?? default)
        {
            LaterWireBytes = firstRound < 0 ? 0 : ram.GetProperty("transferred").GetInt64() - firstRound,
        };
    }
}
