using System.Buffers.Binary;
using System.Globalization;
using System.Runtime.InteropServices;

namespace Godwit.Host.Qemu;

// What the kernel has to allow: waiting for single pages, and taking up the stream of a QEMU whose daemon died.
public static partial class PostcopySupport
{
    private const string UserFaultDevice = "/dev/userfaultfd";
    private const string TraceScope = "/proc/sys/kernel/yama/ptrace_scope";
    private const string OwnStatus = "/proc/self/status";
    private const int UserFaultDescriptor = 323;
    private const int CloseOnExec = 0x80000;
    private const int ReadWrite = 2;
    private const nuint NewUserFault = 0xAA00;
    private const nuint HandShake = 0xC018AA3F;
    private const ulong Version = 0xAA;
    private const ulong MissingInSharedMemory = 1 << 5;
    private const int NotPermitted = 1;
    private const int NoSuchCall = 38;
    private const int TraceCapability = 19;

    /// <summary>Tries what QEMU tries; null if it works.</summary>
    private static ContractRefusal? CheckUserFault(string host)
    {
        nint descriptor = SystemCall(UserFaultDescriptor, CloseOnExec, 0, 0);
        if (descriptor < 0)
        {
            int error = Marshal.GetLastPInvokeError();
            descriptor = OpenUserFaultDevice();
            if (descriptor < 0)
            {
                return UserFaultRefused(host, error, IsFiltered(File.ReadAllText(OwnStatus)));
            }
        }

        try
        {
            // u64 version, u64 features, u64 commands.
            byte[] terms = new byte[24];
            BinaryPrimitives.WriteUInt64LittleEndian(terms, Version);
            if (Control((int)descriptor, HandShake, terms) != 0)
            {
                return UserFaultRefused(host, Marshal.GetLastPInvokeError(), isFiltered: false);
            }

            return (BinaryPrimitives.ReadUInt64LittleEndian(terms.AsSpan(8)) & MissingInSharedMemory) != 0 ? null
                : new("postcopy-userfaultfd",
                    $"The kernel of host '{host}' cannot wait for single pages of shared memory.",
                    "Move the guest by precopy, or run Linux 4.11 or later there.");
        }
        finally
        {
            _ = Close((int)descriptor);
        }
    }

    private static nint OpenUserFaultDevice()
    {
        int device = Open(UserFaultDevice, ReadWrite | CloseOnExec);
        if (device < 0)
        {
            return -1;
        }

        nint descriptor = ControlByValue(device, NewUserFault, CloseOnExec);
        _ = Close(device);
        return descriptor;
    }

    /// <summary>What a kernel that refuses means, and how to allow it.</summary>
    internal static ContractRefusal UserFaultRefused(string host, int error, bool isFiltered)
    {
        string told = $"userfaultfd: {Marshal.GetPInvokeErrorMessage(error)}";
        string remedy = (error, isFiltered) switch
        {
            (NotPermitted or NoSuchCall, true) =>
                $"A seccomp filter holds for godwitd on host '{host}' and stands in the way: let it pass userfaultfd, "
                + "with systemd by SystemCallFilter=userfaultfd.",
            (NotPermitted, false) => $"On host '{host}': sysctl vm.unprivileged_userfaultfd=1, or let the daemon's "
                + $"user open {UserFaultDevice}, or give it CAP_SYS_PTRACE.",
            (NoSuchCall, false) => $"The kernel of host '{host}' was built without CONFIG_USERFAULTFD: run another, or "
                + "move the guest by precopy.",
            _ => "Move the guest by precopy.",
        };
        return new("postcopy-userfaultfd",
            $"QEMU on host '{host}' could not wait for single pages of a guest's memory: {told}.", remedy);
    }

    /// <summary>
    /// Whether a daemon that is started anew could take the stream out of a QEMU that is not its child; null if so.
    /// </summary>
    private static ContractRefusal? CheckTakingUp(string host)
    {
        string status = File.ReadAllText(OwnStatus);
        return TakingUpRefused(
            host, File.Exists(TraceScope) ? File.ReadAllText(TraceScope) : "0", MayTrace(status), TryFetchOwn(),
            IsFiltered(status));
    }

    /// <param name="scope">As Yama writes it.</param>
    /// <param name="mayTrace">The daemon has CAP_SYS_PTRACE.</param>
    /// <param name="fetchError">Of pidfd_getfd on a process of its own; 0 if it works.</param>
    internal static ContractRefusal? TakingUpRefused(
        string host, string scope, bool mayTrace, int fetchError, bool isFiltered)
    {
        const string why = "if it died in postcopy, the one after it could not take up the guest's stream";
        if (fetchError != 0)
        {
            return new("postcopy-recovery",
                $"The daemon of host '{host}' cannot fetch a file of another process (pidfd_getfd: "
                + $"{Marshal.GetPInvokeErrorMessage(fetchError)}): {why}.",
                isFiltered
                    ? $"Let the seccomp filter of godwitd on host '{host}' pass pidfd_open and pidfd_getfd, with "
                        + "systemd by SystemCallFilter=pidfd_open pidfd_getfd."
                    : $"Run Linux 5.6 or later on host '{host}', or move the guest by precopy.");
        }

        int level = int.TryParse(scope.Trim(), CultureInfo.InvariantCulture, out int number) ? number : 0;
        return level >= 3 || (level > 0 && !mayTrace)
            ? new("postcopy-recovery",
                $"Host '{host}' lets no process look into another one (kernel.yama.ptrace_scope is {level}"
                + $"{(level < 3 ? ", and the daemon has no CAP_SYS_PTRACE" : "")}): {why}.",
                level >= 3
                    ? $"Start host '{host}' with kernel.yama.ptrace_scope at most 2: 3 cannot be taken back while it "
                        + "runs."
                    : $"On host '{host}': sysctl kernel.yama.ptrace_scope=0, or give the daemon CAP_SYS_PTRACE.")
            : null;
    }

    private static int TryFetchOwn()
    {
        using var file = File.OpenHandle(OwnStatus);
        nint copy = ForeignFile.TryFetch(Environment.ProcessId, (int)file.DangerousGetHandle());
        if (copy < 0)
        {
            return (int)-copy;
        }

        _ = Close((int)copy);
        return 0;
    }

    /// <summary>Whether a process's status names CAP_SYS_PTRACE among what it may do.</summary>
    internal static bool MayTrace(string status) =>
        ulong.TryParse(
            FieldOf(status, "CapEff:"), NumberStyles.HexNumber, CultureInfo.InvariantCulture, out ulong effective)
        && (effective >> TraceCapability & 1) != 0;

    /// <summary>Whether a seccomp filter holds for the process.</summary>
    internal static bool IsFiltered(string status) => FieldOf(status, "Seccomp:") == "2";

    /// <summary>Kibibytes of a process's memory that must not leave the machine's.</summary>
    internal static long LockedKibibytes(string status) =>
        long.TryParse(
            FieldOf(status, "VmLck:").Split(' ')[0], CultureInfo.InvariantCulture, out long locked) ? locked : 0;

    private static string FieldOf(string status, string name) =>
        status.Split('\n').FirstOrDefault(line => line.StartsWith(name, StringComparison.Ordinal)) is { } line
            ? line[name.Length..].Trim() : "";

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    private static partial nint SystemCall(nint number, nint first, nint second, nint third);

    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    private static partial int Control(int descriptor, nuint request, byte[] terms);

    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    private static partial int ControlByValue(int descriptor, nuint request, nint value);

    [LibraryImport("libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Open(string path, int flags);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int Close(int descriptor);
}
