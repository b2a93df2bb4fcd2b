using System.Runtime.InteropServices;

namespace Godwit.Host.Inventory;

/// <summary>Work that anything else on the host goes before.</summary>
internal static partial class LowPriority
{
    private const int NiceLowest = 19;
    private const long IoPriorityIdle = 3L << 13;
    private const long IoPrioritySetNumber = 251;   // x86-64

    /// <summary>Runs work on a thread of its own, with the lowest weight for processors and disks.</summary>
    public static Task Run(string name, Action work)
    {
        var done = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var thread = new Thread(() =>
        {
            Lower();
            try
            {
                work();
                done.SetResult();
            }
            catch (Exception e)
            {
                done.SetException(e);
            }
        })
        {
            Name = name,
            IsBackground = true,
        };
        thread.Start();
        return done.Task;
    }

    /// <summary>Lowers the calling thread, for good: Linux gives each thread weights of its own.</summary>
    public static void Lower()
    {
        // Neither may fail the work; where they are refused, it is only less polite.
        _ = SetPriority(0, 0, NiceLowest);
        if (RuntimeInformation.ProcessArchitecture == Architecture.X64)
        {
            _ = SystemCall(IoPrioritySetNumber, 1, 0, IoPriorityIdle);
        }
    }

    [LibraryImport("libc", EntryPoint = "setpriority")]
    private static partial int SetPriority(int which, uint who, int value);

    [LibraryImport("libc", EntryPoint = "syscall")]
    private static partial long SystemCall(long number, long which, long who, long value);
}
