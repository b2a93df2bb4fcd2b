using System.Globalization;
using System.Runtime.InteropServices;

namespace Godwit.PageEngine;

/// <summary>One step of the page engine, run again and again; its median counts, in processor time.</summary>
/// <param name="name">What is shown.</param>
/// <param name="bytes">Bytes of pages that a run works on.</param>
/// <param name="work">Does the work; gives the bytes that came out, or 0 when that says nothing.</param>
/// <param name="back">The way back, if there is one.</param>
internal sealed partial class Trial(string name, long bytes, Func<long> work, Action? back = null)
{
    private readonly List<double> _seconds = [];
    private readonly List<double> _backSeconds = [];
    private long _out;

    /// <summary>Processor time spent on it so far.</summary>
    internal double Seconds => _seconds.Sum() + _backSeconds.Sum();

    internal void Run()
    {
        double begun = ThreadSeconds();
        _out = work();
        double done = ThreadSeconds();
        _seconds.Add(done - begun);
        if (back is not null)
        {
            back();
            _backSeconds.Add(ThreadSeconds() - done);
        }
    }

    public override string ToString() => string.Create(
        CultureInfo.InvariantCulture,
        $"{name,-28}{Rate(_seconds),8:0.00}{(back is null ? null : Rate(_backSeconds)),8:0.00}"
        + $"{(_out == 0 ? null : (double)bytes / _out),8:0.00}");

    private double? Rate(List<double> seconds) => bytes / seconds.Order().ElementAt(seconds.Count / 2) / 1e9;

    private static double ThreadSeconds()
    {
        _ = ReadClock(3, out Moment moment);
        return moment.Seconds + (moment.Nanoseconds * 1e-9);
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct Moment
    {
        public long Seconds;
        public long Nanoseconds;
    }

    // 3 is CLOCK_THREAD_CPUTIME_ID: a thread that waits for a core is not charged for it.
    [LibraryImport("libc", EntryPoint = "clock_gettime")]
    private static partial int ReadClock(int clock, out Moment moment);
}
