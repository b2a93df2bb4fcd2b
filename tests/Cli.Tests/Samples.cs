using Godwit.Api.V1;

namespace Godwit.Cli.Tests;

/// <summary>Guests, hosts and migrations as a daemon would describe them, with every field set.</summary>
internal static class Samples
{
    public static Guest Guest(string name = "web1", GuestState state = GuestState.Running) => new()
    {
        Spec = new GuestSpec
        {
            Name = name, Uuid = "5e0b6f5a-9a0f-4a57-8e37-0d7a1f1d2c3b", MemoryBytes = 512 << 20, Cpus = 2,
            Machine = "pc-q35-10.0", CpuModel = "qemu64", Accelerator = "tcg", Video = true,
            Disks =
            {
                new Disk { Path = "/srv/images/web1.qcow2", Format = "qcow2" },
                new Disk { Path = "/srv/images/seed.iso", Format = "raw", ReadOnly = true },
            },
            Interfaces =
            {
                new NetworkInterface
                {
                    Bridge = "br0", Mac = "52:54:00:12:34:56", Addresses = { "10.0.0.21", "fd00::21" },
                },
            },
        },
        State = state, Host = "a", ProcessId = 4711, ConsoleSocket = "/run/godwit/guests/web1/console.sock",
    };

    public static ResumePrediction Prediction() => new()
    {
        Guest = "web1", GuestUuid = "5e0b6f5a-9a0f-4a57-8e37-0d7a1f1d2c3b", Asleep = true, SuspendedOn = "a",
        SuspendedUnixMs = 90_000_000, Host = "b", ResumedUnixMs = 120_000_000, Share = 0.824, Predicted = 11,
        PredictedRight = 9, HoardedBytes = 1_200_000_000, UsedBytes = 1_100_000_000,
        Evidence =
        {
            new HostEvidence { Host = "b", Resumes = 12, Alike = 11, Weight = 9.125, Share = 0.824 },
            new HostEvidence { Host = "c", Resumes = 2, Alike = 0, Weight = 1.449, Share = 0.131 },
        },
        Sleeps =
        {
            new Sleep
            {
                Parcel = "1c2k00000002", SuspendedOn = "a", SuspendedUnixMs = 90_000_000, PredictedHost = "b",
                PredictedUnixMs = 120_000_000,
            },
            new Sleep
            {
                Parcel = "1c2k00000001", SuspendedOn = "a", SuspendedUnixMs = 1_000_000, ResumedOn = "b",
                ResumedUnixMs = 33_000_000, PredictedHost = "b", PredictedUnixMs = 32_000_000,
                HoardedBytes = 1_200_000_000, UsedBytes = 1_100_000_000,
            },
        },
    };

    public static Migration Migration(
        MigrationOutcome outcome = MigrationOutcome.Completed, MigrationPhase phase = MigrationPhase.Ended) => new()
    {
        Id = "3f2a9c01", Guest = "web1", From = "a", To = "b", Method = "precopy", Phase = phase, Outcome = outcome,
        MemoryBacking = "shared", TotalSeconds = 12.3456, WireBytes = 187_654_321, DowntimeMs = 87.25,
        QemuDowntimeMs = 80.5, DaemonCpuSeconds = 1.5, GuestRunsOn = outcome == MigrationOutcome.Completed ? "b" : "a",
        Policy = new MigrationPolicy { MaxDowntimeMs = 300, BandwidthBitsPerSecond = 400_000_000 },
        SavedBytes = { ["zero"] = 300_000_000, ["superseded"] = 12_345_678, ["compressed"] = 45_678_901 },
        BlackoutParts =
        {
            ["last_round_ms"] = 40.125, ["device_state_ms"] = 10, ["load_ms"] = 20.5, ["commit_ms"] = 2.25,
            ["resume_ms"] = 14.375, ["announcement_ms"] = 1.25,
        },
        Rounds =
        {
            new Round
            {
                Number = 0, Pages = 131_072, Bytes = 180_000_000, Seconds = 10.5, DirtyBytesPerSecond = 2_097_152,
                Coding = "zstd 1: the link carries 50.1 MB/s and 1.8 cores are free; pages cross at 145 MB/s, "
                    + "at 50 plain",
            },
            new Round
            {
                Number = 1, Pages = 5_376, Bytes = 7_654_321, Seconds = 0.42, DirtyBytesPerSecond = 1_048_576,
                RateBitsPerSecond = 400_000_000,
            },
        },
        Progress = new Godwit.Api.V1.Progress
        {
            Fraction = 0.875, SentBytes = 187_654_321, RemainingBytes = 1_234_567, TotalBytes = 536_870_912,
            WireBytesPerSecond = 11_800_000, DirtyBytesPerSecond = 1_048_576, ExpectedDowntimeMs = 210,
            SecondsLeft = 2.5, Verdict = "converging",
        },
    };

