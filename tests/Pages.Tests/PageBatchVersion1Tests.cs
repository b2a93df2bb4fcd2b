using System.Buffers.Binary;
using CsCheck;

namespace Godwit.Pages.Tests;

// What a neighbour one version behind writes and reads.
public class PageBatchVersion1Tests
{
    internal static readonly RamBlock[] Blocks =
    [
        new(0, "pc.ram", 64L << 20), new(1, "pc.bios", 256 << 10), new(2, "odd", 777 * Page.Size),
    ];

    private readonly PageBatchBuilder _builder = new(PageBatch.Version1);
    private readonly byte[] _encoded = new byte[PageBatch.EncodedBytesMax];
    private readonly PageBatchDecoder _decoder = new(PageBatch.Version1);

    // Goal: decoding gives back what was coded. Method: random pages of a random region in all kinds (zero by name,
    // zero by content, compressible, random), compressed or not.
    [Fact]
    public void Decoding_is_the_inverse_of_encoding()
    {
        Gen<(int Block, int Region)> where = Gen.Select(Gen.Int[0, 2], Gen.Int[0, 31]);
        Gen.Select(where, Gen.Select(Gen.Int[1, 40], Gen.Int[0, 4], Gen.UInt).Array[1, 120], Gen.Bool).Sample(
            (place, kinds, compress) =>
            {
                RamBlock block = Blocks[place.Block];
                long region = place.Region % Page.RegionsFor(block.PageCount);
                using var builder = new PageBatchBuilder(PageBatch.Version1);
                builder.Begin(block.Index, region);
                var expected = new List<(long Page, bool KnownZero, byte[] Content)>();
                long page = (region * Page.RegionPages) - 1;
                foreach ((int step, int kind, uint seed) in kinds)
                {
                    page += step > 20 ? 1 : step;
                    if (page >= Math.Min(block.PageCount, (region + 1) * Page.RegionPages)
                        || expected.Count(e => !e.KnownZero) == PageBatch.ContentPagesMax)
                    {
                        break;
                    }

                    expected.Add((page, kind == 0, Content(kind, seed)));
                }

                if (expected.Count == 0)
                {
                    return;
                }

                Add(expected, builder);
                byte[] encoded = Encode(builder, compress);
                using var decoder = new PageBatchDecoder(PageBatch.Version1);
                PageBatchReader batch = PageBatchReader.Parse(encoded, Blocks, decoder);
                Assert.Equal(block.Index, batch.BlockIndex);
                Assert.Equal(expected.Count, batch.Pages);
                int i = 0;
                foreach (PageRun run in batch)
                {
                    Assert.Equal(run.Kind == PageKind.Zero ? 0 : run.Count * Page.Size, run.Content.Length);
                    for (int inRun = 0; inRun < run.Count; inRun++, i++)
                    {
                        Assert.Equal(expected[i].Page, run.First.Value + inRun);
                        Assert.Equal(run.Kind == PageKind.Zero, ZeroTest.IsZero(expected[i].Content));
                        Assert.True(
                            run.Kind == PageKind.Zero
                            || run.Content.Slice(inRun * Page.Size, Page.Size).SequenceEqual(expected[i].Content));
                    }
                }

                Assert.Equal(expected.Count, i);
            },
            iter: 1000);
    }

    internal static byte[] Encode(PageBatchBuilder builder, bool compress)
    {
        byte[] encoded = new byte[PageBatch.EncodedBytesMax];
        return encoded[..builder.Encode(encoded, compress ? BlockCoding.Lz4 : BlockCoding.Plain)];
    }

    // Consecutive pages with content in one call, as a lane adds them.
    private static void Add(List<(long Page, bool KnownZero, byte[] Content)> pages, PageBatchBuilder to)
    {
        for (int i = 0; i < pages.Count;)
        {
            if (pages[i].KnownZero)
            {
                to.AddZero(new PageNumber(pages[i++].Page));
                continue;
            }

            int end = i + 1;
            while (end < pages.Count && !pages[end].KnownZero && pages[end].Page == pages[end - 1].Page + 1)
            {
                end++;
            }

            Span<byte> slots = to.AddContents(new PageNumber(pages[i].Page), end - i);
            for (; i < end; i++, slots = slots[Page.Size..])
            {
                pages[i].Content.CopyTo(slots);
            }
        }
    }

