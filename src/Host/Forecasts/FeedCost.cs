using System.Diagnostics;
using System.IO.MemoryMappedFiles;
using Godwit.Pages;

namespace Godwit.Host.Forecasts;

/// <summary>What it costs QEMU to look at a page of its guest for the first time since it was started.</summary>
/// <remarks>
/// QEMU reads all memory in the first round. A page that it has not mapped yet, as after an arrival, or that nobody has
/// written, takes a fault, and a fault takes more than the look. What faults cost differs tenfold between machines, so
/// some are taken here, in shared memory of our own.
/// </remarks>
/// <param name="HoleSeconds">A page that nobody has written.</param>
/// <param name="UnmappedSeconds">A page that is there and that QEMU has not mapped.</param>
public sealed record FeedCost(double HoleSeconds, double UnmappedSeconds)
{
    private const int Pages = 512;

    /// <summary>A page that QEMU has mapped: the look for zeros, its bitmap, and the record of it read here. Seen on
    /// the lab's guests.</summary>
    public const double MappedSeconds = 5e-6;

    public static FeedCost Measure()
    {
        using var memory = MemoryMappedFile.CreateNew(null, Pages * Page.Size);
        return new FeedCost(Touch(memory), Touch(memory));
    }

    private static double Touch(MemoryMappedFile memory)
    {
        using MemoryMappedViewAccessor view = memory.CreateViewAccessor(0, 0, MemoryMappedFileAccess.Read);
        long begun = Stopwatch.GetTimestamp();
        long sum = 0;
        for (int page = 0; page < Pages; page++)
        {
            sum += view.ReadByte((long)page * Page.Size);
        }

        // What was read are zeros: the sum keeps the reads from being left out.
        return sum == 0 ? Stopwatch.GetElapsedTime(begun).TotalSeconds / Pages : 0;
    }
}
