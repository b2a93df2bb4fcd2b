using System.Runtime.InteropServices;

namespace Godwit.Host.Transfers;

/// <summary>The calling thread's processor time and priority.</summary>
internal static partial class ThreadTime
{
    private const int ThreadProcessorTime = 3;
    private const int PriorityOfThread = 0;
    // A third of the weight of a guest's processor: under a busy guest the transfer slows down, and the guest hardly.
    private const int Nice = 5;
    // Three times its weight: what a processor that stands still waits for is short, and comes before those that run.
    private const int Hasty = -5;

    /// <summary>Processor time of the calling thread since it began.</summary>
    public static TimeSpan Now
    {
        get
        {
            _ = ReadClock(ThreadProcessorTime, out Moment moment);
            return new TimeSpan((moment.Seconds * TimeSpan.TicksPerSecond) + (moment.Nanoseconds / 100));
        }
    }

    /// <summary>Lets guests' processors go first on the cores they share with the calling thread.</summary>
    /// <remarks>Never undone: the thread ends with its work. A kernel that refuses leaves things as they are.</remarks>
    public static void YieldToGuests() => _ = SetPriority(PriorityOfThread, 0, Nice);

    /// <summary>Lets the calling thread go first: a guest stands still until it has done its work.</summary>
    /// <remarks>
    /// Never undone. It needs CAP_SYS_NICE or a limit of -5 (RLIMIT_NICE); a kernel that refuses leaves things as they
    /// are.
    /// </remarks>
    public static void ServeGuest() => _ = SetPriority(PriorityOfThread, 0, Hasty);

    [StructLayout(LayoutKind.Sequential)]
    private struct Moment
    {
        public long Seconds;
        public long Nanoseconds;
    }

    [LibraryImport("libc", EntryPoint = "clock_gettime")]
    private static partial int ReadClock(int clock, out Moment moment);

    // For Linux "who" 0 of PRIO_PROCESS is the calling thread, not its process.
    [LibraryImport("libc", EntryPoint = "setpriority")]
    private static partial int SetPriority(int which, uint who, int priority);
}
