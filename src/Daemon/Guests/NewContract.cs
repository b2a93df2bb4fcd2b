using System.Globalization;
using System.Security.Cryptography;
using Godwit.Api.V1;
using Godwit.Host.Qemu;

namespace Godwit.Daemon.Guests;

/// <summary>Fills in what the user left out of a new guest's contract.</summary>
/// <remarks>
/// Everything that QEMU would otherwise derive from this host is fixed here, once: another host could derive it
/// differently, and then the guest could not move. What is not possible is refused afterwards by
/// <see cref="MachineContractRules"/>.
/// </remarks>
internal static class NewContract
{
    private const ulong MemoryDefault = 512 << 20;

    /// <summary>
    /// x86-64-v2 by its oldest versioned name: every x86 host of the last fifteen years has it, TCG emulates all of it,
    /// and its meaning never changes. <c>host</c>, <c>max</c> and unversioned models mean something else on each host.
    /// </summary>
    private const string CpuModelDefault = "Nehalem-v1";

    public static MachineContract Complete(GuestSpec given, QemuFacts qemu)
    {
        var spec = given.Clone();
        spec.Uuid = spec.Uuid.Length == 0 ? Guid.NewGuid().ToString() : spec.Uuid;
        spec.MemoryBytes = spec.MemoryBytes == 0 ? MemoryDefault : spec.MemoryBytes;
        spec.Cpus = spec.Cpus == 0 ? 1 : spec.Cpus;
        spec.Machine = spec.Machine.Length == 0 ? qemu.DefaultMachine : spec.Machine;
        spec.CpuModel = spec.CpuModel.Length == 0 ? CpuModelDefault : spec.CpuModel;
        spec.Accelerator = spec.Accelerator.Length == 0 ? qemu.Accelerator : spec.Accelerator;
        foreach (var disk in spec.Disks.Where(disk => disk.Format.Length == 0))
        {
            disk.Format = disk.Path.EndsWith(".qcow2", StringComparison.Ordinal) ? "qcow2" : "raw";
        }

        foreach (var card in spec.Interfaces.Where(card => card.Mac.Length == 0))
        {
            card.Mac = RandomMac();
        }

        return ContractMapping.ToContract(spec);
    }

    /// <summary>52:54:00 is what QEMU's users know; its locally administered bit is set: no vendor owns it.</summary>
    private static string RandomMac()
    {
        var tail = RandomNumberGenerator.GetBytes(3);
        return string.Create(CultureInfo.InvariantCulture, $"52:54:00:{tail[0]:x2}:{tail[1]:x2}:{tail[2]:x2}");
    }
}