    [Fact]
    public void A_region_of_zero_pages_costs_the_header_alone()
    {
        _builder.Begin(0, 3);
        for (int i = 0; i < Page.RegionPages; i++)
        {
            _builder.AddZero(new PageNumber((3 * Page.RegionPages) + i));
        }

        Assert.Equal(PageBatch.HeaderBytesVersion1, _builder.Encode(_encoded, BlockCoding.Lz4));
    }

    [Fact]
    public void Content_that_does_not_shrink_travels_raw_and_within_the_limit()
    {
        _builder.Begin(0, 0);
        var random = new Random(3);
        for (int i = 0; i < Page.RegionPages; i++)
        {
            if (i % 8 == 0)
            {
                random.NextBytes(_builder.AddContents(new PageNumber(i), 1));
            }
            else if (i % 8 < 4 || i == Page.RegionPages - 1)
            {
                _builder.AddZero(new PageNumber(i));
            }
        }

        int bitmaps = (Page.RegionPages / 8) + ((_builder.Pages + 7) / 8);
        int length = _builder.Encode(_encoded, BlockCoding.Lz4);
        Assert.Equal(PageBatch.HeaderBytesVersion1 + bitmaps + PageBatch.RawBytesMax, length);
        Assert.InRange(length, 1, PageBatch.EncodedBytesMax);
    }

    [Fact]
    public void Pages_that_prove_to_be_zero_cost_no_content()
    {
        _builder.Begin(0, 0);
        _builder.AddContents(new PageNumber(0), PageBatch.ContentPagesMax).Clear();
        Assert.Equal(PageBatch.ContentPagesMax, _builder.Pages);
        Assert.Equal(PageBatch.HeaderBytesVersion1, _builder.Encode(_encoded, BlockCoding.Plain));
    }

    [Fact]
    public void What_it_does_not_know_is_refused()
    {
        _builder.Begin(0, 0);
        _builder.AddContents(new PageNumber(0), 1).Fill(1);
        Assert.Throws<InvalidOperationException>(() => _builder.SetRaw(0));
        Assert.Throws<InvalidOperationException>(
            () => _builder.Encode(_encoded, new BlockCoding(BlockCoder.Zstd, 1, 20)));
        byte[] batch = Encode(_builder, compress: true);
        using var later = new PageBatchDecoder(PageBatch.Version2);
        Assert.Throws<StreamFormatException>(() => { PageBatchReader.Parse(batch, Blocks, later); });
    }

    [Fact]
    public void Misuse_of_the_builder_is_refused()
    {
        Assert.Throws<ArgumentOutOfRangeException>(
            () => new PageBatchBuilder(PageBatch.Version1).AddZero(new PageNumber(0)));
        _builder.Begin(0, 1);
        Assert.Throws<InvalidOperationException>(() => _builder.Encode(_encoded, BlockCoding.Plain));
        Assert.Throws<ArgumentOutOfRangeException>(() => _builder.AddZero(new PageNumber(511)));
        Assert.Throws<ArgumentOutOfRangeException>(() => _builder.AddZero(new PageNumber(1024)));
        _builder.AddZero(new PageNumber(600));
        Assert.Throws<ArgumentOutOfRangeException>(() => _builder.AddZero(new PageNumber(600)));
        for (int i = 0; i < PageBatch.ContentPagesMax; i++)
        {
            Assert.True(_builder.HasRoom);
            _builder.AddContents(new PageNumber(700 + i), 1).Fill(1);
        }

        Assert.False(_builder.HasRoom);
        Assert.Throws<InvalidOperationException>(() => { _ = _builder.AddContents(new PageNumber(900), 1); });
        _builder.AddZero(new PageNumber(900));
        Assert.Throws<ArgumentException>(() => _builder.Encode(_encoded.AsSpan(1), BlockCoding.Plain));
    }

