using System.Globalization;
using System.Text.Json.Nodes;
using Godwit.Api.V1;

namespace Godwit.Cli.Output;

/// <summary>Guests as answers.</summary>
internal static class GuestAnswers
{
    public static Answer List(IReadOnlyList<Guest> guests) => new()
    {
        Data = Json.Array(guests.Select(Data)),
        Names = [.. guests.Select(guest => guest.Spec.Name)],
        Text = wide => [new Table(
            wide
                ? ["NAME", "STATE", "HOST", "CPUS", "MEMORY", "ADDRESS", "UUID", "MACHINE", "ACCEL", "MAC", "BRIDGE",
                    "PID", "DETAIL"]
                : ["NAME", "STATE", "HOST", "CPUS", "MEMORY", "ADDRESS"],
            [.. guests.Select(guest => Row(guest, wide))])],
    };

    public static Answer Show(Guest guest) => new()
    {
        Data = Data(guest),
        Names = [guest.Spec.Name],
        Text = wide => [new Fields(Pairs(guest, wide))],
    };

    /// <summary>What a verb that changes a guest answers: one line for people.</summary>
    public static Answer Changed(Guest guest, string verb) => new()
    {
        Data = Data(guest),
        Names = [guest.Spec.Name],
        Text = _ =>
        [
            new Line($"{guest.Spec.Name} {verb}; it is {Json.Word(guest.State)} on {guest.Host}"),
            .. guest.Detail.Length > 0 ? (Line[])[new Line($"  {guest.Detail}")] : [],
        ],
    };

    public static JsonObject Data(Guest guest) => new()
    {
        ["name"] = guest.Spec.Name,
        ["uuid"] = guest.Spec.Uuid,
        ["state"] = Json.Word(guest.State),
        ["host"] = guest.Host,
        ["memoryBytes"] = guest.Spec.MemoryBytes,
        ["cpus"] = guest.Spec.Cpus,
        ["machine"] = guest.Spec.Machine,
        ["cpuModel"] = guest.Spec.CpuModel,
        ["accelerator"] = guest.Spec.Accelerator,
        ["memoryBacking"] = Json.Word(guest.Spec.MemoryBacking),
        ["video"] = guest.Spec.Video,
        ["disks"] = Json.Array(guest.Spec.Disks.Select(disk => (JsonNode)new JsonObject
        {
            ["path"] = disk.Path,
            ["format"] = disk.Format,
            ["readOnly"] = disk.ReadOnly,
        })),
        ["kernelPath"] = Json.Text(guest.Spec.KernelPath),
        ["initramfsPath"] = Json.Text(guest.Spec.InitramfsPath),
        ["kernelCommandLine"] = Json.Text(guest.Spec.KernelCommandLine),
        ["interfaces"] = Json.Array(guest.Spec.Interfaces.Select(port => (JsonNode)new JsonObject
        {
            ["bridge"] = port.Bridge,
            ["mac"] = port.Mac,
            ["addresses"] = Json.Array(port.Addresses),
        })),
        ["processId"] = guest.ProcessId == 0 ? null : guest.ProcessId,
        ["consoleSocket"] = Json.Text(guest.ConsoleSocket),
        ["migrationId"] = Json.Text(guest.MigrationId),
        ["parcel"] = Json.Text(guest.Parcel),
        ["createdUnixMs"] = Json.UnixMs(guest.CreatedUnixMs),
        ["startedUnixMs"] = Json.UnixMs(guest.StartedUnixMs),
        ["detail"] = Json.Text(guest.Detail),
    };

    private static List<string> Row(Guest guest, bool wide)
    {
        var spec = guest.Spec;
        List<string> row =
        [
            spec.Name, Json.Word(guest.State), guest.Host, Count(spec.Cpus), Units.Bytes(spec.MemoryBytes, wide),
            Dash(string.Join(",", spec.Interfaces.SelectMany(port => port.Addresses))),
        ];
        if (wide)
        {
            row.AddRange(
            [
                spec.Uuid, Dash(spec.Machine), Dash(spec.Accelerator),
                Dash(string.Join(",", spec.Interfaces.Select(port => port.Mac))),
                Dash(string.Join(",", spec.Interfaces.Select(port => port.Bridge))),
                guest.ProcessId == 0 ? "-" : Count(guest.ProcessId), Dash(guest.Detail),
            ]);
        }

        return row;
    }

    private static List<(string, string)> Pairs(Guest guest, bool wide)
    {
        var spec = guest.Spec;
        List<(string, string)> pairs =
        [
            ("name", spec.Name), ("uuid", spec.Uuid), ("state", Json.Word(guest.State)), ("host", guest.Host),
            ("detail", guest.Detail), ("migration", guest.MigrationId),
            ("parcel", guest.Parcel), ("cpus", Count(spec.Cpus)),
            ("memory", $"{Units.Bytes(spec.MemoryBytes, wide)}, {Json.Word(spec.MemoryBacking)}"),
            ("machine", spec.Machine), ("cpu model", spec.CpuModel), ("accelerator", spec.Accelerator),
            ("video", spec.Video ? "yes" : "no"),
        ];
        foreach (var disk in spec.Disks)
        {
            pairs.Add(("disk", $"{disk.Path} ({disk.Format}{(disk.ReadOnly ? ", read-only" : "")})"));
        }

        pairs.Add(("kernel", spec.KernelPath));
        pairs.Add(("initramfs", spec.InitramfsPath));
        pairs.Add(("append", spec.KernelCommandLine));
        foreach (var port in spec.Interfaces)
        {
            string addresses = port.Addresses.Count == 0 ? "" : $", {string.Join(", ", port.Addresses)}";
            pairs.Add(("interface", $"{port.Mac} on {port.Bridge}{addresses}"));
        }

        pairs.Add(("process", guest.ProcessId == 0 ? "" : Count(guest.ProcessId)));
        pairs.Add(("console", guest.ConsoleSocket));
        pairs.Add(("created", Json.LocalTime(guest.CreatedUnixMs)));
        pairs.Add(("started", Json.LocalTime(guest.StartedUnixMs)));
        return pairs;
    }

    private static string Count(long count) => count.ToString(CultureInfo.InvariantCulture);

    private static string Dash(string text) => text.Length == 0 ? "-" : text;
}
