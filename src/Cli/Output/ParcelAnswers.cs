using System.Globalization;
using System.Text.Json.Nodes;
using Godwit.Api.V1;

namespace Godwit.Cli.Output;

/// <summary>Parcels, as answers.</summary>
internal static class ParcelAnswers
{
    public static Answer List(IReadOnlyList<Parcel> parcels) => new()
    {
        Data = Json.Array(parcels.Select(parcel => (JsonNode)Data(parcel))),
        Names = [.. parcels.Select(parcel => parcel.Id)],
        Text = wide => [new Table(
            wide
                ? [
                    "ID", "GUEST", "KIND", "MADE", "ON", "STORE", "WROTE", "RESUMED ON", "MEMORY", "DISKS", "QEMU",
                    "PARENT",
                ]
                : ["ID", "GUEST", "KIND", "MADE", "ON", "STORE", "WROTE", "RESUMED ON"],
            [.. parcels.Select(parcel => Row(parcel, wide))])],
    };

    public static Answer Made(Parcel parcel, string verb) => new()
    {
        Data = Data(parcel),
        Names = [parcel.Id],
        Text = wide =>
        [
            new Line($"{parcel.Guest} {verb} {parcel.Store} as {parcel.Id}: {Units.Bytes(parcel.WrittenBytes, wide)} "
                + $"written in {Units.Duration(parcel.TotalSeconds)}"
                + (parcel.PauseMs > 0 ? string.Create(
                    CultureInfo.InvariantCulture, $", stood still for {parcel.PauseMs:0} ms") : "")),
        ],
    };

    public static Answer Resumed(ResumeGuestResponse answer, string verb) => new()
    {
        Data = new JsonObject
        {
            ["guest"] = GuestAnswers.Data(answer.Guest),
            ["parcel"] = Data(answer.Parcel),
            ["totalSeconds"] = answer.TotalSeconds,
            ["fetchedBytes"] = answer.FetchedBytes,
            ["keptBytes"] = answer.KeptBytes,
            ["rebuiltBytes"] = answer.RebuiltBytes,
            ["readBytes"] = answer.ReadBytes,
        },
        Names = [answer.Guest.Spec.Name],
        Text = wide =>
        [
            new Line($"{answer.Guest.Spec.Name} {verb} {answer.Parcel.Id} on {answer.Guest.Host} after "
                + $"{Units.Duration(answer.TotalSeconds)}: {Units.Bytes(answer.FetchedBytes, wide)} fetched, "
                + $"{Units.Bytes(answer.RebuiltBytes, wide)} rebuilt, {Units.Bytes(answer.KeptBytes, wide)} in place"),
        ],
    };

    public static Answer Hoarded(HoardProgress hoard) => new()
    {
        Data = new JsonObject
        {
            ["parcel"] = Data(hoard.Parcel),
            ["host"] = hoard.Host,
            ["neededBytes"] = hoard.NeededBytes,
            ["heldBytes"] = hoard.HeldBytes,
            ["hoardedBytes"] = hoard.HoardedBytes,
            ["leftBytes"] = hoard.LeftBytes,
            ["fetchedBytes"] = hoard.FetchedBytes,
            ["totalSeconds"] = hoard.TotalSeconds,
        },
        Names = [hoard.Parcel.Id],
        Text = wide =>
        [
            new Line($"{hoard.Host} has what {hoard.Parcel.Guest} needs of {hoard.Parcel.Id} after "
                + $"{Units.Duration(hoard.TotalSeconds)}: {Units.Bytes(hoard.HeldBytes, wide)} was there, "
                + $"{Units.Bytes(hoard.HoardedBytes, wide)} hoarded, {Units.Bytes(hoard.FetchedBytes, wide)} fetched"),
        ],
    };

    public static Answer Removed(Parcel parcel) => new()
    {
        Data = new JsonObject { ["removed"] = parcel.Id },
        Names = [parcel.Id],
        Text = _ => [new Line($"{parcel.Id} of {parcel.Guest} removed from {parcel.Store}")],
    };

    private static JsonObject Data(Parcel parcel) => new()
    {
        ["id"] = parcel.Id,
        ["store"] = parcel.Store,
        ["kind"] = Json.Word(parcel.Kind),
        ["guest"] = parcel.Guest,
        ["guestUuid"] = parcel.GuestUuid,
        ["host"] = parcel.Host,
        ["epoch"] = parcel.Epoch,
        ["createdUnixMs"] = Json.UnixMs(parcel.CreatedUnixMs),
        ["parent"] = Json.Text(parcel.Parent),
        ["memoryBytes"] = parcel.MemoryBytes,
        ["diskBytes"] = parcel.DiskBytes,
        ["writtenBytes"] = parcel.WrittenBytes,
        ["pauseMs"] = parcel.PauseMs,
        ["qemuVersion"] = parcel.QemuVersion,
        ["home"] = Json.Text(parcel.Home),
        ["resumedOn"] = Json.Text(parcel.ResumedOn),
        ["totalSeconds"] = parcel.TotalSeconds,
    };

    private static List<string> Row(Parcel parcel, bool wide)
    {
        List<string> row =
        [
            parcel.Id, parcel.Guest, Json.Word(parcel.Kind), Json.LocalTime(parcel.CreatedUnixMs), parcel.Host,
            parcel.Store, Units.Bytes(parcel.WrittenBytes, wide), Dash(parcel.ResumedOn),
        ];
        if (wide)
        {
            row.AddRange(
            [
                Units.Bytes(parcel.MemoryBytes, wide), Units.Bytes(parcel.DiskBytes, wide), parcel.QemuVersion,
                Dash(parcel.Parent),
            ]);
        }

        return row;
    }

    private static string Dash(string text) => text.Length == 0 ? "-" : text;
}
