using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text.Json.Nodes;
using Godwit.Host.Inventory;
using Godwit.Host.Qemu;
using Godwit.Host.Tests.Qemu;
using Godwit.Host.Transfers;
using Godwit.Host.Trust;
using Godwit.Migration;
using Godwit.Pages;
using Microsoft.Extensions.Logging.Abstractions;

namespace Godwit.Host.Tests;

// Goal: a guest of real QEMU crosses between two processes through both transfers, over TLS on loopback, with every
// byte of its memory. Method: firmware only, so that the test needs no guest image; memory is stamped by the test.
public sealed partial class TransferTests : IAsyncLifetime
{
    private readonly string _directory = Directory.CreateTempSubdirectory("godwit-transfer-").FullName;
    private ClusterTrust _a = null!;
    private ClusterTrust _b = null!;

    public ValueTask InitializeAsync()
    {
        _a = ClusterTrust.LoadOrCreate(Path.Combine(_directory, "pki-a"), "a", "127.0.0.1", TimeProvider.System);
        string pkiB = Folder("pki-b");
        _b = new ClusterTrust(
            pkiB, HostIdentity.Create(pkiB, _a.LoadAuthority()!, "b", "127.0.0.1"), TimeProvider.System);
        return ValueTask.CompletedTask;
    }

    public ValueTask DisposeAsync()
    {
        Directory.Delete(_directory, recursive: true);
        return ValueTask.CompletedTask;
    }

