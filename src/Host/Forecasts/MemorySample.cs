using System.Diagnostics;
using System.Runtime.CompilerServices;
using Godwit.ChunkStore;
using Godwit.Host.Qemu;
using Godwit.Host.Transfers;
using Godwit.Migration.Convergence;
using Godwit.Pages;

namespace Godwit.Host.Forecasts;

/// <summary>What a sample of a running guest's pages tells: how they code, and how many change.</summary>
/// <remarks>
/// Reading memory disturbs nobody: the guest does not notice, and nothing in QEMU is switched on. The sample is 16 MiB
/// at most, held for a second: runs of neighbours, which coders are tried on, and many single pages, which tell what
/// changes. What a guest writes lies together, and of a few runs none or several would be in the midst of it.
/// </remarks>
/// <param name="UsedPages">Pages that somebody has written.</param>
/// <param name="KnownShare">Share of the sample that the destination says it can rebuild.</param>
/// <param name="Coders">What pages of the sample take by each coder, those that are known by their names.</param>
/// <param name="AgainBytesPerPage">What a page that has changed takes, as a delta where that is less; 0 if none has.
/// </param>
/// <param name="Speed">Processor time that the coding got for each second it took: below 1 where others want the
/// processors too.</param>
/// <param name="EarlyShare">Share that had changed after <paramref name="EarlySeconds"/>.</param>
/// <param name="LateShare">Share that had changed after <paramref name="LateSeconds"/>.</param>
public sealed record MemorySample(
    long UsedPages, double KnownShare, IReadOnlyList<SampledCoder> Coders, double AgainBytesPerPage, double Speed,
    double EarlyShare, double EarlySeconds, double LateShare, double LateSeconds)
{
    private const int RunPages = PageBatch.ContentPagesMax;
    // More would take the slow coders longer than they tell.
    private const int RunsMax = 24;
    private const int SinglesMax = 2560;
    private const int DeltasMax = 256;
    private static readonly TimeSpan Early = TimeSpan.FromSeconds(0.25);
    private static readonly TimeSpan Late = TimeSpan.FromSeconds(1);
    // What grows as it did at first says nothing of where it ends: it is looked at once more.
    private static readonly TimeSpan Latest = TimeSpan.FromSeconds(3);
    private const double StillGrowing = 0.7;
    private const double GrowthTells = 0.02;

    /// <param name="find">Says which contents the destination can rebuild: a byte other than 0 for each name.</param>
    /// <param name="hasCoded">Called when nothing is left but to look at what changes: it wants the processors no more.
    /// </param>
    /// <returns>What is known after a quarter of a second, after a second, and, if that tells no end of the set that
    /// is written, after three.</returns>
    public static async IAsyncEnumerable<MemorySample> TakeAsync(
        GuestMemory memory, Func<ReadOnlyMemory<byte>, Task<ReadOnlyMemory<byte>>> find, Action hasCoded,
        [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        var runs = new List<(long First, long Count)>();
        long used = 0;
        for (long at = 0; memory.TryFindAllocated(new PageNumber(at), out (PageNumber First, long Count) run);
            at = run.First.Value + run.Count)
        {
            runs.Add((run.First.Value, run.Count));
            used += run.Count;
        }

        List<(long First, int Count)> places = Spread(runs, used, SinglesMax, 1);
        long begun = Stopwatch.GetTimestamp();
        byte[][] before = [.. places.Select(place => Read(memory, place))];
        byte[][] coded = [.. Spread(runs, used, RunsMax, RunPages).Select(place => Read(memory, place))];
        double pages = Math.Max(1, places.Count);
        bool[][] known = await FindAsync([.. before, .. coded], find);
        // On a thread of its own, as much out of the guest's way as a lane is.
        (List<SampledCoder> coders, double speed) = await Task.Factory.StartNew(
            () => Code(coded, known.AsSpan(before.Length)), cancellationToken, TaskCreationOptions.LongRunning,
            TaskScheduler.Default);
        hasCoded();
        (double share, double seconds) early = (0, 0);
        (double share, double seconds) late = (0, 0);
        double knownShare = known.Take(before.Length).Count(page => page[0]) / pages;
        foreach (TimeSpan at in new[] { Early, Late, Latest })
        {
            if (at == Latest && (late.share < GrowthTells
                || late.share < early.share * late.seconds / early.seconds * StillGrowing))
            {
                yield break;
            }

            TimeSpan left = at - Stopwatch.GetElapsedTime(begun);
            await Task.Delay(left > TimeSpan.Zero ? left : TimeSpan.Zero, cancellationToken);
            List<(byte[] Old, byte[] Now)> changed = Compare(memory, places, before);
            (early, late) = (late, (changed.Count / pages, Stopwatch.GetElapsedTime(begun).TotalSeconds));
            if (at == Early)
            {
                early = late;
            }

            yield return new MemorySample(
                used, knownShare, coders, AgainBytes(changed), speed, early.share, early.seconds, late.share,
                late.seconds);
        }
    }

    // Evenly over what is in use, each run in a place of its own at random.
    private static List<(long First, int Count)> Spread(
        List<(long First, long Count)> runs, long used, int most, int pages)
    {
        var places = new List<(long, int)>();
        long stride = Math.Max(pages, used / most);
        long next = Random.Shared.NextInt64(stride);
        long seen = 0;
        foreach ((long first, long count) in runs)
        {
            for (; next < seen + count && places.Count < most; next += stride)
            {
                long start = Math.Max(first, Math.Min(first + (next - seen), first + count - pages));
                // A batch is of one region.
                long end = Math.Min(first + count, (start / Page.RegionPages * Page.RegionPages) + Page.RegionPages);
                places.Add((start, (int)Math.Min(pages, end - start)));
            }

            seen += count;
        }

        return places;
    }

    private static byte[] Read(GuestMemory memory, (long First, int Count) place)
    {
        byte[] content = GC.AllocateUninitializedArray<byte>(place.Count * Page.Size);
        memory.Read(new PageNumber(place.First), content);
        return content;
    }

    private static async Task<bool[][]> FindAsync(
        byte[][] sample, Func<ReadOnlyMemory<byte>, Task<ReadOnlyMemory<byte>>> find)
    {
        byte[] names = new byte[sample.Sum(run => run.Length / Page.Size) * ContentName.Size];
        int at = 0;
        foreach (byte[] run in sample)
        {
            for (int page = 0; page < run.Length; page += Page.Size)
            {
                ContentName.Of(run.AsSpan(page, Page.Size)).Write(names.AsSpan(at));
                at += ContentName.Size;
            }
        }

        ReadOnlyMemory<byte> found = await find(names);
        at = 0;
        return [.. sample.Select(run => Enumerable.Range(0, run.Length / Page.Size)
            .Select(_ => at < found.Length && found.Span[at++] != 0).ToArray())];
    }

    private static (List<SampledCoder> Coders, double Speed) Code(byte[][] sample, ReadOnlySpan<bool[]> known)
    {
        ThreadTime.YieldToGuests();
        TimeSpan cpu = ThreadTime.Now;
        long begun = Stopwatch.GetTimestamp();
        List<SampledCoder> coders = [];
        byte[] frame = new byte[PageBatch.EncodedBytesMax];
        Span<byte> name = stackalloc byte[ContentName.Size];
        foreach (BlockCoding coding in SampledCoder.Candidates)
        {
            using var batch = new PageBatchBuilder(PageBatch.Version2);
            (long bytes, long pages, TimeSpan began) = (0, 0, ThreadTime.Now);
            for (int run = 0; run < sample.Length; run++)
            {
                int count = sample[run].Length / Page.Size;
                batch.Begin(0, 0);
                sample[run].CopyTo(batch.AddContents(new PageNumber(0), count));
                for (int slot = 0; slot < count; slot++)
                {
                    if (known[run][slot] && batch.KindOf(slot) == PageKind.Content)
                    {
                        ContentName.Of(batch.ContentOf(slot)).Write(name);
                        batch.SetKnown(slot, name);
                    }
                }

                bytes += batch.Encode(frame, coding);
                pages += count;
            }

            coders.Add(new SampledCoder(
                coding, (double)bytes / Math.Max(1, pages),
                (ThreadTime.Now - began).TotalSeconds / Math.Max(1, pages)));
        }

        double seconds = Stopwatch.GetElapsedTime(begun).TotalSeconds;
        return (coders, Math.Clamp((ThreadTime.Now - cpu).TotalSeconds / Math.Max(seconds, 1e-6), 0.02, 1));
    }

    private static List<(byte[] Old, byte[] Now)> Compare(
        GuestMemory memory, List<(long First, int Count)> places, byte[][] before)
    {
        List<(byte[], byte[])> changed = [];
        for (int i = 0; i < places.Count; i++)
        {
            byte[] now = Read(memory, places[i]);
            for (int at = 0; at < now.Length; at += Page.Size)
            {
                ReadOnlySpan<byte> page = now.AsSpan(at, Page.Size);
                if (!page.SequenceEqual(before[i].AsSpan(at, Page.Size)))
                {
                    changed.Add((before[i][at..(at + Page.Size)], page.ToArray()));
                }
            }
        }

        return changed;
    }

    private static double AgainBytes(List<(byte[] Old, byte[] Now)> changed)
    {
        if (changed.Count == 0)
        {
            return 0;
        }

        using var batch = new PageBatchBuilder(PageBatch.Version2);
        byte[] frame = new byte[PageBatch.EncodedBytesMax];
        List<(byte[] Old, byte[] Now)> looked = [.. changed.Take(DeltasMax)];
        long bytes = 0;
        foreach ((byte[] Old, byte[] Now)[] pages in looked.Chunk(PageBatch.ContentPagesMax))
        {
            batch.Begin(0, 0);
            for (int i = 0; i < pages.Length; i++)
            {
                pages[i].Now.CopyTo(batch.AddContents(new PageNumber(i), 1));
            }

            for (int i = 0; i < pages.Length; i++)
            {
                if (batch.KindOf(i) == PageKind.Content)
                {
                    batch.TrySetDelta(i, pages[i].Old, Page.Size / 4);
                }
            }

            bytes += batch.Encode(frame, BlockCoding.Lz4);
        }

        return (double)bytes / looked.Count;
    }
}
