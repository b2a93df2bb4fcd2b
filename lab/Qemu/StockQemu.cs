using System.Globalization;
using Godwit.Lab.Guests;
using Godwit.Lab.Network;

namespace Godwit.Lab.Qemu;

/// <summary>What kind of guest: the same for stock QEMU and for Godwit, or no comparison would hold.</summary>
/// <param name="Number">0 to 99: gives address and MAC.</param>
/// <param name="Redis">When its Redis writes to its disk: <c>everysec</c>, or <c>always</c>, before it answers.</param>
internal sealed record GuestShape(int Number, int MemoryMegabytes, int Cpus, string? Redis = null)
{
    /// <summary>Whether its disk holds a Debian to work on, not only what the lab's guest needs.</summary>
    internal bool Userland { get; init; }

    internal string Address => LabNetwork.GuestAddress(Number);

    internal string Mac => LabNetwork.GuestMac(Number);

    internal string KernelCommandLine =>
        $"console=ttyS0 quiet panic=-1 no_timer_check mitigations=off godwit.ip={Address}/24 "
        + $"godwit.ip6={LabNetwork.GuestAddress6(Number)}/64" + (Redis is null ? "" : $" godwit.redis={Redis}");
}

/// <summary>A plain QEMU in a lab host, without any Godwit: the baseline everything is measured against.</summary>
internal sealed class StockQemu : IDisposable
{
    private readonly string _tap;

    private StockQemu(string host, string name, string tap, int processId, QmpClient qmp)
    {
        Host = host;
        Name = name;
        _tap = tap;
        ProcessId = processId;
        Qmp = qmp;
    }

    internal string Host { get; }

    internal string Name { get; }

    internal int ProcessId { get; }

    internal QmpClient Qmp { get; }

    /// <summary>Starts QEMU on a host; with <paramref name="incoming"/> it waits for a guest to come.</summary>
    /// <param name="program">Another QEMU than the installed one.</param>
    internal static StockQemu Start(
        string host, string name, GuestShape shape, GuestImage image, string disk, bool incoming,
        string program = "qemu-system-x86_64")
    {
        string tap = $"tap-{name}";
        string monitor = LabDirectory.InRun($"{name}.qmp");
        LabNetwork.AddTap(host, tap);
        List<string> command =
        [
            program, "-name", name, "-nodefaults", "-no-user-config", "-display", "none",
            "-machine", "q35", "-accel", Accelerator, "-m", $"{shape.MemoryMegabytes}", "-smp", $"{shape.Cpus}",
            "-kernel", image.Kernel, "-initrd", image.Initramfs, "-append", shape.KernelCommandLine,
            "-drive", $"file={disk},format=raw,if=virtio,cache=none",
            "-netdev", $"tap,id=net0,ifname={tap},script=no,downscript=no",
            "-device", $"virtio-net-pci,netdev=net0,mac={shape.Mac}",
            "-serial", $"file:{LabDirectory.InRun(name + ".console")}",
            "-qmp", $"unix:{monitor},server=on,wait=off",
        ];
        if (incoming)
        {
            command.AddRange(["-incoming", "defer"]);
        }

        int id = LabProcesses.Start(host, name, command);
        try
        {
            return new StockQemu(host, name, tap, id, QmpClient.Connect(monitor, TimeSpan.FromMinutes(2)));
        }
        catch (LabException e)
        {
            string log = LabDirectory.InRun(name + ".log");
            throw new LabException($"{e.Message} {(File.Exists(log) ? File.ReadAllText(log).Trim() : "")}", e);
        }
    }

    /// <summary>KVM when a machine can really be made with it; the device file alone proves nothing.</summary>
    internal static string Accelerator { get; } = KvmProbe.Works() ? "kvm" : "tcg";

    /// <summary>CPU seconds this QEMU has used.</summary>
    internal double CpuSeconds()
    {
        string stat = File.ReadAllText($"/proc/{ProcessId}/stat");
        string[] fields = stat[(stat.LastIndexOf(')') + 2)..].Split(' ');
        long ticks = long.Parse(fields[11], CultureInfo.InvariantCulture)
            + long.Parse(fields[12], CultureInfo.InvariantCulture);
        return ticks / 100.0;
    }

    public void Dispose()
    {
        Qmp.Dispose();
        LabProcesses.End(ProcessId, TimeSpan.FromSeconds(5));
        LabNetwork.RemoveTap(Host, _tap);
    }
}
