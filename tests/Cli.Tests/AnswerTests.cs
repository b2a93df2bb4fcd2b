using System.Text.Json;
using System.Text.Json.Nodes;
using CsCheck;
using Godwit.Api.V1;
using Godwit.Cli.Output;

namespace Godwit.Cli.Tests;

public class AnswerTests
{
    private static readonly Dictionary<string, Answer> Answers = new()
    {
        ["guest-list"] = GuestAnswers.List(
            [Samples.Guest(), Samples.Guest("database-of-record", GuestState.Elsewhere)]),
        ["guest-show"] = GuestAnswers.Show(Samples.Guest()),
        ["guest-changed"] = GuestAnswers.Changed(Samples.Guest(), "started"),
        ["migration-list"] = MigrationAnswers.List(
        [
            Samples.Migration(),
            Samples.Migration(MigrationOutcome.Pending, MigrationPhase.Copying),
        ]),
        ["migration-show"] = MigrationAnswers.Show(Samples.Migration()),
        ["migration-report"] = MigrationAnswers.Report(Samples.Migration()),
        ["migration-plan"] = MigrationAnswers.Plan("web1", "b", Samples.Plan()),
        ["migration-plan-refused"] = MigrationAnswers.Plan("web1", "b", Samples.Plan(possible: false)),
        ["host-list"] = HostAnswers.List(
            [Samples.Host("a", self: true), Samples.Host("b", self: false), Samples.HostThatDoesNotAnswer]),
        ["host-show"] = HostAnswers.Show(Samples.Host("a", self: true)),
        ["host-show-unreachable"] = HostAnswers.Show(Samples.HostThatDoesNotAnswer),
        ["host-invitation"] = HostAnswers.Invitation(
            new JoinToken { Token = "gw1.abc.def", ExpiresUnixMs = 1_800_000 }),
        ["store-list"] = StoreAnswers.List(
        [
            new InventoryEntry
            {
                Kind = "memory", Name = "web1", GuestUuid = "6f1f9f4e-3b43-4b43-9c1a-5d3b1c0a7e01", Blocks = 120_000,
                DiskBytes = 500_000_000, MadeUnixMs = 1_800_000,
            },
            new InventoryEntry
            {
                Kind = "disk", Name = "/srv/images/debian.raw", Blocks = 250_000, DiskBytes = 7_000_000,
                MadeUnixMs = 900_000,
            },
        ]),
        ["store-trimmed"] = StoreAnswers.Trimmed(new TrimInventoryResponse { FreedBytes = 507_000_000 }),
        ["parcel-list"] = ParcelAnswers.List([Samples.Parcel("1c2k00000002", "b"), Samples.Parcel("1c2k00000001", "")]),
        ["parcel-made"] = ParcelAnswers.Made(Samples.Parcel("1c2k00000001", ""), "sleeps in"),
        ["parcel-resumed"] = ParcelAnswers.Resumed(
            new ResumeGuestResponse
            {
                Guest = Samples.Guest(), Parcel = Samples.Parcel("1c2k00000001", "b"), TotalSeconds = 1.25,
                FetchedBytes = 12_000_000, KeptBytes = 64 << 20, RebuiltBytes = 300 << 20, ReadBytes = 40 << 20,
            },
            "resumed from"),
        ["parcel-hoarded"] = ParcelAnswers.Hoarded(new HoardProgress
        {
            Parcel = Samples.Parcel("1c2k00000001", ""), Host = "b", NeededBytes = 210_000_000, HeldBytes = 12_345_678,
            WantedBytes = 197_654_322, HoardedBytes = 197_654_322, FetchedBytes = 98_765_432, TotalSeconds = 12.34,
            Ended = true,
        }),
        ["prediction"] = PredictionAnswers.Show(Samples.Prediction()),
        ["prediction-unknown"] = PredictionAnswers.Show(new ResumePrediction
        {
            Guest = "web1", GuestUuid = "5e0b6f5a-9a0f-4a57-8e37-0d7a1f1d2c3b", SuspendedOn = "a",
            SuspendedUnixMs = 1_000_000,
        }),
        ["parcel-removed"] = ParcelAnswers.Removed(Samples.Parcel("1c2k00000001", "")),
        ["parcel-stores"] = ParcelStoreAnswers.List([Samples.Store(""), Samples.Store("it does not answer")]),
        ["parcel-store"] = ParcelStoreAnswers.Made(Samples.Store("")),
        ["parcel-store-new"] = ParcelStoreAnswers.Made(Samples.NewBucket),
        ["parcel-store-forgotten"] = ParcelStoreAnswers.Forgotten("office"),
        ["parcel-store-collected"] = ParcelStoreAnswers.Collected(new CollectStoreResponse
        {
            ChunksLive = 120_000, PacksRemoved = 3, FreedBytes = 24_000_000, PacksCondemned = 2, WaitingFor = 1,
        }),
        ["parcel-store-copied"] = ParcelStoreAnswers.Copied(
            new CopyParcelsResponse { Parcels = 1, Chunks = 900, WrittenBytes = 2_000_000, FetchedBytes = 2_100_000 }),
        ["parcel-store-verified"] = ParcelStoreAnswers.Verified(new VerifyStoreResponse
        {
            Parcels = 2, Chunks = 130_000, ReadBytes = 200_000_000, Lost = 1, Repaired = 0,
            Problems = { "chunk ab12 is lost" },
        }),
        ["findings"] = HostAnswers.Findings(Samples.Findings),
    };