    // Goal: each rule of the format is enforced, at the offset of the field that breaks it. Method: one good batch
    // per case with exactly one thing wrong.
    [Theory]
    [InlineData("block", 0)]
    [InlineData("region", 2)]
    [InlineData("first", 6)]
    [InlineData("span", 8)]
    [InlineData("span-zero", 8)]
    [InlineData("flags-unknown", 10)]
    [InlineData("flags-both", 10)]
    [InlineData("coder", 10)]
    [InlineData("raw-length", 11)]
    [InlineData("coded-length", 15)]
    [InlineData("short", 15)]
    [InlineData("long", 15)]
    [InlineData("first-bit", 20)]
    [InlineData("last-bit", 20)]
    [InlineData("stray-bit", 19)]
    [InlineData("stray-zero-bit", 20)]
    [InlineData("lz4", 21)]
    [InlineData("header", 0)]
    public void Each_broken_rule_is_refused_at_its_place(string rule, long offset)
    {
        _builder.Begin(2, 1);
        // Span 5, pages 4: presence 10111, zeros 0010.
        _builder.AddContents(new PageNumber(600), 1).Fill(1);
        _builder.AddContents(new PageNumber(601), 1).Fill(2);
        _builder.AddZero(new PageNumber(602));
        _builder.AddContents(new PageNumber(604), 1).Fill(3);
        byte[] batch = Encode(_builder, compress: true);
        PageBatchReader.Parse(batch, Blocks, _decoder);
        switch (rule)
        {
            case "block": batch[0] = 3; break;
            case "region": batch[2] = 2; break;
            case "first": batch[7] = 2; break;
            // Block "odd" ends at page 777, 177 pages after the first one here.
            case "span": batch[8] = 178; break;
            case "span-zero": batch[8] = 0; break;
            case "flags-unknown": batch[10] |= 0x08; break;
            case "flags-both": batch[10] |= 0x06; break;
            case "coder": batch[10] = 0x20; break;
            case "raw-length": batch[12] ^= 0x10; break;
            case "coded-length": batch[15]++; break;
            case "short": batch = batch[..^1]; break;
            case "long": batch = [.. batch, 0]; break;
            case "first-bit": batch[19] ^= 0x01; break;
            case "last-bit": batch[19] ^= 0x10; break;
            case "stray-bit": batch[19] |= 0x20; break;
            case "stray-zero-bit": batch[20] |= 0x10; break;
            case "lz4": batch.AsSpan(21).Fill(0xFF); break;
            case "header": batch = batch[..18]; break;
        }

        StreamFormatException e = Assert.Throws<StreamFormatException>(
            () => { PageBatchReader.Parse(batch, Blocks, _decoder); });
        Assert.Equal(offset, e.Offset);
    }

    [Fact]
    public void Too_many_content_pages_are_refused_before_anything_is_decoded()
    {
        byte[] batch = new byte[PageBatch.EncodedBytesMax];
        PageBatch.WriteHeader(batch, new PageBatchHeader(0, 0, 0, 65, 0x05, 65 * Page.Size));
        StreamFormatException e = Assert.Throws<StreamFormatException>(
            () => { PageBatchReader.Parse(batch, Blocks, _decoder); });
        Assert.Contains("65", e.Message, StringComparison.Ordinal);
        Assert.Contains("64", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Batches_cost_no_allocation()
    {
        byte[] text = Content(3, 5);
        long pages = 0;
        Assert.Equal(0, Allocations.Least(() => pages = Run(text)));
        Assert.Equal(20 * 96, pages);

        long Run(ReadOnlySpan<byte> text)
        {
            long pages = 0;
            for (int i = 0; i < 20; i++)
            {
                _builder.Begin(0, i);
                for (int page = 0; page < 96; page++)
                {
                    var number = new PageNumber((i * Page.RegionPages) + (page * 2));
                    if (page % 3 == 0)
                    {
                        _builder.AddZero(number);
                    }
                    else
                    {
                        text.CopyTo(_builder.AddContents(number, 1));
                    }
                }

                Span<byte> batch = _encoded.AsSpan(0, _builder.Encode(_encoded, BlockCoding.Lz4));
                foreach (PageRun run in PageBatchReader.Parse(batch, Blocks, _decoder))
                {
                    pages += run.Count;
                }
            }

            return pages;
        }
    }

    internal static byte[] Content(int kind, uint seed)
    {
        byte[] page = new byte[Page.Size];
        switch (kind)
        {
            case 2:
                BinaryPrimitives.WriteUInt32LittleEndian(page.AsSpan((int)(seed % 4093)), seed | 1);
                break;
            case 3:
                for (int i = 0; i < page.Length; i++)
                {
                    page[i] = (byte)("godwit flies far "[(i + (int)(seed % 17)) % 17] + (i % 97 == 0 ? 1 : 0));
                }

                break;
            case 4:
                new Random((int)seed).NextBytes(page);
                break;
        }

        return page;
    }
}
