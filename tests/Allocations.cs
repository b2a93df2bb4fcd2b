namespace Godwit.Tests;

internal static class Allocations
{
    public const int Runs = 8;

    /// <summary>The fewest bytes that one of several runs of a hot loop allocated.</summary>
    /// <remarks>
    /// The runtime charges a recompilation to the thread it happens on, once; what the loop itself allocates shows in
    /// every run.
    /// </remarks>
    public static long Least(Action run)
    {
        long least = long.MaxValue;
        for (int i = 0; i < Runs; i++)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            run();
            least = Math.Min(least, GC.GetAllocatedBytesForCurrentThread() - before);
        }

        return least;
    }
}
