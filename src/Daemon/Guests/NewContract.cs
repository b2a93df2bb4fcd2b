using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text.RegularExpressions;
using Godwit.Api.V1;
using Godwit.Host.Qemu;
using Godwit.Migration;

namespace Godwit.Daemon.Guests;

/// <summary>Makes a new guest's contract from what the user gave: fills in the rest, and refuses what cannot be.</summary>
/// <remarks>
/// Everything that QEMU would otherwise derive from this host is fixed here, once: another host could derive it
/// differently, and then the guest could not move.
/// </remarks>
internal static partial class NewContract
{
    private const ulong Mebibyte = 1 << 20;
    private const ulong MemoryDefault = 512 * Mebibyte;
    private const ulong MemoryStep = 2 * Mebibyte;
    private const ulong MemoryMin = 32 * Mebibyte;
    private const uint CpusMax = 255;

    /// <summary>
    /// x86-64-v2 by its oldest versioned name: every x86 host of the last fifteen years has it, TCG emulates all of it,
    /// and its meaning never changes. <c>host</c>, <c>max</c> and unversioned models mean something else on each host.
    /// </summary>
    private const string CpuModelDefault = "Nehalem-v1";

    /// <exception cref="GodwitException"><c>contract-invalid</c>, <c>file-missing</c> or <c>bridge-missing</c>.</exception>
    public static MachineContract Complete(GuestSpec given, QemuFacts qemu)
    {
        var spec = given.Clone();
        if (!NamePattern().IsMatch(spec.Name))
        {
            throw Invalid($"The name '{spec.Name}' is not usable",
                "A name has 1 to 63 letters, digits, dots, hyphens and underscores and begins with a letter or digit.");
        }

        spec.Uuid = spec.Uuid.Length == 0 ? Guid.NewGuid().ToString() : spec.Uuid;
        spec.MemoryBytes = spec.MemoryBytes == 0 ? MemoryDefault : spec.MemoryBytes;
        spec.Cpus = spec.Cpus == 0 ? 1 : spec.Cpus;
        spec.Machine = spec.Machine.Length == 0 ? qemu.DefaultMachine : spec.Machine;
        spec.CpuModel = spec.CpuModel.Length == 0 ? CpuModelDefault : spec.CpuModel;
        spec.Accelerator = spec.Accelerator.Length == 0 ? qemu.Accelerator : spec.Accelerator;
        if (spec.MemoryBytes < MemoryMin || spec.MemoryBytes % MemoryStep != 0)
        {
            throw Invalid($"{spec.MemoryBytes} bytes of memory are not possible",
                "Give at least 32MiB, in multiples of 2MiB.");
        }

        if (spec.Cpus > CpusMax)
        {
            throw Invalid($"{spec.Cpus} CPUs are not possible", $"Give 1 to {CpusMax}.");
        }

        foreach (var disk in spec.Disks)
        {
            disk.Format = disk.Format.Length > 0 ? disk.Format
                : disk.Path.EndsWith(".qcow2", StringComparison.Ordinal) ? "qcow2" : "raw";
            if (disk.Format is not ("raw" or "qcow2"))
            {
                throw Invalid($"The disk {disk.Path} has the format '{disk.Format}'", "Formats are raw and qcow2.");
            }

            RequireFile("disk", disk.Path);
        }

        if (spec.KernelPath.Length == 0 && (spec.InitramfsPath.Length > 0 || spec.KernelCommandLine.Length > 0))
        {
            throw Invalid("An initramfs or a kernel command line is given without a kernel", "Give --kernel too.");
        }

        RequireFile("kernel", spec.KernelPath);
        RequireFile("initramfs", spec.InitramfsPath);
        foreach (var card in spec.Interfaces)
        {
            CompleteInterface(card);
        }

        return ContractMapping.ToContract(spec);
    }

    private static void CompleteInterface(NetworkInterface card)
    {
        var bridges = HostFacts.Bridges();
        if (!bridges.Contains(card.Bridge))
        {
            throw new GodwitException("bridge-missing",
                $"There is no bridge '{card.Bridge}' on this host; it has {Names(bridges)}.",
                $"Make it with 'ip link add {card.Bridge} type bridge', or name another.");
        }

        card.Mac = card.Mac.Length == 0 ? RandomMac() : card.Mac.ToLowerInvariant();
        // A multicast address cannot be a station's own.
        if (!MacPattern().IsMatch(card.Mac) || (Convert.ToByte(card.Mac[..2], 16) & 1) != 0)
        {
            throw Invalid($"'{card.Mac}' is not a MAC address of a station", "Write it like 52:54:00:12:34:56.");
        }

        foreach (var address in card.Addresses)
        {
            if (!IPAddress.TryParse(address, out var parsed)
                || (parsed.AddressFamily == AddressFamily.InterNetwork && address.Count(c => c == '.') != 3))
            {
                throw Invalid($"'{address}' is not an IP address",
                    "Write it like 10.0.0.5 or 2001:db8::5, without a prefix length.");
            }
        }
    }

    /// <summary>52:54:00 is what QEMU's users know; its locally administered bit is set, so no vendor owns it.</summary>
    private static string RandomMac()
    {
        var tail = RandomNumberGenerator.GetBytes(3);
        return string.Create(CultureInfo.InvariantCulture, $"52:54:00:{tail[0]:x2}:{tail[1]:x2}:{tail[2]:x2}");
    }

    private static void RequireFile(string what, string path)
    {
        if (path.Length == 0)
        {
            return;
        }

        if (!Path.IsPathRooted(path))
        {
            throw Invalid($"The {what} '{path}' is not an absolute path",
                "Give the path under which every host of the guest's reaches it.");
        }

        if (!File.Exists(path))
        {
            throw new GodwitException("file-missing", $"The {what} {path} does not exist on this host.",
                "Check the path and that the shared storage is mounted.");
        }
    }

    internal static string Names(IReadOnlyList<string> names) => names.Count > 0 ? string.Join(", ", names) : "none";

    private static GodwitException Invalid(string message, string remedy) => new("contract-invalid", message + ".", remedy);

    [GeneratedRegex("^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    private static partial Regex NamePattern();

    [GeneratedRegex("^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")]
    private static partial Regex MacPattern();
}
