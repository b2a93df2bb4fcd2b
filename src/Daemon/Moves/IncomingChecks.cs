using Godwit.Api.V1;
using Godwit.Daemon.Guests;
using Godwit.Host.Qemu;
using Godwit.Host.Registry;
using Godwit.Host.Transfers;

namespace Godwit.Daemon.Moves;

/// <summary>Whether a guest could run on this host: every reason why not, at once, before anything is touched.</summary>
internal sealed class IncomingChecks(DaemonSettings settings, GuestKeeper guests, Machines machines, QemuFacts qemu)
{
    private const long RuntimeBytesMin = 16 << 20;

    /// <param name="reservedBytes">Memory promised to guests that are arriving and have not filled it yet.</param>
    public List<Refusal> Check(CheckIncomingRequest request, string from, long reservedBytes)
    {
        var contract = ContractMapping.ToContract(request.Spec);
        var refusals = new List<Refusal>();
        void Refuse(string code, string message, string remedy) =>
            refusals.Add(new Refusal { Code = code, Message = message, Remedy = remedy });

        CheckVersions(request, Refuse);
        CheckQemu(contract, Refuse);
        CheckMemory(contract, reservedBytes, Refuse);
        CheckFiles(contract, request, Refuse);
        CheckIdentity(contract, from, Refuse);
        var bridges = HostFacts.Bridges();
        foreach (var bridge in contract.Interfaces.Select(card => card.Bridge).Distinct().Except(bridges))
        {
            Refuse("bridge-missing",
                $"Host '{settings.HostName}' has no bridge '{bridge}'; it has {NewContract.Names(bridges)}.",
                $"Make it there: ip link add {bridge} type bridge && ip link set {bridge} up.");
        }

        var free = new DriveInfo(settings.RuntimeDirectory).AvailableFreeSpace;
        if (free < RuntimeBytesMin)
        {
            Refuse("disk-full",
                $"{settings.RuntimeDirectory} on host '{settings.HostName}' has {free >> 20} MiB free; "
                + $"{RuntimeBytesMin >> 20} MiB are needed.", "Free some space there.");
        }

        return refusals;
    }

    private void CheckVersions(CheckIncomingRequest request, Action<string, string, string> refuse)
    {
        if (request.WireVersionMin > WireVersions.Max || request.WireVersionMax < WireVersions.Min)
        {
            refuse("wire-version",
                $"Host '{settings.HostName}' speaks wire protocol {WireVersions.Min} to {WireVersions.Max}, the source "
                + $"{request.WireVersionMin} to {request.WireVersionMax}.",
                "Bring both hosts to neighbouring versions of godwitd.");
        }
    }

    private void CheckQemu(MachineContract contract, Action<string, string, string> refuse)
    {
        if (qemu.Missing.Length > 0)
        {
            refuse("qemu-missing", $"No guest can start on host '{settings.HostName}': {qemu.Missing}.",
                "Install QEMU there: apt install qemu-system-x86.");
            return;
        }

        if (!qemu.HasMachine(contract.Machine))
        {
            refuse("machine-unknown",
                $"QEMU {qemu.VersionText} on host '{settings.HostName}' has no machine type {contract.Machine}.",
                "Install a QEMU there that has it: the guest's version or a newer one.");
        }

        if (!qemu.HasCpuModel(contract.CpuModel))
        {
            refuse("cpu-unknown",
                $"QEMU {qemu.VersionText} on host '{settings.HostName}' cannot give a guest the CPU {contract.CpuModel}.",
                "Move the guest to a host whose CPU has it, or create it with an older --cpu model.");
        }

        if (!qemu.HasAccelerator(contract.Accelerator))
        {
            refuse("accelerator-missing",
                $"Guest '{contract.Name}' runs under {contract.Accelerator}; host '{settings.HostName}' has "
                + $"{qemu.Accelerator} only.",
                "Make KVM work there: 'godwit doctor' on that host says what is wrong.");
        }
    }

    private void CheckMemory(MachineContract contract, long reservedBytes, Action<string, string, string> refuse)
    {
        var reserve = (long)settings.MemoryReserveMebibytes << 20;
        var free = HostFacts.Memory().AvailableBytes - reserve - reservedBytes;
        if (contract.MemoryBytes > free)
        {
            refuse("memory-short",
                $"Guest '{contract.Name}' has {contract.MemoryBytes >> 20} MiB of memory; host '{settings.HostName}' has "
                + $"{Math.Max(free, 0) >> 20} MiB to give, {settings.MemoryReserveMebibytes} MiB being kept for itself.",
                "Free memory there, or choose another host: 'godwit host list' shows who has how much.");
        }
    }

    private void CheckFiles(
        MachineContract contract, CheckIncomingRequest request, Action<string, string, string> refuse)
    {
        for (var index = 0; index < contract.Disks.Count; index++)
        {
            var disk = contract.Disks[index];
            var file = new FileInfo(disk.Path);
            if (!file.Exists)
            {
                refuse("disk-missing", $"The disk {disk.Path} does not exist on host '{settings.HostName}'.",
                    "Mount the shared storage there under the same path.");
            }
            else if (disk.Format == "raw" && index < request.DiskBytes.Count
                && (ulong)file.Length != request.DiskBytes[index])
            {
                // A qcow2 file grows while the guest runs, a raw one does not.
                refuse("disk-different",
                    $"The disk {disk.Path} has {file.Length} bytes on host '{settings.HostName}' and "
                    + $"{request.DiskBytes[index]} on the source: it is not the same file.",
                    "Mount the shared storage there under the same path.");
            }
        }

        foreach (var path in new[] { contract.KernelPath, contract.InitramfsPath }.OfType<string>())
        {
            if (!File.Exists(path))
            {
                refuse("file-missing", $"{path} does not exist on host '{settings.HostName}'; QEMU opens it at start.",
                    "Put the guest's kernel and initramfs there under the same path.");
            }
        }

        try
        {
            machines.Check(contract);
        }
        catch (Migration.GodwitException exception)
        {
            refuse(exception.Code, exception.Message, exception.Remedy);
        }
    }

    private void CheckIdentity(MachineContract contract, string from, Action<string, string, string> refuse)
    {
        if (guests.Find(contract.Uuid) is { } known
            && (known.Record.Host == settings.HostName || known.Record.Intent == GuestIntent.Incoming))
        {
            refuse("guest-exists",
                $"Guest '{contract.Name}' is {(known.Record.Intent == GuestIntent.Incoming ? "arriving on" : "owned by")} "
                + $"host '{settings.HostName}' already; host '{from}' cannot send it.",
                "Look at 'godwit vm show' on both hosts; only one of them may own the guest.");
        }

        foreach (var (code, message, remedy) in guests.Clashes(contract))
        {
            refuse(code, $"On host '{settings.HostName}': {message}", remedy);
        }
    }
}
