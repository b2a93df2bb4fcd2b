using System.Globalization;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Qemu;

/// <summary>Files that another process has open, fetched without a word of it (pidfd_getfd(2)).</summary>
/// <remarks>Not reopened by their names in /proc: a socket and a userfaultfd have none that opens.</remarks>
internal static partial class ForeignFile
{
    private const int OpenProcess = 434;
    private const int GetDescriptor = 438;

    /// <summary>A process's open files: their numbers, and what the kernel calls them.</summary>
    /// <exception cref="IOException">The process has ended.</exception>
    /// <exception cref="UnauthorizedAccessException">It may not be looked into.</exception>
    internal static IEnumerable<(int Descriptor, string Name)> List(int processId)
    {
        foreach (string entry in Directory.EnumerateFileSystemEntries($"/proc/{processId}/fd"))
        {
            string? name;
            try
            {
                name = File.ResolveLinkTarget(entry, returnFinalTarget: false)?.Name;
            }
            catch (IOException)
            {
                // Closed since the listing.
                continue;
            }

            yield return (int.Parse(Path.GetFileName(entry), CultureInfo.InvariantCulture), name ?? "");
        }
    }

    /// <summary>A descriptor of our own for what the process has open under a number.</summary>
    /// <returns>A negated error number if the kernel refuses; the caller closes what is not negative.</returns>
    internal static nint TryFetch(int processId, int descriptor)
    {
        nint process = SystemCall(OpenProcess, processId, 0, 0);
        if (process < 0)
        {
            return -Marshal.GetLastPInvokeError();
        }

        nint copy = SystemCall(GetDescriptor, process, descriptor, 0);
        int error = Marshal.GetLastPInvokeError();
        _ = Close((int)process);
        return copy < 0 ? -error : copy;
    }

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    private static partial nint SystemCall(nint number, nint first, nint second, nint third);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int Close(int descriptor);
}