    [Theory]
    [InlineData(true, true)]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(false, true)]
    [InlineData(true, true, true)]
    [InlineData(false, false, true)]
    [InlineData(true, true, false, 1)]
    [InlineData(false, false, false, 1)]
    public async Task A_guest_arrives_with_all_of_its_memory(
        bool sharedAtSource, bool sharedAtDestination, bool oldestQemu = false, int wireVersion = WireVersions.Max)
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        await using RealQemu qemu = await (oldestQemu ? RealQemu.OpenOldestAsync() : RealQemu.OpenAsync());
        await using Pair pair = await Pair.StartAsync(
            this, qemu.Installation, sharedAtSource, sharedAtDestination, _patient, cancel, wireVersion);
        byte[] before = await pair.StampAsync(cancel);
        (MigrationSnapshot source, MigrationSnapshot destination) = await pair.MoveAsync(cancel);
        Assert.Equal(("", MigrationOutcome.Completed), (source.Error, source.Outcome));
        Assert.Equal(MigrationOutcome.Completed, destination.Outcome);
        Assert.Equal("running", await pair.Destination.QueryStateAsync(cancel));
        Assert.Equal("postmigrate", await pair.Source.QueryStateAsync(cancel));
        Assert.True(source.Downtime > TimeSpan.Zero && source.WireBytes > 0);
        Assert.Equal(before, await pair.ReadStampAsync(pair.Destination, cancel));
    }

    [Fact]
    public async Task A_destination_that_dies_leaves_the_guest_running_at_the_source()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        var slow = new MigrationPolicy { BandwidthBitsPerSecond = 8_000_000 };
        await using RealQemu qemu = await RealQemu.OpenAsync();
        await using Pair pair = await Pair.StartAsync(this, qemu.Installation, true, true, slow, cancel);
        await pair.StampAsync(cancel);
        Task<(MigrationSnapshot Source, MigrationSnapshot Destination)> move = pair.MoveAsync(cancel);
        await pair.CopiesAsync(cancel);
        await pair.Destination.KillAsync();
        (MigrationSnapshot source, MigrationSnapshot destination) = await move;
        Assert.Equal(MigrationOutcome.Failed, source.Outcome);
        Assert.Equal(MigrationOutcome.Failed, destination.Outcome);
        Assert.Contains("runs on a", source.Error, StringComparison.Ordinal);
        Assert.Equal("running", await pair.Source.QueryStateAsync(cancel));
    }

    // Goal: a closed port and a ticket nobody waits for are told from a QEMU that fails: the remedies differ.
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_lane_that_cannot_be_opened_is_the_fault_of_the_link(bool somebodyListens)
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        await using RealQemu qemu = await RealQemu.OpenAsync();
        await using Pair pair = await Pair.StartAsync(this, qemu.Installation, true, true, new(), cancel);
        using var deaf = new Socket(SocketType.Stream, ProtocolType.Tcp);
        deaf.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        var terms = new TransferTerms(
            "m0", "web1", "a", "b", new(), RandomNumberGenerator.GetBytes(32), WireVersions.Max, 2);
        var outgoing = new SourceTransfer(
            pair.Source, terms, somebodyListens ? pair.Lanes : (IPEndPoint)deaf.LocalEndPoint!,
            _a.ClientOptions("b"), Folder("source"), new(() => Task.CompletedTask, () => Task.CompletedTask),
                NullLogger.Instance);
        MigrationSnapshot end = await outgoing.RunAsync(cancel);
        Assert.Equal((MigrationOutcome.Failed, "link-lost"), (end.Outcome, end.ErrorCode));
        Assert.Contains("lane 0", end.Error, StringComparison.OrdinalIgnoreCase);
        Assert.Equal("running", await pair.Source.QueryStateAsync(cancel));
    }

    [Fact]
    public async Task A_cancelled_guest_can_be_moved_afterwards()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        var slow = new MigrationPolicy { BandwidthBitsPerSecond = 8_000_000 };
        await using RealQemu qemu = await RealQemu.OpenAsync();
        await using (Pair pair = await Pair.StartAsync(this, qemu.Installation, true, true, slow, cancel))
        {
            await pair.StampAsync(cancel);
            Task<(MigrationSnapshot Source, MigrationSnapshot)> move = pair.MoveAsync(cancel);
            await pair.CopiesAsync(cancel);
            Assert.True(pair.Outgoing.Cancel(), pair.Outgoing.Snapshot.Error);
            Assert.Equal(MigrationOutcome.Cancelled, (await move).Source.Outcome);
            Assert.Equal("running", await pair.Source.QueryStateAsync(cancel));
            await pair.RenewDestinationAsync(_patient, cancel);
            (MigrationSnapshot source, _) = await pair.MoveAsync(cancel);
            Assert.Equal(("", MigrationOutcome.Completed), (source.Error, source.Outcome));
        }
    }

    private sealed class Pair : IAsyncDisposable
    {
        public const int StampBytes = 24 << 20;
        public const int StampOffset = 32 << 20;
        private readonly TransferTests _test;
        private readonly QemuInstallation _qemu;
        private readonly bool _sharedAtDestination;
        private readonly int _wireVersion;
        private LaneListener _listener = null!;
        private DestinationTransfer _incoming = null!;
        private int _run;

        private Pair(TransferTests test, QemuInstallation qemu, bool sharedAtDestination, int wireVersion)
        {
            _wireVersion = wireVersion;
            _test = test;
            _qemu = qemu;
            _sharedAtDestination = sharedAtDestination;
        }

        public IPEndPoint Lanes => new(IPAddress.Loopback, _listener.Port);
        public QemuMachine Source { get; private set; } = null!;
        public QemuMachine Destination { get; private set; } = null!;
        public SourceTransfer Outgoing { get; private set; } = null!;

        /// <summary>The destination's, from the next <see cref="RenewDestinationAsync"/> on.</summary>
        public HostInventory? Inventory { get; set; }

        /// <summary>What the source knows of what the guest came with.</summary>
        public ArrivedMemory? Came { get; set; }

        /// <summary>Where the destination notes what the guest comes with.</summary>
        public ArrivedMemory? Comes { get; set; }

        /// <summary>Disk images the destination believes to be the guest's.</summary>
        public string[] Images { get; set; } = [];

        /// <summary>Memory of guests that run at the destination.</summary>
        public GuestMemory[] Running { get; set; } = [];

        public static async Task<Pair> StartAsync(
            TransferTests test, QemuInstallation qemu, bool sharedAtSource, bool sharedAtDestination,
            MigrationPolicy policy, CancellationToken cancellationToken, int wireVersion = WireVersions.Max)
        {
            var pair = new Pair(test, qemu, sharedAtDestination, wireVersion);
            pair._listener = new LaneListener(
                new IPEndPoint(IPAddress.Loopback, 0), test._b.ServerOptions, NullLogger.Instance);
            pair._listener.Start();
            pair.Source = await QemuMachine.StartAsync(
                qemu, pair.Contract(sharedAtSource), test.Folder("source"), incoming: false, cancellationToken);
            await pair.RenewDestinationAsync(policy, cancellationToken);
            return pair;
        }

        public async Task RenewDestinationAsync(MigrationPolicy policy, CancellationToken cancellationToken)
        {
            if (Destination is not null)
            {
                await Destination.KillAsync();
                await Destination.DisposeAsync();
            }

            string folder = _test.Folder($"destination-{++_run}");
            Destination = await QemuMachine.StartAsync(
                _qemu, Contract(_sharedAtDestination), folder, incoming: true, cancellationToken);
            var terms = new TransferTerms(
                $"m{_run}", "web1", "a", "b", policy, RandomNumberGenerator.GetBytes(32), _wireVersion, 2);
            _incoming = new DestinationTransfer(
                Destination, terms, folder,
                new(() => Task.CompletedTask, () => Task.CompletedTask, () => Task.FromResult(TimeSpan.Zero)),
                Inventory is null ? null : await Inventory.OpenAsync(
                    Source.Contract.Uuid, Images, [], siblings: Running.Length > 0, Running),
                NullLogger.Instance, Comes);
            _listener.Expect(_incoming);
            Outgoing = new SourceTransfer(
                Source, terms, Lanes, _test._a.ClientOptions("b"),
                _test.Folder("source"), new(() => Task.CompletedTask, () => Task.CompletedTask),
                NullLogger.Instance, arrived: Came);
        }

        public async Task<(MigrationSnapshot Source, MigrationSnapshot Destination)> MoveAsync(
            CancellationToken cancellationToken)
        {
            Task<MigrationSnapshot> destination = _incoming.RunAsync(cancellationToken);
            MigrationSnapshot source = await Outgoing.RunAsync(cancellationToken);
            return (source, await destination);
        }

        /// <summary>Waits until pages are on their way.</summary>
        public async Task CopiesAsync(CancellationToken cancellationToken)
        {
            while (Outgoing.Snapshot.Phase < MigrationPhase.Copying)
            {
                await Task.Delay(20, cancellationToken);
            }

            Assert.Equal(("", MigrationPhase.Copying), (Outgoing.Snapshot.Error, Outgoing.Snapshot.Phase));
        }

        /// <summary>Fills part of the guest's memory, half of it with noise, and gives what it then holds.</summary>
        public async Task<byte[]> StampAsync(CancellationToken cancellationToken)
        {
            if (Source.Contract.SharedMemory)
            {
                using GuestMemory memory = Source.OpenMemory().Single();
                byte[] page = new byte[Page.Size];
                var random = new Random(1);
                for (int i = 0; i < StampBytes / Page.Size; i++)
                {
                    page.AsSpan().Fill((byte)i);
                    if (i % 2 == 0)
                    {
                        random.NextBytes(page);
                    }

                    memory.Write(new PageNumber((StampOffset / Page.Size) + i), page);
                }
            }

            byte[] stamp = await ReadStampAsync(Source, cancellationToken);
            if (Source.Contract.SharedMemory)
            {
                Assert.All(Enumerable.Range(0, StampBytes / Page.Size).Where(i => i % 2 == 1 && i % 256 != 0),
                    i => Assert.Equal((byte)i, stamp[i * Page.Size]));
            }

            return stamp;
        }

        public async Task<byte[]> ReadStampAsync(QemuMachine machine, CancellationToken cancellationToken)
        {
            string file = Path.Combine(_test._directory, "memory");
            await machine.ExecuteAsync(
                "pmemsave", new JsonObject { ["val"] = StampOffset, ["size"] = StampBytes, ["filename"] = file },
                cancellationToken);
            byte[] bytes = await File.ReadAllBytesAsync(file, cancellationToken);
            File.Delete(file);
            return bytes;
        }

        public async ValueTask DisposeAsync()
        {
            await _listener.DisposeAsync();
            await Source.KillAsync();
            await Source.DisposeAsync();
            await Destination.KillAsync();
            await Destination.DisposeAsync();
        }

        private MachineContract Contract(bool shared) => new()
        {
            Name = "web1",
            Uuid = Guid.Parse("6f1f9f4e-3b43-4b43-9c1a-5d3b1c0a7e01"),
            MemoryBytes = 128 << 20,
            Cpus = 1,
            Machine = _qemu.NewestMachine("pc-q35")!,
            CpuModel = "qemu64",
            Accelerator = "tcg",
            SharedMemory = shared,
            Video = true,
        };
    }

    private string Folder(string name) => Directory.CreateDirectory(Path.Combine(_directory, name)).FullName;
}