    public static TheoryData<string, string> Cases()
    {
        var cases = new TheoryData<string, string>();
        foreach (string name in Answers.Keys)
        {
            foreach (var format in Enum.GetValues<OutputFormat>())
            {
                cases.Add(name, Json.Word(format));
            }
        }

        return cases;
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Every_answer_looks_as_reviewed(string name, string format)
    {
        Snapshot.Check(
            $"{name}.{format}.txt", Print(Answers[name], Enum.Parse<OutputFormat>(format, ignoreCase: true)));
    }

    // The object is a promise to other programs: the names, their order and their types are those of the documentation.
    [Fact]
    public void A_report_is_exactly_the_documented_object()
    {
        var report = MigrationAnswers.ReportData(Samples.Migration());
        Assert.Equal(
            ["guest", "from", "to", "method", "outcome", "totalSeconds", "wireBytes", "downtimeMs", "blackoutMs",
                "blackoutParts", "savedBytes", "rounds", "methodReason", "mayTurnToPostcopy", "stepsTaken",
                "throttlePercent", "throttledPercent", "faults", "forecast"],
            report.Select(field => field.Key));
        Assert.Equal("completed", report["outcome"]!.GetValue<string>());
        Assert.Null(report["blackoutMs"]);
        Assert.Equal(12.346, report["totalSeconds"]!.GetValue<double>());
        Assert.Equal(40.125, report["blackoutParts"]!["lastRoundMs"]!.GetValue<double>());
        Assert.Equal(300_000_000ul, report["savedBytes"]!["zero"]!.GetValue<ulong>());
        var round = report["rounds"]![1]!.AsObject();
        Assert.Equal(
            ["pages", "bytes", "seconds", "dirtyBytesPerSecond", "coding"], round.Select(field => field.Key));
        Assert.Equal(5376ul, round["pages"]!.GetValue<ulong>());
    }

    [Fact]
    public void Everything_in_a_report_is_in_the_whole_as_well()
    {
        var whole = MigrationAnswers.Data(Samples.Migration());
        foreach (var (name, value) in MigrationAnswers.ReportData(Samples.Migration()))
        {
            Assert.True(JsonNode.DeepEquals(value, whole[name]), name);
        }
    }

    [Fact]
    public void A_move_that_has_just_begun_is_an_answer_too()
    {
        var migration = new Migration { Id = "1", Guest = "g", From = "a", To = "b" };
        foreach (var format in Enum.GetValues<OutputFormat>())
        {
            Assert.NotEmpty(Print(MigrationAnswers.Show(migration), format));
            Assert.NotEmpty(Print(MigrationAnswers.List([migration]), format));
        }
    }

    [Fact]
    public void Without_headers_only_rows_are_left()
    {
        var output = new StringWriter();
        AnswerWriter.Write(output, Answers["guest-list"], OutputFormat.Table, headers: false);
        Assert.Equal(2, output.ToString().TrimEnd('\n').Split('\n').Length);
        Assert.DoesNotContain("NAME", output.ToString(), StringComparison.Ordinal);
    }

    [Fact]
    public void A_hostile_name_cannot_reach_the_terminal()
    {
        string text = Print(GuestAnswers.List([Samples.Guest("evil\e[2J\nrow")]), OutputFormat.Wide);
        Assert.DoesNotContain('\e', text);
        Assert.Equal(2, text.TrimEnd('\n').Split('\n').Length);
    }

    // Goal: no string changes its type or its content on its way through YAML.
    [Fact]
    public void Yaml_says_the_same_as_json()
    {
        string[] traps =
            ["yes", "No", "null", "~", "12", "1e3", "0x1f", "a: b", "# no", "- x", "", " pad ", "é\n\"\\", "0.10"];
        Gen.OneOf(Gen.String, Gen.Int[0, traps.Length - 1].Select(i => traps[i])).Sample(text =>
        {
            if (text.Any(c => char.IsControl(c) || char.IsSurrogate(c) || c >= 0xfffe))
            {
                return true;
            }

            var output = new StringWriter();
            YamlText.Write(
                output, new JsonObject { ["value"] = text, ["list"] = new JsonArray(text, null, 1.5, true) });
            var read = new YamlDotNet.Serialization.DeserializerBuilder()
                .WithAttemptingUnquotedStringTypeDeserialization().Build()
                .Deserialize<Dictionary<string, object>>(output.ToString());
            var list = (List<object?>)read["list"];
            return read["value"] is string value && value == text && list[0] is string item && item == text
                && list[1] is null && list[3] is true;
        });
    }

    private static string Print(Answer answer, OutputFormat format)
    {
        var output = new StringWriter { NewLine = "\n" };
        AnswerWriter.Write(output, answer, format, headers: true);
        string text = output.ToString();
        if (format == OutputFormat.Json)
        {
            using var parsed = JsonDocument.Parse(text);
        }

        return text;
    }
}
