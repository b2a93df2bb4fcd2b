using Godwit.Pages;

namespace Godwit.Fuzz.Tests.Targets;

/// <summary>A page batch: every page that comes out lies in its block, in order, with its content.</summary>
internal static class PageBatchTarget
{
    public static readonly RamBlock[] Blocks =
    [
        new(0, "pc.ram", 64L << 20), new(1, "pc.bios", 256 << 10), new(2, "odd", 777 * Page.Size),
    ];

    private static readonly byte[] _scratch = new byte[PageBatch.RawBytesMax];

    public static bool Fuzz(ReadOnlySpan<byte> bytes)
    {
        try
        {
            PageBatchReader batch = PageBatchReader.Parse(bytes, Blocks, _scratch);
            RamBlock block = Blocks[batch.BlockIndex];
            long last = -1;
            int pages = 0;
            foreach (PageRun run in batch)
            {
                Require.That(run.First.Value > last && run.First.Value + run.Count <= block.PageCount && run.Count > 0
                    && run.Content.Length == (run.IsZero ? 0 : run.Count * Page.Size),
                    $"page {run.First} comes behind page {last} and lies in its block");
                last = run.First.Value + run.Count - 1;
                pages += run.Count;
            }

            Require.That(pages > 0 && pages == batch.Pages, $"{pages} pages come out of a batch of {batch.Pages}");
            return true;
        }
        catch (StreamFormatException)
        {
            return false;
        }
    }
}
