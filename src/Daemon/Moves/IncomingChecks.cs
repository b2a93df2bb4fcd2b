using Godwit.Api.V1;
using Godwit.Daemon.Guests;
using Godwit.Host.Qemu;
using Godwit.Host.Registry;
using Godwit.Migration.HandOver;
using Godwit.Host.Transfers;

namespace Godwit.Daemon.Moves;

/// <summary>
/// Whether a guest could run on this host: every reason why not, at once, before anything is touched.
/// </summary>
internal sealed class IncomingChecks(DaemonSettings settings, GuestKeeper guests, QemuFacts qemu)
{
    /// <param name="reservedBytes">Memory promised to guests that are arriving and have not filled it yet.</param>
    public async Task<List<Refusal>> CheckAsync(
        CheckIncomingRequest request, string from, long reservedBytes, CancellationToken cancellationToken)
    {
        var contract = ContractMapping.ToContract(request.Spec);
        var refusals = new List<Refusal>();
        void Refuse(string code, string message, string remedy) =>
            refusals.Add(new Refusal { Code = code, Message = message, Remedy = remedy });

        if (request.WireVersionMin > WireVersions.Max || request.WireVersionMax < WireVersions.Min)
        {
            Refuse("wire-version",
                $"Host '{settings.HostName}' speaks wire protocol {WireVersions.Min} to {WireVersions.Max}, the source "
                + $"{request.WireVersionMin} to {request.WireVersionMax}.",
                "Bring both hosts to neighbouring versions of godwitd.");
        }

        await CheckContractAsync(contract, request.CpuFeaturesMissing, Refuse, cancellationToken);
        refusals.AddRange(HostReadiness.Check(settings, isDestination: true));
        CheckMemory(contract, reservedBytes, Refuse);
        CheckDisks(contract, request, Refuse);
        CheckIdentity(contract, from, Refuse);
        return refusals;
    }

    /// <summary>Why no guest can come to this host before its memory does; empty if one can.</summary>
    public IEnumerable<Refusal> CheckPostcopy()
    {
        if (Version.TryParse(qemu.VersionText, out var version)
            && PostcopySupport.CheckDestination(settings.HostName, version) is { } refusal)
        {
            yield return new Refusal { Code = refusal.Code, Message = refusal.Message, Remedy = refusal.Remedy };
        }
    }

    /// <remarks>
    /// What a peer sends becomes QEMU's command line: it is held against the same rules as a guest that is created
    /// here.
    /// </remarks>
    private async Task CheckContractAsync(
        MachineContract contract, IReadOnlyCollection<string> featuresMissing, Action<string, string, string> refuse,
        CancellationToken cancellationToken)
    {
        var found = MachineContractRules.Check(contract);
        if (qemu.Missing.Length > 0)
        {
            refuse("qemu-missing", $"No guest can start on host '{settings.HostName}': {qemu.Missing}",
                "Install QEMU there: apt install qemu-system-x86.");
        }
        else
        {
            found = [.. found, .. await qemu.CheckAsync(contract, featuresMissing, cancellationToken)];
        }

        foreach (var refusal in found)
        {
            refuse(refusal.Code, $"On host '{settings.HostName}': {refusal.Message}", refusal.Remedy);
        }
    }

    private void CheckMemory(MachineContract contract, long reservedBytes, Action<string, string, string> refuse)
    {
        var reserve = (long)settings.MemoryReserveMebibytes << 20;
        var memory = HostFacts.Memory().AvailableBytes - reserve - reservedBytes;
        if (contract.MemoryBytes > memory)
        {
            refuse("memory-short",
                $"Guest '{contract.Name}' has {contract.MemoryBytes >> 20} MiB of memory; "
                + $"host '{settings.HostName}' has {Math.Max(memory, 0) >> 20} MiB to give, "
                + $"{settings.MemoryReserveMebibytes} MiB being kept for itself.",
                "Free memory there, or choose another host: 'godwit host list' shows who has how much.");
        }

    }

    private void CheckDisks(
        MachineContract contract, CheckIncomingRequest request, Action<string, string, string> refuse)
    {
        foreach (var (disk, bytes) in contract.Disks.Zip(request.DiskBytes))
        {
            var file = new FileInfo(disk.Path);
            // A qcow2 file grows while the guest runs, a raw one does not. A missing one has been refused already.
            if (file.Exists && disk.Format == "raw" && (ulong)file.Length != bytes)
            {
                refuse("disk-different",
                    $"The disk {disk.Path} has {file.Length} bytes on host '{settings.HostName}' and {bytes} on the "
                    + "source: it is not the same file.",
                    "Mount the shared storage there under the same path.");
            }
        }
    }

    private void CheckIdentity(MachineContract contract, string from, Action<string, string, string> refuse)
    {
        if (guests.Find(contract.Uuid) is { } known
            && (known.Record.Host == settings.HostName || known.IsArriving))
        {
            refuse("guest-exists",
                $"Guest '{contract.Name}' is "
                + $"{(known.Record.Intent == GuestIntent.Incoming ? "arriving on" : "owned by")} "
                + $"host '{settings.HostName}' already; host '{from}' cannot send it.",
                "Look at 'godwit vm show' on both hosts; only one of them may own the guest.");
        }

        foreach (var (code, message, remedy) in guests.Clashes(contract))
        {
            refuse(code, $"On host '{settings.HostName}': {message}", remedy);
        }
    }
}
