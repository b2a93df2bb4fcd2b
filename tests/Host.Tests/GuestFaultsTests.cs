using System.Runtime.InteropServices;
using Godwit.Host.Transfers;
using Godwit.Pages;

namespace Godwit.Host.Tests;

/// <summary>A real userfaultfd, of this process: what waits for a page is heard of again.</summary>
public sealed unsafe partial class GuestFaultsTests : IDisposable
{
    private const int PageFault = 0x12;
    private readonly int _faults;
    private readonly byte* _memory;

    public GuestFaultsTests()
    {
        _faults = (int)SystemCall(323, 0x80000 | 0x800, 0, 0);   // O_CLOEXEC | O_NONBLOCK
        Assert.True(_faults >= 0, Marshal.GetLastPInvokeErrorMessage());
        ulong* terms = stackalloc ulong[] { 0xAA, 0, 0 };
        Assert.Equal(0, Control(_faults, 0xC018AA3F, terms));
        // PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS.
        _memory = (byte*)Map(0, Page.Size, 3, 0x22, -1, 0);
        ulong* registration = stackalloc ulong[] { (ulong)_memory, Page.Size, 1, 0 };
        Assert.Equal(0, Control(_faults, 0xC020AA00, registration));
    }

    public void Dispose()
    {
        _ = Unmap((nint)_memory, Page.Size);
        _ = Close(_faults);
    }

    // One struct uffd_msg is 32 bytes: what happened, and for a fault the address at byte 16.
    private bool Hears()
    {
        byte* message = stackalloc byte[32];
        for (int attempt = 0; attempt < 12_000; attempt++)
        {
            if (Read(_faults, message, 32) == 32)
            {
                Assert.Equal(PageFault, message[0]);
                Assert.Equal((ulong)_memory, *(ulong*)(message + 16) & ~(ulong)(Page.Size - 1));
                return true;
            }

            Thread.Sleep(10);
        }

        return false;
    }

    [Fact]
    public void A_fault_that_somebody_read_and_never_answered_comes_again()
    {
        nint memory = (nint)_memory;
        nint filled = 0;
        // By a call: a thread that waited in managed code would have every collection of garbage wait for it.
        var guest = new Thread(() => filled = GetRandom(memory, 1, 0));
        guest.Start();
        Assert.True(Hears(), "the fault was never heard of");

        GuestFaults.WakeAll(Environment.ProcessId);

        Assert.True(Hears(), "the fault was not heard of again");
        ulong* zero = stackalloc ulong[] { (ulong)_memory, Page.Size, 0, 0 };
        Assert.Equal(0, Control(_faults, 0xC020AA04, zero));
        guest.Join();
        Assert.Equal(1, filled);
    }

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    private static partial nint SystemCall(nint number, nint first, nint second, nint third);

    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    private static partial int Control(int descriptor, nuint request, ulong* argument);

    [LibraryImport("libc", EntryPoint = "mmap", SetLastError = true)]
    private static partial nint Map(nint address, nuint length, int protection, int flags, int file, nint offset);

    [LibraryImport("libc", EntryPoint = "munmap")]
    private static partial int Unmap(nint address, nuint length);

    [LibraryImport("libc", EntryPoint = "read")]
    private static partial nint Read(int descriptor, byte* buffer, nuint length);

    [LibraryImport("libc", EntryPoint = "getrandom")]
    private static partial nint GetRandom(nint buffer, nuint length, uint flags);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int Close(int descriptor);
}
