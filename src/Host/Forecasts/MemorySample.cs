using System.IO.Hashing;
using Godwit.Host.Qemu;
using Godwit.Pages;

namespace Godwit.Host.Forecasts;

/// <summary>What a sample of a running guest's pages tells: how they code, and how many change.</summary>
/// <remarks>Reading memory disturbs nobody: the guest does not notice, and nothing in QEMU is switched on.</remarks>
/// <param name="UsedPages">Pages that somebody has written.</param>
/// <param name="WireBytesPerPage">What a page of the sample takes, coded as it would be on a slow link.</param>
/// <param name="EarlyShare">Share that had changed after <paramref name="EarlySeconds"/>.</param>
/// <param name="LateShare">Share that had changed after <paramref name="LateSeconds"/>.</param>
public sealed record MemorySample(
    long UsedPages, double WireBytesPerPage, double EarlyShare, double EarlySeconds, double LateShare,
    double LateSeconds)
{
    private const int RunPages = 16;
    private const int RunsMax = 96;
    private static readonly TimeSpan Early = TimeSpan.FromSeconds(0.25);
    private static readonly TimeSpan Late = TimeSpan.FromSeconds(1);

    public static async Task<MemorySample> TakeAsync(GuestMemory memory, CancellationToken cancellationToken)
    {
        var runs = new List<(long First, long Count)>();
        long used = 0;
        for (long at = 0; memory.TryFindAllocated(new PageNumber(at), out (PageNumber First, long Count) run);
            at = run.First.Value + run.Count)
        {
            runs.Add((run.First.Value, run.Count));
            used += run.Count;
        }

        List<long> starts = Spread(runs, used);
        byte[] content = new byte[RunPages * Page.Size];
        byte[] coded = new byte[Lz4.CodedBytesMax(content.Length)];
        var before = new List<UInt128[]>();
        long codedBytes = 0;
        long begun = System.Diagnostics.Stopwatch.GetTimestamp();
        foreach (long start in starts)
        {
            before.Add(Read(memory, start, content));
            int length = content.AsSpan().ContainsAnyExcept((byte)0) ? Lz4.Compress(content, coded) : 0;
            codedBytes += length > 0 ? Math.Min(length, content.Length)
                : content.AsSpan().ContainsAnyExcept((byte)0) ? content.Length : 0;
        }

        double pages = Math.Max(1, starts.Count * RunPages);
        await Task.Delay(Early, cancellationToken);
        double early = Changed(memory, starts, before, content) / pages;
        double earlySeconds = System.Diagnostics.Stopwatch.GetElapsedTime(begun).TotalSeconds;
        await Task.Delay(Late - Early, cancellationToken);
        double late = Changed(memory, starts, before, content) / pages;
        return new MemorySample(
            used, Math.Max(1, codedBytes / pages), early, earlySeconds, late,
            System.Diagnostics.Stopwatch.GetElapsedTime(begun).TotalSeconds);
    }

    // Evenly over what is in use, each run in a place of its own at random.
    private static List<long> Spread(List<(long First, long Count)> runs, long used)
    {
        var starts = new List<long>();
        long stride = Math.Max(RunPages, used / RunsMax);
        long next = Random.Shared.NextInt64(stride);
        long seen = 0;
        foreach ((long first, long count) in runs)
        {
            for (; next < seen + count && starts.Count < RunsMax; next += stride)
            {
                long start = Math.Min(first + (next - seen), first + count - RunPages);
                if (start >= first)
                {
                    starts.Add(start);
                }
            }

            seen += count;
        }

        return starts;
    }

    private static UInt128[] Read(GuestMemory memory, long start, byte[] content)
    {
        memory.Read(new PageNumber(start), content);
        var hashes = new UInt128[RunPages];
        for (int i = 0; i < RunPages; i++)
        {
            hashes[i] = XxHash128.HashToUInt128(content.AsSpan(i * Page.Size, Page.Size));
        }

        return hashes;
    }

    private static int Changed(GuestMemory memory, List<long> starts, List<UInt128[]> before, byte[] content)
    {
        int changed = 0;
        for (int i = 0; i < starts.Count; i++)
        {
            UInt128[] now = Read(memory, starts[i], content);
            for (int page = 0; page < RunPages; page++)
            {
                changed += now[page] != before[i][page] ? 1 : 0;
            }
        }

        return changed;
    }
}
