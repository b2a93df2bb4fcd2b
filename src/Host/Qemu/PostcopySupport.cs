namespace Godwit.Host.Qemu;

/// <summary>Whether guests can come to this host before their memory does.</summary>
public static partial class PostcopySupport
{
    private const string HugeShared = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

    /// <summary>The QEMUs that can hold a switchover, and name every page that an emulated processor writes.</summary>
    private static readonly Version QemuMin = new(8, 1);

    /// <summary>Why a guest cannot leave by postcopy; null if it can.</summary>
    /// <param name="status">/proc/PID/status of its QEMU.</param>
    public static ContractRefusal? CheckSource(MachineContract contract, Version qemu, string status = "") =>
        LockedKibibytes(status) is > 0 and var locked ? new("postcopy-locked-memory",
            $"{locked} KiB of the QEMU of {contract.Name} are locked in memory, as for a device that reaches into it: "
            + "such memory has to be there before the guest runs.",
            "Move the guest by precopy, or give the device back first.") :
        !contract.SharedMemory ? new("postcopy-memory",
            $"The memory of {contract.Name} is private to its QEMU: nobody else can send it when the guest has left.",
            "Create the guest with shared memory, or move it by precopy.")
        : contract.Video ? new("postcopy-memory",
            $"{contract.Name} has video memory, which is private to its QEMU and cannot be sent after the guest.",
            "Move it by precopy, or leave the video adapter out.")
        : qemu < QemuMin || QemuInstallation.MissesWrites(qemu, contract.Accelerator) ? new("postcopy-qemu",
            $"QEMU {qemu} under {contract.Accelerator} cannot be made to turn to postcopy when it is told to, or does "
            + "not name all pages that were written.",
            $"Move the guest by precopy; QEMU {QemuMin} is the first that can, 9.0 under tcg.")
        : null;

    /// <summary>Why no guest can come to this host by postcopy; null if one can.</summary>
    public static ContractRefusal? CheckDestination(string host, Version qemu)
    {
        if (qemu < QemuMin)
        {
            return new("postcopy-qemu", $"QEMU {qemu} on host '{host}' is older than {QemuMin}.",
                "Move the guest by precopy, or install a newer QEMU there.");
        }

        // QEMU advises the kernel to use them for all memory of every guest.
        if (ReadChoice(HugeShared) is "always" or "within_size" or "advise" or "force")
        {
            return new("postcopy-huge-pages",
                $"Host '{host}' gives shared memory huge pages: a page that has not come would appear with its "
                + "neighbour, as zeros.",
                $"On host '{host}': echo never > {HugeShared}. Guests that run keep what they have.");
        }

        return CheckUserFault(host) ?? CheckTakingUp(host);
    }

    // The choice in force stands in brackets.
    private static string ReadChoice(string path)
    {
        try
        {
            string text = File.ReadAllText(path);
            int open = text.IndexOf('[', StringComparison.Ordinal);
            return open < 0 ? "" : text[(open + 1)..text.IndexOf(']', StringComparison.Ordinal)];
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return "";
        }
    }
}
