using System.Net;
using System.Net.Sockets;
using System.Text.RegularExpressions;
using Godwit.Host.Network;

namespace Godwit.Host.Qemu;

/// <summary>One reason why a contract is refused, on this host or anywhere.</summary>
/// <param name="Code">Stable; in the API's error catalog.</param>
public sealed record ContractRefusal(string Code, string Message, string Remedy);

/// <summary>What a machine contract has to keep to so that its guest can run and be moved later.</summary>
public static partial class MachineContractRules
{
    public const long MemoryBytesMin = 2L << 20;
    public const long MemoryBytesMax = 4L << 40;
    public const long MemoryBytesUnit = 2L << 20;
    public const int CpusMax = 255;
    private const int NameCharactersMax = 63;

    /// <summary>
    /// Every refusal at once: those of the contract itself and those of this host; empty if there is none.
    /// </summary>
    /// <remarks>
    /// Both ends of a move ask it. What only QEMU knows (machine types, CPU features) is
    /// <see cref="QemuInstallation.CheckAsync"/>'s to say.
    /// </remarks>
    public static IReadOnlyList<ContractRefusal> Check(MachineContract contract) =>
        [.. CheckContract(contract), .. CheckHost(contract)];

    /// <summary>Refusals that hold on every host.</summary>
    public static IReadOnlyList<ContractRefusal> CheckContract(MachineContract contract)
    {
        List<ContractRefusal> refusals = [];
        void Refuse(string code, string message, string remedy) => refusals.Add(new(code, message, remedy));

        if (!NamePattern().IsMatch(contract.Name))
        {
            Refuse("guest-name", $"'{contract.Name}' is no name for a guest.",
                $"Use 1 to {NameCharactersMax} letters, digits, dots, hyphens or underscores, beginning with a " +
                "letter or digit.");
        }
        if (contract.Uuid == Guid.Empty)
        {
            Refuse("guest-name", $"Guest {contract.Name} has an empty UUID.", "Leave it out and one is made.");
        }
        if (contract.MemoryBytes is < MemoryBytesMin or > MemoryBytesMax || contract.MemoryBytes % MemoryBytesUnit != 0)
        {
            Refuse("guest-memory",
                $"{contract.MemoryBytes} B of memory: it has to be a multiple of 2 MiB from 2 MiB to 4 TiB.",
                "Give it with a unit, for example 512MiB or 4GiB.");
        }
        if (contract.Cpus is < 1 or > CpusMax)
        {
            Refuse("guest-cpus", $"{contract.Cpus} CPUs: a guest has 1 to {CpusMax}.", "Give another number.");
        }
        CheckMachine(contract, Refuse);
        if (contract.Disks.Count > QemuCommandLine.DisksMax
            || contract.Interfaces.Count > QemuCommandLine.InterfacesMax)
        {
            Refuse("guest-devices",
                $"{contract.Disks.Count} disks and {contract.Interfaces.Count} interfaces: at most " +
                $"{QemuCommandLine.DisksMax} and {QemuCommandLine.InterfacesMax} have a slot.", "Give it fewer.");
        }
        foreach (DiskContract disk in contract.Disks)
        {
            if (disk.Format is not ("raw" or "qcow2"))
            {
                Refuse("disk-format", $"Disk {disk.Path} has format '{disk.Format}', which Godwit does not know.",
                    "Convert it with 'qemu-img convert -O qcow2'.");
            }
            CheckPath("disk-missing", "Disk", disk.Path, Refuse);
        }
        if (contract.Disks.GroupBy(disk => disk.Path).FirstOrDefault(group => group.Count() > 1) is { } twice)
        {
            Refuse("disk-missing", $"Disk {twice.Key} is given twice.", "Give each disk once.");
        }
        if (contract.KernelPath is null && contract.Disks.Count == 0)
        {
            Refuse("kernel-missing", $"Guest {contract.Name} has neither a disk nor a kernel to boot from.",
                "Give a disk image, or a kernel and an initramfs.");
        }
        if (contract.KernelPath is null && (contract.InitramfsPath ?? contract.KernelCommandLine) is not null)
        {
            Refuse("kernel-missing", "An initramfs or a kernel command line is given without a kernel.",
                "Give the kernel too, or let the guest boot from its disk.");
        }
        foreach (InterfaceContract guest in contract.Interfaces)
        {
            CheckInterface(guest, Refuse);
        }
        if (contract.Interfaces.GroupBy(guest => guest.Mac.ToUpperInvariant()).Any(group => group.Count() > 1))
        {
            Refuse("mac-in-use", "Two interfaces have the same MAC address.", "Give each its own.");
        }
        return refusals;
    }

