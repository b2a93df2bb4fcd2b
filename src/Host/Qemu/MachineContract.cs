namespace Godwit.Host.Qemu;

/// <summary>The guest as its QEMU is started, frozen at creation and carried with it from host to host.</summary>
/// <remarks>
/// Nothing in it is derived from the host again later: both ends of a move start QEMU from the same contract.
/// </remarks>
public sealed record MachineContract
{
    public required string Name { get; init; }
    public required Guid Uuid { get; init; }
    /// <summary>Multiple of 2 MiB.</summary>
    public required long MemoryBytes { get; init; }
    public required int Cpus { get; init; }
    /// <summary>Versioned machine type, for example <c>pc-q35-10.0</c>; never an alias.</summary>
    public required string Machine { get; init; }
    public required string CpuModel { get; init; }
    /// <summary><c>kvm</c> or <c>tcg</c>.</summary>
    public required string Accelerator { get; init; }
    public IReadOnlyList<DiskContract> Disks { get; init; } = [];
    public string? KernelPath { get; init; }
    public string? InitramfsPath { get; init; }
    public string? KernelCommandLine { get; init; }
    public IReadOnlyList<InterfaceContract> Interfaces { get; init; } = [];
    public bool Video { get; init; }
    /// <summary>
    /// True: RAM is a shared memory file that the daemon maps. False: contents are carried by QEMU's stream.
    /// </summary>
    public bool SharedMemory { get; init; } = true;
}

/// <param name="Path">On storage that every host of the guest's reaches under this path.</param>
/// <param name="Format"><c>raw</c> or <c>qcow2</c>.</param>
public sealed record DiskContract(string Path, string Format, bool ReadOnly);

/// <param name="Bridge">Empty for one that is connected to nothing, as a fork's is.</param>
/// <param name="Mac">Kept for life; locally administered unless the user gave another.</param>
/// <param name="Addresses">The guest's IPv4 and IPv6 addresses, announced after a move.</param>
public sealed record InterfaceContract(string Bridge, string Mac, IReadOnlyList<string> Addresses);
