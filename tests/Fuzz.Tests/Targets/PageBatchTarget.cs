using Godwit.Pages;

namespace Godwit.Fuzz.Tests.Targets;

/// <summary>A page batch: every page that comes out lies in its block, in order, with what its kind promises.</summary>
internal static class PageBatchTarget
{
    public static readonly RamBlock[] Blocks =
    [
        new(0, "pc.ram", 64L << 20), new(1, "pc.bios", 256 << 10), new(2, "odd", 777 * Page.Size),
    ];

    private static readonly PageBatchDecoder _version1 = new(PageBatch.Version1);
    private static readonly PageBatchDecoder _newest = new(PageBatch.Version4);
    private static readonly byte[] _page = new byte[Page.Size];

    public static bool FuzzVersion1(ReadOnlySpan<byte> bytes) => Fuzz(bytes, _version1);

    public static bool Fuzz(ReadOnlySpan<byte> bytes) => Fuzz(bytes, _newest);

    private static bool Fuzz(ReadOnlySpan<byte> bytes, PageBatchDecoder decoder)
    {
        try
        {
            decoder.Reset();
            PageBatchReader batch = PageBatchReader.Parse(bytes, Blocks, decoder);
            RamBlock block = Blocks[batch.BlockIndex];
            long last = -1;
            int pages = 0;
            foreach (PageRun run in batch)
            {
                Require.That(
                    run.First.Value > last && run.First.Value + run.Count <= block.PageCount && run.Count > 0,
                    $"page {run.First} comes behind page {last} and lies in its block");
                Require.That(
                    HasWhatItPromises(run), $"{run.Count} pages of kind {run.Kind} have {run.Content.Length} bytes");
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

    private static bool HasWhatItPromises(in PageRun run)
    {
        if (run.Kind is PageKind.Delta or PageKind.Changed)
        {
            // True or false, but nothing thrown and nothing written past the page.
            PageDelta.TryApply(run.Content, _page);
            return run.Count == 1 && !run.Content.IsEmpty
                && run.Name.Length == (run.Kind == PageKind.Changed ? PageBatch.NameBytes : 0);
        }

        int? each = run.Kind switch
        {
            PageKind.Zero => 0,
            PageKind.Word => PageBatch.WordBytes,
            PageKind.Content => Page.Size,
            PageKind.Known => PageBatch.NameBytes,
            _ => null,
        };
        return run.Content.Length == each * run.Count;
    }
}
