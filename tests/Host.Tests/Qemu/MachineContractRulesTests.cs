using Godwit.Host.Network;
using Godwit.Host.Qemu;
using Godwit.Host.Tests.Network;

namespace Godwit.Host.Tests.Qemu;

public sealed class MachineContractRulesTests : IDisposable
{
    private readonly string _root = Directory.CreateTempSubdirectory("godwit-test-").FullName;

    private static readonly MachineContract Good = new()
    {
        Name = "web-1.a",
        Uuid = Guid.Parse("11111111-2222-3333-4444-555555555555"),
        MemoryBytes = 512 << 20,
        Cpus = 2,
        Machine = "pc-q35-10.0",
        CpuModel = "Nehalem,+x2apic,-vmx",
        Accelerator = "tcg",
        KernelPath = "/boot/vmlinuz",
        Interfaces = [new InterfaceContract("br0", "52:54:00:12:34:56", ["10.0.0.20/24", "fd00::20"])],
    };

    public void Dispose() => Directory.Delete(_root, recursive: true);

    [Fact]
    public void A_good_contract_passes() => Assert.Empty(MachineContractRules.CheckContract(Good));

    public static TheoryData<string, Func<MachineContract, MachineContract>> Bad => new()
    {
        { "guest-name", c => c with { Name = "" } },
        { "guest-name", c => c with { Name = "-rf" } },
        { "guest-name", c => c with { Name = "a,b" } },
        { "guest-name", c => c with { Name = "a\n" } },
        { "guest-name", c => c with { Name = new string('a', 64) } },
        { "guest-name", c => c with { Uuid = Guid.Empty } },
        { "guest-memory", c => c with { MemoryBytes = 0 } },
        { "guest-memory", c => c with { MemoryBytes = (512 << 20) + 4096 } },
        { "guest-memory", c => c with { MemoryBytes = -(2 << 20) } },
        { "guest-memory", c => c with { MemoryBytes = 8L << 40 } },
        { "guest-cpus", c => c with { Cpus = 0 } },
        { "guest-cpus", c => c with { Cpus = 256 } },
        { "machine-not-movable", c => c with { Machine = "pc" } },
        { "machine-not-movable", c => c with { Machine = "q35" } },
        { "machine-not-movable", c => c with { Machine = "microvm" } },
        { "machine-not-movable", c => c with { Machine = "pc-q35-10.0,accel=kvm" } },
        { "cpu-not-movable", c => c with { CpuModel = "host" } },
        { "cpu-not-movable", c => c with { CpuModel = "max,-avx" } },
        { "cpu-not-movable", c => c with { CpuModel = "qemu64 -snapshot" } },
        { "accelerator-missing", c => c with { Accelerator = "xen" } },
        { "kernel-missing", c => c with { KernelPath = null } },
        {
            "kernel-missing",
            c => c with { KernelPath = null, InitramfsPath = "/i", Disks = [new("/d", "raw", false)] }
        },
        { "disk-format", c => c with { Disks = [new("/d", "vmdk", false)] } },
        { "disk-missing", c => c with { Disks = [new("d.img", "raw", false)] } },
        { "disk-missing", c => c with { Disks = [new("/d", "raw", false), new("/d", "raw", true)] } },
        {
            "guest-devices",
            c => c with { Disks = [.. Enumerable.Range(0, 17).Select(i => new DiskContract($"/d{i}", "raw", false))] }
        },
        { "mac-invalid", c => With(c, mac: "52:54:00:12:34") },
        { "mac-invalid", c => With(c, mac: "53:54:00:12:34:56") },
        { "mac-invalid", c => With(c, mac: "ff:ff:ff:ff:ff:ff") },
        { "mac-invalid", c => With(c, mac: "00:00:00:00:00:00") },
        { "mac-invalid", c => With(c, mac: "fe:54:00:12:34:56") },
        { "mac-invalid", c => With(c, mac: "52:54:00:12:34:5 ") },
        { "address-invalid", c => With(c, address: "10.0.0.256") },
        { "address-invalid", c => With(c, address: "10.0.0.2/33") },
        { "address-invalid", c => With(c, address: "127.0.0.1") },
        { "address-invalid", c => With(c, address: "0.0.0.0") },
        { "address-invalid", c => With(c, address: "224.0.0.1") },
        { "address-invalid", c => With(c, address: "ff02::1") },
        { "address-invalid", c => With(c, address: "host.example") },
        { "mac-in-use", c => c with { Interfaces = [.. c.Interfaces, .. c.Interfaces] } },
    };

