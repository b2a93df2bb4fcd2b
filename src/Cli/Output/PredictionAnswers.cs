using System.Text.Json.Nodes;
using Godwit.Api.V1;

namespace Godwit.Cli.Output;

/// <summary>Where a guest is likely to be resumed, as an answer.</summary>
internal static class PredictionAnswers
{
    public static Answer Show(ResumePrediction prediction) => new()
    {
        Data = new JsonObject
        {
            ["guest"] = prediction.Guest,
            ["guestUuid"] = prediction.GuestUuid,
            ["asleep"] = prediction.Asleep,
            ["suspendedOn"] = prediction.SuspendedOn,
            ["suspendedUnixMs"] = Json.UnixMs(prediction.SuspendedUnixMs),
            ["host"] = Json.Text(prediction.Host),
            ["resumedUnixMs"] = Json.UnixMs(prediction.ResumedUnixMs),
            ["share"] = prediction.Share,
            ["evidence"] = Json.Array(prediction.Evidence.Select(one => (JsonNode)new JsonObject
            {
                ["host"] = one.Host,
                ["resumes"] = one.Resumes,
                ["alike"] = one.Alike,
                ["weight"] = one.Weight,
                ["share"] = one.Share,
            })),
            ["predicted"] = prediction.Predicted,
            ["predictedRight"] = prediction.PredictedRight,
            ["hoardedBytes"] = prediction.HoardedBytes,
            ["usedBytes"] = prediction.UsedBytes,
            ["sleeps"] = Json.Array(prediction.Sleeps.Select(sleep => (JsonNode)Data(sleep))),
        },
        Names = prediction.Host.Length > 0 ? [prediction.Host] : [],
        Text = wide =>
        [
            new Line(Sentence(prediction)),
            .. prediction.Evidence.Count == 0 ? (IEnumerable<TextBlock>)[] :
            [
                new Table(
                    ["HOST", "RESUMES", "ALIKE", "WEIGHT", "SHARE"],
                    [.. prediction.Evidence.Select(one => (IReadOnlyList<string>)
                    [
                        one.Host, Units.Invariant($"{one.Resumes}"), Units.Invariant($"{one.Alike}"),
                        Units.Invariant($"{one.Weight:0.00}"), Percent(one.Share),
                    ])]),
            ],
            .. wide && prediction.Sleeps.Count > 0 ? (IEnumerable<TextBlock>)[Sleeps(prediction)] : [],
            new Line(Record(prediction, wide)),
        ],
    };

    private static string Sentence(ResumePrediction prediction)
    {
        string when = prediction.Asleep
            ? $"{prediction.Guest} sleeps since {Json.LocalTime(prediction.SuspendedUnixMs)} on "
                + prediction.SuspendedOn
            : $"{prediction.Guest}, if it were suspended on {prediction.SuspendedOn} now";
        return prediction.Host.Length == 0 ? $"{when}: no sleep of it has ended yet, so nothing is expected"
            : $"{when}: expected on {prediction.Host} at {Json.LocalTime(prediction.ResumedUnixMs)}, "
                + $"{Percent(prediction.Share)} sure";
    }

    private static string Record(ResumePrediction prediction, bool wide)
    {
        string right = prediction.Predicted == 0 ? "no prediction has been put to the test yet"
            : Units.Invariant($"predicted right {prediction.PredictedRight} of {prediction.Predicted} times");
        return prediction.HoardedBytes == 0 ? $"{right}; nothing was hoarded where it was resumed"
            : $"{right}; {Units.Bytes(prediction.HoardedBytes, wide)} hoarded where it was resumed, of which "
                + $"{Percent((double)prediction.UsedBytes / prediction.HoardedBytes)} was used";
    }

    private static Table Sleeps(ResumePrediction prediction) => new(
        ["PARCEL", "SUSPENDED", "ON", "RESUMED", "ON", "EXPECTED ON", "HOARDED", "USED"],
        [.. prediction.Sleeps.Select(sleep => (IReadOnlyList<string>)
        [
            sleep.Parcel, Json.LocalTime(sleep.SuspendedUnixMs), sleep.SuspendedOn,
            sleep.ResumedOn.Length > 0 ? Json.LocalTime(sleep.ResumedUnixMs) : "-", Dash(sleep.ResumedOn),
            Dash(sleep.PredictedHost), sleep.HasHoardedBytes ? Units.Bytes(sleep.HoardedBytes) : "-",
            sleep.HasUsedBytes ? Units.Bytes(sleep.UsedBytes) : "-",
        ])]);

    private static JsonObject Data(Sleep sleep) => new()
    {
        ["parcel"] = sleep.Parcel,
        ["suspendedOn"] = sleep.SuspendedOn,
        ["suspendedUnixMs"] = Json.UnixMs(sleep.SuspendedUnixMs),
        ["resumedOn"] = Json.Text(sleep.ResumedOn),
        ["resumedUnixMs"] = Json.UnixMs(sleep.ResumedUnixMs),
        ["predictedHost"] = Json.Text(sleep.PredictedHost),
        ["predictedUnixMs"] = Json.UnixMs(sleep.PredictedUnixMs),
        ["hoardedBytes"] = sleep.HasHoardedBytes ? sleep.HoardedBytes : null,
        ["usedBytes"] = sleep.HasUsedBytes ? sleep.UsedBytes : null,
    };

    private static string Percent(double share) => Units.Invariant($"{share * 100:0} %");

    private static string Dash(string text) => text.Length == 0 ? "-" : text;
}
