using System.Diagnostics;
using System.Runtime.InteropServices;

namespace Godwit.Host.Qemu;

/// <summary>A process held by a pidfd, so that no signal ever reaches a stranger that got the same number.</summary>
/// <remarks>It need not be a child: a daemon that was restarted holds its guests' QEMUs the same way.</remarks>
internal sealed partial class QemuProcess : IDisposable
{
    private const int SigKill = 9;
    private const int SigTerm = 15;

    private readonly int _pidfd;
    private readonly TaskCompletionSource _exited = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Lock _closing = new();
    private bool _disposed;
    private bool _closed;

    private QemuProcess(int id, int pidfd)
    {
        Id = id;
        _pidfd = pidfd;
        new Thread(Watch, maxStackSize: 128 << 10) { IsBackground = true, Name = $"watch {id}" }.Start();
    }

    internal int Id { get; }

    /// <summary>Ends when the process has.</summary>
    internal Task Exited => _exited.Task;

    /// <summary>Holds the process, or gives null if there is none of this number.</summary>
    internal static QemuProcess? Open(int processId)
    {
        int pidfd = PidfdOpen(PidfdOpenNumber, processId, 0);
        return pidfd < 0 ? null : new QemuProcess(processId, pidfd);
    }

    /// <summary>The process's arguments; empty if it is gone.</summary>
    internal static string[] CommandLine(int processId)
    {
        try
        {
            return File.ReadAllText($"/proc/{processId}/cmdline").Split('\0', StringSplitOptions.RemoveEmptyEntries);
        }
        catch (IOException)
        {
            return [];
        }
        catch (UnauthorizedAccessException)
        {
            return [];
        }
    }

    internal void Kill() => Signal(SigKill);

    internal void Terminate() => Signal(SigTerm);

    private void Signal(int signal)
    {
        lock (_closing)
        {
            if (!_closed)
            {
                // Fails only when the process has ended already, which is what was wanted.
                _ = PidfdSendSignal(PidfdSendSignalNumber, _pidfd, signal, 0, 0);
            }
        }
    }

    private void Watch()
    {
        PollDescriptor descriptor = new() { Descriptor = _pidfd, Events = 1 };
        while (!Volatile.Read(ref _disposed))
        {
            // The bound on the wait is for Dispose: a pidfd that is being polled must not be closed under the poll.
            if (Poll(ref descriptor, 1, 500) > 0)
            {
                _exited.TrySetResult();
                break;
            }
        }
        lock (_closing)
        {
            _closed = true;
            _ = Close(_pidfd);
        }
    }

    public void Dispose() => Volatile.Write(ref _disposed, true);

    private const long PidfdSendSignalNumber = 424;
    private const long PidfdOpenNumber = 434;

    [StructLayout(LayoutKind.Sequential)]
    private struct PollDescriptor
    {
        internal int Descriptor;
        internal short Events;
        internal short Received;
    }

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    private static partial int PidfdOpen(long number, int processId, uint flags);

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    private static partial int PidfdSendSignal(long number, int pidfd, int signal, nint info, uint flags);

    [LibraryImport("libc", EntryPoint = "poll", SetLastError = true)]
    private static partial int Poll(ref PollDescriptor descriptors, ulong count, int timeoutMilliseconds);

    [LibraryImport("libc", EntryPoint = "close", SetLastError = true)]
    private static partial int Close(int descriptor);
}
