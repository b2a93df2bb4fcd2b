using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Godwit.Migration;

namespace Godwit.Host.Qemu;

/// <summary>Whether guests can come to this host before their memory does.</summary>
public static partial class PostcopySupport
{
    private const string HugeShared = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    private const int UserFaultDescriptor = 323;
    private const int CloseOnExec = 0x80000;
    private const uint HandShake = 0xC018AA3F;
    private const ulong Version = 0xAA;
    private const ulong MissingInSharedMemory = 1 << 5;

    /// <summary>The QEMUs that can hold a switchover, and name every page that an emulated processor writes.</summary>
    private static readonly Version QemuMin = new(8, 1);

    /// <summary>Why a guest cannot leave by postcopy; null if it can.</summary>
    public static ContractRefusal? CheckSource(MachineContract contract, Version qemu) =>
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

        return TryHandShake(out string reason) ? null : new("postcopy-userfaultfd",
            $"QEMU on host '{host}' could not wait for single pages of a guest's memory: {reason}.",
            $"On host '{host}': sysctl vm.unprivileged_userfaultfd=1, or let the daemon's user open /dev/userfaultfd.");
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

    private static bool TryHandShake(out string reason)
    {
        nint descriptor = SystemCall(UserFaultDescriptor, CloseOnExec);
        if (descriptor < 0)
        {
            reason = $"userfaultfd: {Marshal.GetLastPInvokeErrorMessage()}";
            return false;
        }

        try
        {
            // u64 version, u64 features, u64 commands.
            byte[] terms = new byte[24];
            BinaryPrimitives.WriteUInt64LittleEndian(terms, Version);
            if (Control((int)descriptor, HandShake, terms) != 0)
            {
                reason = $"userfaultfd: {Marshal.GetLastPInvokeErrorMessage()}";
                return false;
            }

            reason = "the kernel's userfaultfd does not know shared memory";
            return (BinaryPrimitives.ReadUInt64LittleEndian(terms.AsSpan(8)) & MissingInSharedMemory) != 0;
        }
        finally
        {
            _ = Close((int)descriptor);
        }
    }

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    private static partial nint SystemCall(nint number, nint argument);

    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    private static partial int Control(int descriptor, nuint request, byte[] terms);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int Close(int descriptor);
}