    /// <summary>Refusals of this host: files, bridges and addresses, seen from the calling thread's network.</summary>
    public static IReadOnlyList<ContractRefusal> CheckHost(MachineContract contract)
    {
        List<ContractRefusal> refusals = [];
        void Refuse(string code, string message, string remedy) => refusals.Add(new(code, message, remedy));

        foreach ((string what, string? path) in new[]
            { ("Kernel", contract.KernelPath), ("Initramfs", contract.InitramfsPath) })
        {
            if (path is not null && !File.Exists(path))
            {
                Refuse("kernel-missing", $"{what} {path} is not on this host.",
                    "It has to lie under the same path on every host of the guest's.");
            }
        }
        foreach (DiskContract disk in contract.Disks)
        {
            CheckDisk(disk, Refuse);
        }
        if (contract.Interfaces.Count > 0)
        {
            CheckNetwork(contract, Refuse);
        }
        return refusals;
    }

    /// <summary>Machine type, CPU model and accelerator are of a kind that may be handed to QEMU.</summary>
    internal static bool IsMachineSound(MachineContract contract)
    {
        bool sound = true;
        CheckMachine(contract, (_, _, _) => sound = false);
        return sound;
    }

    /// <summary>Whether a machine type means the same machine in every QEMU that has it.</summary>
    internal static bool HasVersion(string machine) => MachinePattern().IsMatch(machine);

    private static void CheckMachine(MachineContract contract, Action<string, string, string> refuse)
    {
        if (!HasVersion(contract.Machine))
        {
            refuse("machine-not-movable",
                $"Machine type '{contract.Machine}' is an alias, carries no full version or is no PC: an alias means " +
                "another machine in the next QEMU, and a guest of it could not be moved there.",
                "Give a versioned PC type, for example pc-q35-10.0; 'qemu-system-x86_64 -machine help' lists them.");
        }
        string model = contract.CpuModel.Split(',')[0];
        if (model is "host" or "max" or "base" or "")
        {
            refuse("cpu-not-movable",
                $"CPU model '{model}' is whatever this host and QEMU have: on another host the guest would lose " +
                "features it has already found.",
                "Give a named model that all hosts support; 'qemu-system-x86_64 -cpu help' lists them.");
        }
        else if (!CpuPattern().IsMatch(contract.CpuModel))
        {
            refuse("cpu-not-movable", $"'{contract.CpuModel}' is no CPU model with features.",
                "A model's name, and features as ',+name' or ',-name'.");
        }
        if (contract.Accelerator is not ("kvm" or "tcg"))
        {
            refuse("accelerator-missing", $"Accelerator '{contract.Accelerator}' is not known.", "Give kvm or tcg.");
        }
    }

    private static void CheckPath(string code, string what, string path, Action<string, string, string> refuse)
    {
        if (!Path.IsPathFullyQualified(path))
        {
            refuse(code, $"{what} '{path}' is no absolute path.",
                "Give the path under which every host of the guest's reaches it.");
        }
    }

