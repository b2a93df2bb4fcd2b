namespace Godwit.Pages.Tests;

/// <summary>The fuzz target of the page batch, in the shape that a fuzzing driver calls.</summary>
internal static class PageBatchFuzz
{
    private static readonly byte[] _scratch = new byte[PageBatch.RawBytesMax];

    /// <summary>Any bytes are either a batch, all of whose pages lie in their block, or refused by name.</summary>
    /// <returns>Whether the bytes were a batch.</returns>
    public static bool Fuzz(ReadOnlySpan<byte> bytes)
    {
        try
        {
            PageBatchReader batch = PageBatchReader.Parse(bytes, PageBatchTests.Blocks, _scratch);
            RamBlock block = PageBatchTests.Blocks[batch.BlockIndex];
            long last = -1;
            int pages = 0;
            foreach (PageRun run in batch)
            {
                if (run.First.Value <= last || run.First.Value + run.Count > block.PageCount
                    || run.Count < 1 || run.Content.Length != (run.IsZero ? 0 : run.Count * Page.Size))
                {
                    throw new InvalidOperationException($"Page {run.First} came through behind page {last}.");
                }

                last = run.First.Value + run.Count - 1;
                pages += run.Count;
            }

            if (pages == 0 || pages != batch.Pages)
            {
                throw new InvalidOperationException($"{pages} pages came out of a batch of {batch.Pages}.");
            }

            return true;
        }
        catch (StreamFormatException)
        {
            return false;
        }
    }
}

public class PageBatchFuzzTests
{
    // Goal: hostile batches never read out of bounds, and what is accepted keeps every promise. Method: seeded flips
    // and cuts of good batches, most of them in the header and bitmaps.
    [Fact]
    public void Mangled_batches_are_refused_or_keep_every_promise()
    {
        var random = new Random(20261123);
        var builder = new PageBatchBuilder();
        int accepted = 0;
        int refused = 0;
        for (int run = 0; run < 20_000; run++)
        {
            builder.Begin(0, run % 32);
            for (int page = random.Next(4); page < 40; page += random.Next(1, 6))
            {
                var number = new PageNumber((run % 32 * Page.RegionPages) + page);
                if (random.Next(2) == 0)
                {
                    builder.AddZero(number);
                }
                else
                {
                    builder.AddContents(number, 1).Fill((byte)page);
                }
            }

            byte[] batch = PageBatchTests.Encode(builder, run % 4 != 0);
            Assert.True(PageBatchFuzz.Fuzz(batch));
            int head = Math.Min(batch.Length, 32);
            for (int flips = random.Next(1, 4); flips > 0; flips--)
            {
                batch[random.Next(random.Next(4) == 0 ? batch.Length : head)] ^= (byte)(1 << random.Next(8));
            }

            _ = PageBatchFuzz.Fuzz(batch.AsSpan(0, random.Next(8) == 0 ? random.Next(batch.Length) : batch.Length))
                ? accepted++ : refused++;
        }

        Assert.True(accepted > 500, $"only {accepted} mangled batches were accepted");
        Assert.True(refused > 5000, $"only {refused} mangled batches were refused");
    }
}
