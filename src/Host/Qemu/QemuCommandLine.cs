using System.Globalization;
using System.Text.Json.Nodes;
using Godwit.Migration;

namespace Godwit.Host.Qemu;

/// <summary>A machine contract as QEMU's arguments.</summary>
/// <remarks>
/// Everything the guest can see follows from the contract alone, down to PCI slots, so that both ends of a move build
/// the same machine. Only what the guest cannot see (socket paths, the TAP's name, how an image is opened) depends on
/// the host.
/// </remarks>
internal static class QemuCommandLine
{
    /// <summary>
    /// Name of main memory in QEMU's stream. It is what QEMU calls it by itself, so a plain QEMU at the other end
    /// finds it too.
    /// </summary>
    internal const string MemoryBlock = "pc.ram";

    // Slots 0 and 1 and the last are the chipsets'.
    private const int VideoSlot = 2;
    private const int EntropySlot = 3;
    private const int InterfaceSlot = 4;
    private const int DiskSlot = 12;
    internal const int InterfacesMax = DiskSlot - InterfaceSlot;
    internal const int DisksMax = 16;

    /// <param name="taps">A device's name per interface of the contract.</param>
    /// <param name="supportsDirect">Whether the file system of an image takes O_DIRECT.</param>
    internal static List<string> Build(
        MachineContract contract, MachineFiles files, IReadOnlyList<string> taps, bool incoming,
        Func<string, bool> supportsDirect)
    {
        string bus = contract.Machine.Contains("q35", StringComparison.Ordinal) ? "pcie.0" : "pci.0";
        string memoryBytes = contract.MemoryBytes.ToString(CultureInfo.InvariantCulture);
        List<string> arguments =
        [
            "-name", $"guest={Escape(contract.Name)},process=godwit-{contract.Name}",
            "-uuid", contract.Uuid.ToString("D"),
            "-no-user-config", "-nodefaults", "-display", "none",
            "-accel", contract.Accelerator,
            "-machine", $"{contract.Machine},memory-backend={MemoryBlock}",
            "-cpu", contract.CpuModel,
            "-smp", contract.Cpus.ToString(CultureInfo.InvariantCulture),
            "-m", $"{memoryBytes}B",
            "-object", contract.SharedMemory
                ? $"memory-backend-memfd,id={MemoryBlock},size={memoryBytes},share=on"
                : $"memory-backend-ram,id={MemoryBlock},size={memoryBytes},share=off",
            "-rtc", "base=utc",
            "-pidfile", files.ProcessIdFile,
            "-chardev", $"socket,id=monitor,path={Escape(files.Monitor)},server=on,wait=off",
            "-mon", "chardev=monitor,mode=control",
            "-chardev",
            $"socket,id=console,path={Escape(files.ConsoleSocket)},server=on,wait=off," +
                $"logfile={Escape(files.ConsoleLog)},logappend=on",
            "-device", "isa-serial,id=serial0,chardev=console",
            "-object", "rng-random,id=entropy,filename=/dev/urandom",
            "-device", $"virtio-rng-pci,id=rng0,rng=entropy,bus={bus},addr={Slot(EntropySlot)}",
        ];
        if (contract.Video)
        {
            arguments.AddRange(["-device", $"VGA,id=video0,bus={bus},addr={Slot(VideoSlot)}"]);
        }
        for (int i = 0; i < contract.Interfaces.Count; i++)
        {
            // vhost stays off: the kernel's own writes into guest memory would not wait for QEMU's pause.
            arguments.AddRange(
            [
                "-netdev", $"tap,id=net{i},ifname={taps[i]},script=no,downscript=no,vhost=off",
                "-device", $"virtio-net-pci,id=nic{i},netdev=net{i},mac={contract.Interfaces[i].Mac},romfile=," +
                    $"bus={bus},addr={Slot(InterfaceSlot + i)}",
            ]);
        }
        for (int i = 0; i < contract.Disks.Count; i++)
        {
            DiskContract disk = contract.Disks[i];
            string boot = contract.KernelPath is null && i == 0 ? ",bootindex=0" : "";
            arguments.AddRange(
            [
                "-blockdev", Blockdev(disk, i, supportsDirect(disk.Path)).ToJsonString(),
                // The write cache is stated because the guest sees it; it is on, as the guest's flushes are obeyed.
                "-device", $"virtio-blk-pci,id=virtio-disk{i},drive=disk{i},serial=disk{i},write-cache=on," +
                    $"bus={bus},addr={Slot(DiskSlot + i)}{boot}",
            ]);
        }
        if (contract.KernelPath is not null)
        {
            arguments.AddRange(["-kernel", contract.KernelPath]);
            if (contract.InitramfsPath is not null)
            {
                arguments.AddRange(["-initrd", contract.InitramfsPath]);
            }
            if (contract.KernelCommandLine is not null)
            {
                arguments.AddRange(["-append", contract.KernelCommandLine]);
            }
        }
        if (incoming)
        {
            arguments.AddRange(["-incoming", "defer", "-S"]);
        }
        return arguments;
    }

    private static JsonObject Blockdev(DiskContract disk, int number, bool direct) => new()
    {
        ["driver"] = disk.Format,
        ["node-name"] = $"disk{number}",
        ["read-only"] = disk.ReadOnly,
        // Past the host's page cache, so that the other host reads what this one wrote. Where O_DIRECT is refused,
        // QEMU flushes before it hands an image over and drops the host's cache when it takes one, which does the
        // same for every file system that keeps its hosts coherent at all.
        ["cache"] = new JsonObject { ["direct"] = direct, ["no-flush"] = false },
        ["file"] = new JsonObject
        {
            ["driver"] = IsBlockDevice(disk.Path) ? "host_device" : "file",
            ["filename"] = disk.Path,
            ["cache"] = new JsonObject { ["direct"] = direct, ["no-flush"] = false },
        },
    };

    private static bool IsBlockDevice(string path) =>
        path.StartsWith("/dev/", StringComparison.Ordinal) && !path.StartsWith("/dev/shm/", StringComparison.Ordinal);

    private static string Slot(int slot) => "0x" + slot.ToString("x", CultureInfo.InvariantCulture);

    /// <summary>QEMU's option lists end a value at a comma; a doubled one stands for itself.</summary>
    private static string Escape(string value) => value.Replace(",", ",,", StringComparison.Ordinal);
}
