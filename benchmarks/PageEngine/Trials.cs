using System.IO.Hashing;
using System.Net.Security;
using Godwit.Pages;

namespace Godwit.PageEngine;

/// <summary>Every step worth its own row.</summary>
internal static class Trials
{
    internal static IEnumerable<Trial> All(GuestDump dump)
    {
        byte[] copy = new byte[PageBatch.RawBytesMax];
        yield return Each("copy", dump, page => page.CopyTo(copy));
        yield return Each("zero test", dump, page => ZeroTest.IsZero(page));
        yield return Each("classify", dump, page => PageClassifier.Classify(page));
        yield return Each("XXH3 128", dump, page => XxHash128.HashToUInt128(page));
        yield return Batches("plain", dump, BlockCoding.Plain);
        yield return Batches("LZ4", dump, BlockCoding.Lz4);
        SslStream sealedSink = SealedSink.Open();
        yield return Batches("plain, sealed by TLS", dump, BlockCoding.Plain, sealedSink);
        yield return Batches("LZ4, sealed by TLS", dump, BlockCoding.Lz4, sealedSink);
        yield return Batches("zstd 1, sealed by TLS", dump, new BlockCoding(BlockCoder.Zstd, 1, 18), sealedSink);
        yield return Batches("LZ4 acceleration 8", dump, new BlockCoding(BlockCoder.Lz4, 8));
        foreach ((int level, int window) in new[]
        {
            (-1, 18), (1, 18), (1, 23), (3, 18), (3, 23), (6, 25), (9, 25), (12, 25),
        })
        {
            yield return Batches(
                $"zstd {level}, window 2^{window}", dump, new BlockCoding(BlockCoder.Zstd, level, window));
        }

        if (dump.Changed.Length > 0)
        {
            yield return Deltas(dump);
            yield return Lane("re-sent, LZ4", dump, BlockCoding.Lz4);
            yield return Lane("re-sent, zstd 1", dump, new BlockCoding(BlockCoder.Zstd, 1, 23));
        }
    }

    private delegate void PageWork(ReadOnlySpan<byte> page);

    private static Trial Each(string name, GuestDump dump, PageWork work) => new(name, dump.Pages.Length, () =>
    {
        for (int at = 0; at < dump.Pages.Length; at += Page.Size)
        {
            work(dump.Pages.AsSpan(at, Page.Size));
        }

        return 0;
    });

    // What is coded goes on into a stream, if there is one.
    private static Trial Batches(string name, GuestDump dump, BlockCoding coding, Stream? onwards = null)
    {
        RamBlock[] blocks = [new(0, "ram", (long)dump.Count * Page.RegionBytes)];
        byte[] frame = new byte[PageBatch.EncodedBytesMax];
        byte[] coded = new byte[dump.Pages.Length + (dump.Pages.Length / 4) + PageBatch.EncodedBytesMax];
        var lengths = new List<int>();
        return new(name, dump.Pages.Length, Code, Back);

        long Code()
        {
            using var builder = new PageBatchBuilder(PageBatch.Version2);
            lengths.Clear();
            int at = 0;
            for (int page = 0; page < dump.Count; page += PageBatch.ContentPagesMax)
            {
                int count = Math.Min(PageBatch.ContentPagesMax, dump.Count - page);
                builder.Begin(0, page / PageBatch.ContentPagesMax);
                long first = (long)page / PageBatch.ContentPagesMax * Page.RegionPages;
                dump.Pages.AsSpan(page * Page.Size, count * Page.Size).CopyTo(
                    builder.AddContents(new PageNumber(first), count));
                int length = builder.Encode(frame, coding);
                onwards?.Write(frame.AsSpan(0, length));
                frame.AsSpan(0, length).CopyTo(coded.AsSpan(at));
                lengths.Add(length);
                at += length;
            }

            return at;
        }

        void Back()
        {
            using var decoder = new PageBatchDecoder(PageBatch.Version2);
            int at = 0;
            foreach (int length in lengths)
            {
                PageBatchReader.Parse(coded.AsSpan(at, length), blocks, decoder);
                at += length;
            }
        }
    }

    // Each changed page against its old version; what does not fit into half a page counts whole.
    private static Trial Deltas(GuestDump dump)
    {
        int count = dump.Changed.Length / Page.Size / 2;
        byte[] deltas = new byte[count * Page.Size];
        int[] lengths = new int[count];
        byte[] page = new byte[Page.Size];
        return new("delta", (long)count * Page.Size, Code, Back);

        long Code()
        {
            long total = 0;
            for (int i = 0; i < count; i++)
            {
                Pair pair = Versions(dump, i);
                lengths[i] = PageDelta.Encode(pair.Old, pair.Now, deltas.AsSpan(i * Page.Size, Page.Size / 2));
                total += lengths[i] < 0 ? Page.Size : lengths[i];
            }

            return total;
        }

        void Back()
        {
            for (int i = 0; i < count; i++)
            {
                Versions(dump, i).Old.CopyTo(page);
                PageDelta.TryApply(deltas.AsSpan(i * Page.Size, Math.Max(0, lengths[i])), page);
            }
        }
    }

    private readonly ref struct Pair(ReadOnlySpan<byte> old, ReadOnlySpan<byte> now)
    {
        public readonly ReadOnlySpan<byte> Old = old;
        public readonly ReadOnlySpan<byte> Now = now;
    }

    private static Pair Versions(GuestDump dump, int i) => new(
        dump.Changed.AsSpan(2 * i * Page.Size, Page.Size), dump.Changed.AsSpan(((2 * i) + 1) * Page.Size, Page.Size));

    // All that a lane does with changed pages but reading them: compare with what was sent, delta, classify, code.
    private static Trial Lane(string name, GuestDump dump, BlockCoding coding)
    {
        int count = dump.Changed.Length / Page.Size / 2;
        byte[] frame = new byte[PageBatch.EncodedBytesMax];
        return new(name, (long)count * Page.Size, () =>
        {
            using var builder = new PageBatchBuilder(PageBatch.Version2);
            var sent = new PageFingerprints((long)count * Page.RegionPages, seed: 1);
            var sifter = new PageSifter(new SentVersions(256 << 20));
            // The first two versions fill the store; the third is what counts.
            _ = Send(0, old: true) + Send(1, old: false);
            return Send(2, old: true);

            long Send(int round, bool old)
            {
                long total = 0;
                for (int page = 0; page < count; page += PageBatch.ContentPagesMax)
                {
                    int pages = Math.Min(PageBatch.ContentPagesMax, count - page);
                    long region = page / PageBatch.ContentPagesMax;
                    builder.Begin(0, region);
                    Span<byte> slots = builder.AddContents(new PageNumber(region * Page.RegionPages), pages);
                    for (int i = 0; i < pages; i++)
                    {
                        Pair pair = Versions(dump, page + i);
                        (old ? pair.Old : pair.Now).CopyTo(slots[(i * Page.Size)..]);
                    }

                    sifter.Sift(builder, 0, sent, Page.Size / 2, round);
                    total += builder.Pages > 0 ? builder.Encode(frame, coding) : 0;
                }

                return total;
            }
        });
    }
}