    [Theory]
    [MemberData(nameof(Bad), DisableDiscoveryEnumeration = true)]
    public void What_cannot_run_or_move_is_refused(string code, Func<MachineContract, MachineContract> change)
    {
        ContractRefusal refusal = Assert.Single(MachineContractRules.CheckContract(change(Good)));
        Assert.Equal(code, refusal.Code);
        Assert.NotEmpty(refusal.Message);
        Assert.NotEmpty(refusal.Remedy);
    }

    [Fact]
    public async Task Files_of_this_host_are_looked_at()
    {
        string raw = Path.Combine(_root, "raw.img");
        string qcow = Path.Combine(_root, "disk.qcow2");
        CancellationToken token = TestContext.Current.CancellationToken;
        await File.WriteAllBytesAsync(raw, new byte[4096], token);
        await File.WriteAllBytesAsync(qcow, [0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3], token);
        MachineContract local = Good with { Interfaces = [], KernelPath = raw };
        Assert.Empty(MachineContractRules.CheckHost(
            local with { Disks = [new(raw, "raw", false), new(qcow, "qcow2", true)] }));
        MachineContract wrong = local with
        {
            Disks = [new(raw, "qcow2", false), new(qcow, "raw", false), new(raw + ".absent", "raw", false)],
            InitramfsPath = raw + ".absent",
        };
        Assert.Equal(["disk-format", "disk-format", "disk-missing", "kernel-missing"],
            MachineContractRules.CheckHost(wrong).Select(refusal => refusal.Code).Order());
        Assert.EndsWith("is a directory.",
            Assert.Single(MachineContractRules.CheckHost(local with { Disks = [new(_root, "raw", false)] })).Message,
            StringComparison.Ordinal);
    }

    [Fact]
    public void A_disk_in_memory_is_refused()
    {
        if (DiskImage.FileSystemOf("/dev/shm") != "tmpfs")
        {
            Assert.Skip("/dev/shm is no tmpfs here");
        }
        string disk = Path.Combine("/dev/shm", Path.GetRandomFileName());
        File.WriteAllBytes(disk, new byte[4096]);
        try
        {
            Assert.Equal("disk-not-movable", Assert.Single(MachineContractRules.CheckHost(
                Good with { Interfaces = [], KernelPath = null, Disks = [new(disk, "raw", false)] })).Code);
        }
        finally
        {
            File.Delete(disk);
        }
    }

    [Fact]
    public void The_hosts_own_network_is_looked_at() => NetworkNamespace.Run(() =>
    {
        string[] Codes(MachineContract contract) =>
            [.. MachineContractRules.CheckHost(contract with { KernelPath = null }).Select(refusal => refusal.Code)];
        Assert.Equal(["bridge-unknown"], Codes(Good));
        using RouteNetlink netlink = new();
        netlink.CreateBridge("br0");
        Assert.Equal(["bridge-down"], Codes(Good));
        NetworkNamespace.Command("ip link set br0 address 02:00:00:00:00:01 up");
        NetworkNamespace.Command("ip addr add 10.0.0.1/24 dev br0");
        Assert.Empty(Codes(Good));
        Assert.Equal(["mac-in-use"], Codes(With(Good, mac: "02:00:00:00:00:01")));
        Assert.Equal(["guest-address-in-use"], Codes(With(Good, address: "10.0.0.1/24")));
    });

    private static MachineContract With(MachineContract contract, string? mac = null, string? address = null)
    {
        InterfaceContract guest = contract.Interfaces[0];
        return contract with
        {
            Interfaces =
                [guest with { Mac = mac ?? guest.Mac, Addresses = address is null ? guest.Addresses : [address] }],
        };
    }
}
