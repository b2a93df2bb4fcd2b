using Godwit.Api.V1;
using Godwit.Host.Qemu;
using Godwit.Migration;

namespace Godwit.Daemon.Guests;

/// <summary>The guest's contract as the API says it and as the host uses it.</summary>
internal static class ContractMapping
{
    public static GuestSpec ToSpec(MachineContract contract)
    {
        var spec = new GuestSpec
        {
            Name = contract.Name,
            Uuid = contract.Uuid.ToString(),
            MemoryBytes = (ulong)contract.MemoryBytes,
            Cpus = (uint)contract.Cpus,
            Machine = contract.Machine,
            CpuModel = contract.CpuModel,
            Accelerator = contract.Accelerator,
            KernelPath = contract.KernelPath ?? "",
            InitramfsPath = contract.InitramfsPath ?? "",
            KernelCommandLine = contract.KernelCommandLine ?? "",
            Video = contract.Video,
            MemoryBacking = contract.SharedMemory ? MemoryBacking.Shared : MemoryBacking.Private,
        };
        spec.Disks.AddRange(contract.Disks.Select(disk => new Disk
        {
            Path = disk.Path,
            Format = disk.Format,
            ReadOnly = disk.ReadOnly,
        }));
        spec.Interfaces.AddRange(contract.Interfaces.Select(card =>
        {
            var item = new NetworkInterface { Bridge = card.Bridge, Mac = card.Mac };
            item.Addresses.AddRange(card.Addresses);
            return item;
        }));
        return spec;
    }

    /// <summary>Takes a complete contract, as a peer sends it.</summary>
    /// <exception cref="GodwitException"><c>contract-invalid</c>.</exception>
    public static MachineContract ToContract(GuestSpec spec)
    {
        if (!Guid.TryParse(spec.Uuid, out var uuid) || spec.MemoryBytes > long.MaxValue || spec.Cpus > int.MaxValue)
        {
            throw new GodwitException("contract-invalid",
                $"The contract of guest '{spec.Name}' has no valid UUID ('{spec.Uuid}') or absurd sizes.",
                "Compare the versions of both daemons with 'godwit host list'.");
        }

        return new MachineContract
        {
            Name = spec.Name,
            Uuid = uuid,
            MemoryBytes = (long)spec.MemoryBytes,
            Cpus = (int)spec.Cpus,
            Machine = spec.Machine,
            CpuModel = spec.CpuModel,
            Accelerator = spec.Accelerator,
            Disks = [.. spec.Disks.Select(disk => new DiskContract(disk.Path, disk.Format, disk.ReadOnly))],
            KernelPath = NullIfEmpty(spec.KernelPath),
            InitramfsPath = NullIfEmpty(spec.InitramfsPath),
            KernelCommandLine = NullIfEmpty(spec.KernelCommandLine),
            Interfaces =
            [
                .. spec.Interfaces.Select(
                    card => new InterfaceContract(card.Bridge, card.Mac.ToLowerInvariant(), [.. card.Addresses])),
            ],
            Video = spec.Video,
            SharedMemory = spec.MemoryBacking == MemoryBacking.Shared,
        };
    }

    private static string? NullIfEmpty(string text) => text.Length > 0 ? text : null;
}
