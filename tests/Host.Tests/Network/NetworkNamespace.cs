using System.Diagnostics;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Tests.Network;

/// <summary>Runs a test on a thread in a network namespace of its own, which vanishes with the thread.</summary>
internal static partial class NetworkNamespace
{
    private const int Busy = 16;   // EBUSY

    public static void Run(Action test)
    {
        if (!Environment.IsPrivilegedProcess || !File.Exists("/dev/net/tun"))
        {
            Assert.Skip("needs root and /dev/net/tun for a network namespace of its own");
        }
        ExceptionDispatchInfo? failure = null;
        Thread thread = new(() =>
        {
            try
            {
                Assert.True(Unshare(0x40000000) == 0, "unshare: " + Marshal.GetLastPInvokeErrorMessage());
                Command("ip link set lo up");
                test();
            }
            catch (Exception e)
            {
                failure = ExceptionDispatchInfo.Capture(e);
            }
        });
        thread.Start();
        thread.Join();
        failure?.Throw();
    }

    /// <summary>Runs a command in the thread's namespace and gives its output.</summary>
    public static string Command(string line)
    {
        string[] words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
        using Process process = Process.Start(new ProcessStartInfo(words[0], words[1..])
        {
            RedirectStandardOutput = true, RedirectStandardError = true,
        })!;
        string output = process.StandardOutput.ReadToEnd();
        string error = process.StandardError.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, $"{line}: {error}");
        return output;
    }

    /// <summary>Looks again until it is so; the limit ends a wait that is in vain.</summary>
    public static void Until(Func<bool> condition, string what)
    {
        long begun = Stopwatch.GetTimestamp();
        while (Stopwatch.GetElapsedTime(begun) < TimeSpan.FromSeconds(90))
        {
            if (condition())
            {
                return;
            }
            Thread.Sleep(20);
        }
        Assert.Fail("never happened: " + what);
    }

    /// <summary>Opens a TAP device as QEMU would, which gives it its carrier.</summary>
    public static unsafe SafeFileHandle Attach(string tap)
    {
        SafeFileHandle control = File.OpenHandle(
            "/dev/net/tun", FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite);
        byte* request = stackalloc byte[40];
        new Span<byte>(request, 40).Clear();
        System.Text.Encoding.ASCII.GetBytes(tap, new Span<byte>(request, 15));
        *(short*)(request + 16) = 0x0002 | 0x1000 | 0x4000;
        // A program that another test starts at this moment holds what is closed here until it has begun.
        long begun = Stopwatch.GetTimestamp();
        while (Control(control, 0x400454ca, (nint)request) != 0)
        {
            Assert.True(
                Marshal.GetLastPInvokeError() == Busy && Stopwatch.GetElapsedTime(begun) < TimeSpan.FromSeconds(60),
                Marshal.GetLastPInvokeErrorMessage());
            Thread.Sleep(20);
        }
        return control;
    }

    /// <summary>One frame from a TAP, or -1 if none comes within 100 ms.</summary>
    public static int Read(SafeFileHandle tap, byte[] frame)
    {
        long descriptor = (long)(int)tap.DangerousGetHandle() | (1L << 32);   // struct pollfd with POLLIN
        if (Poll(ref descriptor, 1, 100) <= 0)
        {
            return -1;
        }
        return (int)ReadBytes(tap, frame, (nuint)frame.Length);
    }

    [LibraryImport("libc", EntryPoint = "poll", SetLastError = true)]
    private static partial int Poll(ref long descriptors, ulong count, int timeoutMilliseconds);

    [LibraryImport("libc", EntryPoint = "read", SetLastError = true)]
    private static partial nint ReadBytes(SafeFileHandle file, [Out] byte[] buffer, nuint length);

    [LibraryImport("libc", EntryPoint = "unshare", SetLastError = true)]
    private static partial int Unshare(int flags);

    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    private static partial int Control(SafeFileHandle file, ulong request, nint argument);
}