    private static void CheckDisk(DiskContract disk, Action<string, string, string> refuse)
    {
        if (!File.Exists(disk.Path))
        {
            refuse("disk-missing", Directory.Exists(disk.Path)
                ? $"Disk {disk.Path} is a directory."
                : $"Disk {disk.Path} is not on this host.",
                "It has to lie on storage that every host of the guest's reaches under this path.");
            return;
        }
        try
        {
            using (File.OpenHandle(disk.Path, FileMode.Open, disk.ReadOnly ? FileAccess.Read : FileAccess.ReadWrite,
                FileShare.ReadWrite))
            {
            }
            string format = DiskImage.DetectFormat(disk.Path);
            if (disk.Format is "raw" or "qcow2" && format != disk.Format)
            {
                refuse("disk-format", $"Disk {disk.Path} is a {format} image; the guest was told {disk.Format}.",
                    $"Give format {format}.");
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            string purpose = disk.ReadOnly ? "reading" : "writing";
            refuse("disk-missing", $"Disk {disk.Path} cannot be opened for {purpose}: {e.Message}",
                "Correct its permissions, or make the disk read-only.");
        }
        if (DiskImage.FileSystemOf(disk.Path) is ("tmpfs" or "ramfs" or "rootfs") and string type)
        {
            refuse("disk-not-movable",
                $"Disk {disk.Path} lies in this host's memory ({type}): no other host reaches it.",
                "Put the image on shared storage.");
        }
    }

    private static void CheckInterface(InterfaceContract guest, Action<string, string, string> refuse)
    {
        if (!MacAddress.TryParse(guest.Mac, out byte[] mac)
            || (mac[0] & 1) != 0 || mac[0] == 0xfe || mac.All(b => b == 0))
        {
            refuse("mac-invalid",
                $"'{guest.Mac}' is no MAC address for a guest: it has to be unicast, not all zeros, and must not " +
                "begin with fe.",
                "Leave it out and one is made, or give one like 52:54:00:12:34:56.");
        }
        foreach (string address in guest.Addresses)
        {
            string[] parts = address.Split('/');
            bool good = parts.Length <= 2 && IPAddress.TryParse(parts[0], out IPAddress? ip)
                && (parts.Length == 1 || (int.TryParse(parts[1], out int prefix) && prefix >= 0
                    && prefix <= (ip.AddressFamily == AddressFamily.InterNetwork ? 32 : 128)))
                && !IPAddress.IsLoopback(ip) && !ip.Equals(IPAddress.Any) && !ip.Equals(IPAddress.IPv6Any)
                && !ip.IsIPv6Multicast
                && (ip.AddressFamily != AddressFamily.InterNetwork || ip.GetAddressBytes()[0] < 224);
            if (!good)
            {
                refuse("address-invalid", $"'{address}' is no address of a guest's.",
                    "Give an IPv4 or IPv6 unicast address, for example 10.0.0.20 or fd00::20.");
            }
        }
    }

    private static void CheckNetwork(MachineContract contract, Action<string, string, string> refuse)
    {
        IReadOnlyList<Link> links;
        IReadOnlyList<IPAddress> addresses;
        try
        {
            using RouteNetlink netlink = new();
            links = netlink.Links();
            addresses = netlink.Addresses();
        }
        catch (NetworkException e)
        {
            refuse("bridge-unknown", e.Message, "Look at 'ip link'.");
            return;
        }
        foreach (InterfaceContract guest in contract.Interfaces.Where(one => one.Bridge.Length > 0))
        {
            Link? bridge = links.FirstOrDefault(link => link.Kind == "bridge" && link.Name == guest.Bridge);
            if (bridge is { Up: false })
            {
                refuse("bridge-down", $"Bridge {guest.Bridge} of this host is down: no frame would reach the guest.",
                    $"Set it up with 'ip link set {guest.Bridge} up'.");
            }
            if (bridge is null)
            {
                string[] bridges = [.. links.Where(link => link.Kind == "bridge").Select(link => link.Name)];
                refuse("bridge-unknown", $"This host has no bridge named {guest.Bridge}; it has " +
                    $"{(bridges.Length > 0 ? string.Join(", ", bridges) : "none")}.",
                    $"Create it with 'ip link add {guest.Bridge} type bridge'; the guest needs it on every host.");
            }
            if (MacAddress.TryParse(guest.Mac, out byte[] mac)
                && links.FirstOrDefault(link => link.Mac.AsSpan().SequenceEqual(mac)) is { } taken)
            {
                refuse("mac-in-use", $"MAC address {guest.Mac} is that of this host's {taken.Name}.",
                    "A guest needs one of its own.");
            }
            foreach (string address in guest.Addresses)
            {
                if (IPAddress.TryParse(address.Split('/')[0], out IPAddress? ip) && addresses.Contains(ip))
                {
                    refuse("guest-address-in-use", $"Address {ip} is this host's own.",
                        "A guest needs one of its own.");
                }
            }
        }
    }

    [GeneratedRegex(@"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\z")]
    private static partial Regex NamePattern();

    [GeneratedRegex(@"^pc-(i440fx|q35)-\d+\.\d+(\.\d+)?\z")]
    private static partial Regex MachinePattern();

    [GeneratedRegex(@"^[A-Za-z0-9._-]+(,[+-][A-Za-z0-9._-]+|,[a-z0-9._-]+=(on|off))*\z")]
    private static partial Regex CpuPattern();
}
