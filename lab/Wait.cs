using System.Diagnostics;

namespace Godwit.Lab;

/// <summary>Waiting with a bound and a name for what did not come.</summary>
internal static class Wait
{
    /// <exception cref="LabException">The condition did not hold within the limit.</exception>
    internal static void Until(Func<bool> condition, TimeSpan limit, string what, CancellationToken token = default)
    {
        long began = Stopwatch.GetTimestamp();
        while (!condition())
        {
            token.ThrowIfCancellationRequested();
            if (Stopwatch.GetElapsedTime(began) > limit)
            {
                throw new LabException($"Waited {limit.TotalSeconds:0} s in vain for {what}.");
            }

            Thread.Sleep(20);
        }
    }
}
