using System.Globalization;
using System.Runtime.InteropServices;
using Godwit.Host.Qemu;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Transfers;

/// <summary>What waits inside a QEMU in postcopy for pages that are missing.</summary>
internal static unsafe partial class GuestFaults
{
    // userfaultfd(2): struct uffdio_range is a start and a length in bytes, both 64 bits.
    private const nuint Wake = 0x8010AA02;
    private const int BadDescriptor = 9;

    /// <summary>
    /// Lets everything that waits for a page touch it again, so that QEMU asks for that page once more.
    /// </summary>
    /// <remarks>
    /// QEMU asks once. A daemon that dies takes the requests with it that it had read and not answered, and a processor
    /// of the guest would wait until its page comes in its turn, which may be last. Woken, it finds the page there or
    /// is caught again, and QEMU's thread for faults hears of it anew.
    /// </remarks>
    /// <exception cref="IOException">The process has ended, or the kernel refuses.</exception>
    internal static void WakeAll(int processId)
    {
        (ulong Start, ulong Length) range = AddressesOf(processId);
        foreach ((int descriptor, string name) in ForeignFile.List(processId))
        {
            if (name != "anon_inode:[userfaultfd]")
            {
                continue;
            }

            nint copy = ForeignFile.TryFetch(processId, descriptor);
            if (copy == -BadDescriptor)
            {
                // Closed since the listing: it has all of its memory, and nothing waits.
                continue;
            }

            if (copy < 0)
            {
                throw new IOException(
                    $"The userfaultfd of process {processId} cannot be fetched: "
                    + $"{Marshal.GetPInvokeErrorMessage((int)-copy)}.");
            }

            using var file = new SafeFileHandle(copy, ownsHandle: true);
            // The kernel reads the range, two words that live on this stack, and writes nothing.
            if (Control(file, Wake, &range) != 0)
            {
                throw new IOException(
                    $"What waits in process {processId} cannot be woken: {Marshal.GetLastPInvokeErrorMessage()}.");
            }
        }
    }

    // From its first mapping to the end of its last: the kernel looks among those that wait, not at every page.
    private static (ulong Start, ulong Length) AddressesOf(int processId)
    {
        ulong start = 0;
        ulong end = 0;
        foreach (string line in File.ReadLines($"/proc/{processId}/maps"))
        {
            string[] bounds = line[..line.IndexOf(' ', StringComparison.Ordinal)].Split('-');
            ulong first = ulong.Parse(bounds[0], NumberStyles.HexNumber, CultureInfo.InvariantCulture);
            // The page of the kernel's that older programs call is above all that is the process's own.
            if (first >> 63 == 0)
            {
                start = start == 0 ? first : start;
                end = ulong.Parse(bounds[1], NumberStyles.HexNumber, CultureInfo.InvariantCulture);
            }
        }

        return (start, end - start);
    }

    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    private static partial int Control(SafeFileHandle file, nuint request, void* argument);
}