    public static MigrationPlan Plan(bool possible = true)
    {
        var plan = new MigrationPlan
        {
            Possible = possible, BytesLow = 180_000_000, BytesHigh = 220_000_000, SecondsLow = 14, SecondsHigh = 19.5,
            DowntimeMsLow = 60, DowntimeMsHigh = 140, Method = "precopy",
            Basis = "10 s of dirty logging, the link's rate to b",
        };
        if (!possible)
        {
            plan.Refusals.Add(new Refusal
            {
                Code = "bridge-missing", Message = "host b has no bridge br0.", Remedy = "Create br0 on b.",
            });
            plan.BytesHigh = 0;
        }

        return plan;
    }

    public static HostInfo Host(string name, bool self) => new()
    {
        Name = name, Address = $"{name}.example:7443", Self = self, Reachable = true, Cpus = 8, GuestsRunning = 3,
        MemoryTotalBytes = 64ul << 30, MemoryFreeBytes = 41ul << 30, Bridges = { "br0", "br1" }, HoldsCa = self,
        CertificateSha256 = "ab12", Version = new VersionInfo
        {
            Version = "0.1.0", Host = name, WireVersionMin = 1, WireVersionMax = 1, QemuVersion = "10.0.2",
            Accelerator = "kvm",
        },
    };

    public static HostInfo HostThatDoesNotAnswer { get; } = new()
    {
        Name = "c", Address = "c.example:7443", Detail = "host-unreachable: nothing answers at c.example:7443.",
    };

    public static Parcel Parcel(string id, string resumedOn) => new()
    {
        Id = id, Store = "office", Kind = ParcelKind.Suspend, GuestUuid = "6f1f9f4e-3b43-4b43-9c1a-5d3b1c0a7e01",
        Guest = "web1", Host = "a", Epoch = 1, CreatedUnixMs = 1_800_000, MemoryBytes = 2ul << 30,
        DiskBytes = 20ul << 30, WrittenBytes = 150_000_000, QemuVersion = "10.0.2", ResumedOn = resumedOn,
        Home = "aaaaaaaa-0000-0000-0000-000000000000", TotalSeconds = 4.5,
    };

    public static StoreInfo Store(string detail) => new()
    {
        Spec = new StoreSpec
        {
            Name = "office", Location = "/mnt/office/godwit", Coding = "lz4", QuotaBytes = 8ul << 30,
        },
        Id = "aaaaaaaa-0000-0000-0000-000000000000", Bytes = 150_000_000, Chunks = 120_000, Packs = 18, Parcels = 2,
        Detail = detail,
    };

    public static StoreInfo NewBucket { get; } = new()
    {
        Spec = new StoreSpec
        {
            Name = "cloud", Location = "s3://backups/godwit", Endpoint = "https://s3.example.org", Coding = "zstd",
        },
        Id = "bbbbbbbb-0000-0000-0000-000000000000", IsNew = true,
    };

    public static IReadOnlyList<Finding> Findings { get; } =
    [
        new Finding { Code = "qemu", Severity = Severity.Ok, Subject = "QEMU", Detail = "10.0.2 at /usr/bin" },
        new Finding
        {
            Code = "kvm-absent", Severity = Severity.Warning, Subject = "accelerator",
            Detail = "/dev/kvm does not work; guests run under TCG", Remedy = "Enable virtualization in the firmware.",
        },
        new Finding
        {
            Code = "bridge-missing", Severity = Severity.Error, Subject = "network", Detail = "there is no bridge br0",
            Remedy = "Create it with 'ip link add br0 type bridge'.",
        },
    ];
}
