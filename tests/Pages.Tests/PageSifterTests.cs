using CsCheck;

namespace Godwit.Pages.Tests;

public class PageSifterTests
{
    private const int Pages = 40;

    // Goal: whatever a guest writes, in whatever order pages are sent, the destination's memory becomes the source's,
    // and what is unchanged is not sent. Method: rounds of random small and large writes to a model guest with room for
    // few versions; the model destination applies what it reads.
    [Fact]
    public void The_destination_ends_with_what_the_source_holds() => Gen.Select(
        Gen.Int[0, 8], Gen.Select(Gen.Int[0, Pages - 1], Gen.Int[0, 4], Gen.UInt).Array[0, 60].Array[1, 6]).Sample(
        (slots, rounds) =>
        {
            RamBlock[] blocks = [new(0, "ram", Pages * Page.Size)];
            byte[] source = new byte[Pages * Page.Size];
            byte[] destination = new byte[source.Length];
            var sent = new PageFingerprints(Pages, seed: 9);
            var sifter = new PageSifter(new SentVersions((long)slots * Page.Size));
            using var builder = new PageBatchBuilder(PageBatch.Version2);
            using var decoder = new PageBatchDecoder(PageBatch.Version2);
            byte[] encoded = new byte[PageBatch.EncodedBytesMax];
            for (int round = 0; round < rounds.Length; round++)
            {
                foreach ((int page, int kind, uint seed) in rounds[round])
                {
                    Span<byte> content = source.AsSpan(page * Page.Size, Page.Size);
                    if (seed % 2 == 0)
                    {
                        PageBatchVersion1Tests.Content(kind, seed).CopyTo(content);
                    }
                    else
                    {
                        content[(int)(seed / 2 % Page.Size)]++;
                    }
                }

                builder.Begin(0, 0);
                for (int page = 0; page < Pages; page++)
                {
                    Span<byte> content = source.AsSpan(page * Page.Size, Page.Size);
                    if (ZeroTest.IsZero(content) && page % 2 == 0)
                    {
                        if (sifter.SiftZero(0, new PageNumber(page), sent))
                        {
                            builder.AddZero(new PageNumber(page));
                        }
                    }
                    else
                    {
                        content.CopyTo(builder.AddContents(new PageNumber(page), 1));
                    }
                }

                sifter.Sift(
                    builder, 0, sent, PageDelta.BytesMax, round, changes: round == 0 && slots % 2 == 0);
                if (builder.Pages > 0)
                {
                    int length = builder.Encode(encoded, BlockCoding.Lz4);
                    Apply(PageBatchReader.Parse(encoded.AsSpan(0, length), blocks, decoder), destination);
                }

                Assert.Equal(source, destination);
            }
        },
        iter: 500);

    private static void Apply(in PageBatchReader batch, byte[] memory)
    {
        foreach (PageRun run in batch)
        {
            for (int i = 0; i < run.Count; i++)
            {
                Span<byte> page = memory.AsSpan((int)(run.First.Value + i) * Page.Size, Page.Size);
                switch (run.Kind)
                {
                    case PageKind.Zero:
                        page.Clear();
                        break;
                    case PageKind.Word:
                        for (int at = 0; at < Page.Size; at += 8)
                        {
                            run.Content.Slice(i * 8, 8).CopyTo(page[at..]);
                        }

                        break;
                    case PageKind.Delta:
                        Assert.True(PageDelta.TryApply(run.Content, page));
                        break;
                    default:
                        run.Content.Slice(i * Page.Size, Page.Size).CopyTo(page);
                        break;
                }
            }
        }
    }

    // Nobody keeps what may never change; of a page that was written before its turn it is known that it does.
    [Theory]
    [InlineData(false, 2)]
    [InlineData(true, 1)]
    public void A_counter_goes_as_a_delta_of_a_version_that_was_kept_and_an_unchanged_page_not_at_all(
        bool changes, int firstDelta)
    {
        var sent = new PageFingerprints(1, seed: 9);
        var sifter = new PageSifter(new SentVersions(Page.Size));
        using var builder = new PageBatchBuilder(PageBatch.Version2);
        byte[] page = PageBatchVersion1Tests.Content(4, 1);
        PageKind?[] kinds = [.. Enumerable.Range(0, 5).Select(round =>
        {
            // Nothing is written before round 3.
            page[100] += (byte)(round == 3 ? 0 : 1);
            builder.Begin(0, 0);
            page.CopyTo(builder.AddContents(new PageNumber(0), 1));
            Assert.Equal(round == 3 ? 1 : 0, sifter.Sift(builder, 0, sent, 100, round, changes && round == 0));
            return builder.KindOf(0);
        })];
        Assert.Equal(
            [.. Enumerable.Repeat<PageKind?>(PageKind.Content, firstDelta),
                .. Enumerable.Repeat<PageKind?>(PageKind.Delta, 3 - firstDelta), null, PageKind.Delta],
            kinds);
    }

    [Fact]
    public void A_full_store_keeps_what_is_in_use_and_gives_up_what_is_not()
    {
        var versions = new SentVersions(2 * Page.Size);
        byte[] content = new byte[Page.Size];
        for (int round = 1; round < 4; round++)
        {
            for (int page = 0; page < 3; page++)
            {
                versions.Keep(0, new PageNumber(page), content, round);
            }

            Assert.True(versions.Find(0, new PageNumber(2)).IsEmpty);
        }

        versions.Keep(0, new PageNumber(2), content, 7);
        Assert.False(versions.Find(0, new PageNumber(2)).IsEmpty);
        Assert.Equal(2, versions.Count);
        versions.Forget(0, new PageNumber(2));
        Assert.Equal(1, versions.Count);
    }
}
