using CsCheck;

namespace Godwit.Pages.Tests;

public class PageBatchTests
{
    private static readonly RamBlock[] _blocks = PageBatchVersion1Tests.Blocks;
    private static readonly BlockCoding _zstd = new(BlockCoder.Zstd, 1, 20);

    private readonly PageBatchBuilder _builder = new(PageBatch.Version4);
    private readonly byte[] _encoded = new byte[PageBatch.EncodedBytesMax];
    private readonly PageBatchDecoder _decoder = new(PageBatch.Version4);

    /// <summary>What is asked for a page; content may turn out cheaper.</summary>
    private enum Asked
    {
        Zero,
        Content,
        Raw,
        Delta,
        Known,
        Changed,
        Dropped,
    }

    private sealed record Sent(long Page, Asked Asked, byte[] Old, byte[] Now);

    // Goal: the destination's pages become the source's. Method: a lane of several batches of random pages in random
    // kinds, each coded in its own way; the model destination holds the old versions and applies what it reads.
    [Fact]
    public void A_lane_rebuilds_every_page()
    {
        Gen<(int Step, Asked Asked, int Content, uint Seed)> page = Gen.Select(
            Gen.Int[1, 40], Gen.Enum<Asked>(), Gen.Int[0, 4], Gen.UInt);
        BlockCoding[] codings = [BlockCoding.Plain, BlockCoding.Lz4, _zstd, new(BlockCoder.Zstd, -3, 18)];
        Gen<BlockCoding> coding = Gen.Int[0, 3].Select(i => codings[i]);
        Gen.Select(Gen.Int[0, 2], Gen.Int[0, 31], coding, page.Array[1, 120]).Array[1, 4].Sample(
            batches =>
            {
                using var builder = new PageBatchBuilder(PageBatch.Version4);
                using var decoder = new PageBatchDecoder(PageBatch.Version4);
                foreach ((int index, int anyRegion, BlockCoding coding, var steps) in batches)
                {
                    RamBlock block = _blocks[index];
                    long region = anyRegion % Page.RegionsFor(block.PageCount);
                    List<Sent> sent = Choose(steps, block, region);
                    builder.Begin(index, region);
                    Fill(builder, sent);
                    sent.RemoveAll(s => s.Asked == Asked.Dropped);
                    Assert.Equal(sent.Count, builder.Pages);
                    if (sent.Count > 0)
                    {
                        byte[] encoded = new byte[PageBatch.EncodedBytesMax];
                        CheckBatch(encoded.AsSpan(0, builder.Encode(encoded, coding)), index, sent, decoder);
                    }
                }
            },
            iter: 1000);
    }

    private static List<Sent> Choose(
        (int Step, Asked Asked, int Content, uint Seed)[] steps, RamBlock block, long region)
    {
        var sent = new List<Sent>();
        long page = (region * Page.RegionPages) - 1;
        foreach ((int step, Asked asked, int content, uint seed) in steps)
        {
            page += step > 20 ? 1 : step;
            if (page >= Math.Min(block.PageCount, (region + 1) * Page.RegionPages)
                || sent.Count(s => s.Asked != Asked.Zero) == PageBatch.ContentPagesMax)
            {
                break;
            }

            byte[] now = asked == Asked.Zero ? new byte[Page.Size] : PageBatchVersion1Tests.Content(content, seed);
            byte[] old = [.. now];
            for (int i = 0; i < seed % 5; i++)
            {
                old[(seed / 7 * (i + 1)) % Page.Size]++;
            }

            sent.Add(new Sent(page, asked, old, now));
        }

        return sent;
    }

    private static void Fill(PageBatchBuilder builder, List<Sent> pages)
    {
        foreach (Sent page in pages)
        {
            if (page.Asked == Asked.Zero)
            {
                builder.AddZero(new PageNumber(page.Page));
                continue;
            }

            page.Now.CopyTo(builder.AddContents(new PageNumber(page.Page), 1));
            int slot = builder.Slots - 1;
            Assert.Equal(page.Page, builder.PageOf(slot).Value);
            if (page.Asked == Asked.Dropped)
            {
                builder.Drop(slot);
            }
            else if (builder.KindOf(slot) == PageKind.Content)
            {
                switch (page.Asked)
                {
                    case Asked.Raw: builder.SetRaw(slot); break;
                    case Asked.Known: builder.SetKnown(slot, NameOf(page.Now)); break;
                    case Asked.Changed: SetChanged(builder, slot, page); break;
                    case Asked.Delta:
                        bool changed = !page.Old.AsSpan().SequenceEqual(page.Now);
                        Assert.Equal(changed, builder.TrySetDelta(slot, page.Old, PageDelta.BytesMax));
                        break;
                }
            }
        }
    }

    private static void SetChanged(PageBatchBuilder builder, int slot, Sent page)
    {
        byte[] sums = new byte[PageLines.SumsBytes];
        PageLines.Sum(page.Old, sums);
        if (builder.TrySetChanged(slot, sums, PageDelta.BytesMax, out Span<byte> name))
        {
            NameOf(page.Now).CopyTo(name);
        }
    }

    private static byte[] NameOf(byte[] page) =>
        System.Security.Cryptography.SHA256.HashData(page)[..PageBatch.NameBytes];

    private static void CheckBatch(ReadOnlySpan<byte> encoded, int block, List<Sent> sent, PageBatchDecoder decoder)
    {
        PageBatchReader batch = PageBatchReader.Parse(encoded, _blocks, decoder);
        Assert.Equal(block, batch.BlockIndex);
        Assert.Equal(sent.Count, batch.Pages);
        int i = 0;
        foreach (PageRun run in batch)
        {
            for (int inRun = 0; inRun < run.Count; inRun++, i++)
            {
                Assert.Equal(sent[i].Page, run.First.Value + inRun);
                CheckPage(run, inRun, sent[i]);
            }
        }

        Assert.Equal(sent.Count, i);
    }

    private static void CheckPage(in PageRun run, int inRun, Sent sent)
    {
        ReadOnlySpan<byte> content = run.Content;
        switch (run.Kind)
        {
            case PageKind.Zero:
                Assert.True(ZeroTest.IsZero(sent.Now));
                break;
            case PageKind.Word:
                Assert.Equal(PageClass.Word, PageClassifier.Classify(sent.Now));
                Assert.Equal(sent.Now.AsSpan(0, 8), content.Slice(inRun * 8, 8));
                break;
            case PageKind.Known:
                Assert.Equal(NameOf(sent.Now), content.Slice(inRun * 16, 16));
                break;
            case PageKind.Changed or PageKind.Delta:
                Assert.Equal(run.Kind == PageKind.Changed ? NameOf(sent.Now) : [], run.Name.ToArray());
                byte[] page = [.. sent.Old];
                Assert.True(PageDelta.TryApply(content, page));
                Assert.Equal(
                    run.Kind == PageKind.Changed ? PageLinesTests.AsFarAsSeen(sent.Old, sent.Now) : sent.Now, page);
                break;
            default:
                Assert.Equal(sent.Now, content.Slice(inRun * Page.Size, Page.Size));
                break;
        }
    }

    [Fact]
    public void A_region_of_zero_pages_costs_the_header_and_a_byte()
    {
        _builder.Begin(0, 3);
        for (int i = 0; i < Page.RegionPages; i++)
        {
            _builder.AddZero(new PageNumber((3 * Page.RegionPages) + i));
        }

        Assert.Equal(PageBatch.HeaderBytes + 1, _builder.Encode(_encoded, BlockCoding.Lz4));
    }

    [Fact]
    public void A_page_of_one_word_costs_the_word()
    {
        _builder.Begin(0, 0);
        _builder.AddContents(new PageNumber(0), 64).Fill(7);
        Assert.Equal(PageBatch.HeaderBytes + 1 + (64 * 8), _builder.Encode(_encoded, BlockCoding.Plain));
    }

    [Fact]
    public void Content_that_does_not_shrink_travels_plain_and_within_the_limit()
    {
        foreach (BlockCoding coding in new[] { BlockCoding.Plain, BlockCoding.Lz4, _zstd })
        {
            _builder.Begin(0, 0);
            new Random(3).NextBytes(_builder.AddContents(new PageNumber(0), 64));
            int length = _builder.Encode(_encoded, coding);
            Assert.InRange(length, PageBatch.RawBytesMax, PageBatch.RawBytesMax + 64);
            Assert.Equal(64, PageBatchReader.Parse(_encoded.AsSpan(0, length), _blocks, _decoder).Pages);
        }
    }

    // Goal: what a lane has sent makes what it sends next cheap. Method: pages of noise, again a megabyte later.
    [Fact]
    public void A_page_sent_a_megabyte_ago_is_referred_to()
    {
        var noise = new Random(5);
        byte[] pages = new byte[16 * Page.Size];
        noise.NextBytes(pages);
        var lengths = new List<int>();
        for (int i = 0; i < 6; i++)
        {
            _builder.Begin(0, i);
            Span<byte> contents = _builder.AddContents(new PageNumber(i * Page.RegionPages), 64);
            noise.NextBytes(contents);
            if (i is 0 or 5)
            {
                pages.CopyTo(contents);
            }

            lengths.Add(_builder.Encode(_encoded, new BlockCoding(BlockCoder.Zstd, 1, 23)));
            Assert.Equal(64, PageBatchReader.Parse(_encoded.AsSpan(0, lengths[i]), _blocks, _decoder).Pages);
        }

        Assert.InRange(lengths[5], 48 * Page.Size, 49 * Page.Size);
    }

    [Fact]
    public void Misuse_of_the_builder_is_refused()
    {
        Assert.Throws<ArgumentOutOfRangeException>(
            () => new PageBatchBuilder(PageBatch.Version2).AddZero(new PageNumber(0)));
        _builder.Begin(0, 1);
        Assert.Throws<InvalidOperationException>(() => _builder.Encode(_encoded, BlockCoding.Plain));
        Assert.Throws<ArgumentOutOfRangeException>(() => _builder.AddZero(new PageNumber(511)));
        Assert.Throws<ArgumentOutOfRangeException>(() => _builder.SetRaw(0));
        _builder.AddContents(new PageNumber(600), 1).Fill(1);
        Assert.Equal(PageKind.Word, _builder.KindOf(0));
        Assert.Throws<InvalidOperationException>(() => _builder.SetRaw(0));
        Assert.Throws<ArgumentException>(() => _builder.SetKnown(0, new byte[15]));
        _builder.Drop(0);
        _builder.Drop(0);
        Assert.Null(_builder.KindOf(0));
        Assert.Equal(0, _builder.Pages);
        Assert.Throws<InvalidOperationException>(() => _builder.Encode(_encoded, BlockCoding.Plain));
    }

    // A peer of an older version would not know what to do with it.
    [Fact]
    public void Changed_pages_come_with_version_4()
    {
        byte[] page = PageBatchVersion1Tests.Content(3, 1);
        byte[] sums = new byte[PageLines.SumsBytes];
        PageLines.Sum(page, sums);
        page[1]++;
        using var older = new PageBatchBuilder(PageBatch.Version4 - 1);
        using var olderDecoder = new PageBatchDecoder(PageBatch.Version4 - 1);
        foreach (PageBatchBuilder builder in new[] { older, _builder })
        {
            builder.Begin(0, 0);
            page.CopyTo(builder.AddContents(new PageNumber(0), 1));
        }

        Assert.Throws<InvalidOperationException>(() => older.TrySetChanged(0, sums, PageDelta.BytesMax, out _));
        Assert.True(_builder.TrySetChanged(0, sums, PageDelta.BytesMax, out Span<byte> name));
        Assert.Equal(PageBatch.NameBytes, name.Length);
        byte[] batch = _encoded[.._builder.Encode(_encoded, BlockCoding.Plain)];
        Assert.Equal(1, PageBatchReader.Parse(batch, _blocks, _decoder).Pages);
        Assert.Throws<StreamFormatException>(() => { PageBatchReader.Parse(batch, _blocks, olderDecoder); });
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
    [InlineData("coder", 10)]
    [InlineData("raw-length-short", 11)]
    [InlineData("raw-length-long", 11)]
    [InlineData("first-bit", 16)]
    [InlineData("last-bit", 16)]
    [InlineData("stray-bit", 15)]
    [InlineData("kind", 17)]
    [InlineData("stray-kind", 18)]
    [InlineData("one-kind", 16)]
    [InlineData("short-word", 19)]
    [InlineData("lz4", 43)]
    [InlineData("delta-length", 43)]
    [InlineData("delta-bytes", 43)]
    [InlineData("header", 0)]
    public void Each_broken_rule_is_refused_at_its_place(string rule, long offset)
    {
        // Span 6, pages 5: word, content, delta, known, zero.
        _builder.Begin(2, 1);
        _builder.AddContents(new PageNumber(600), 1).Fill(1);
        PageBatchVersion1Tests.Content(3, 1).CopyTo(_builder.AddContents(new PageNumber(601), 1));
        byte[] old = PageBatchVersion1Tests.Content(3, 2);
        Span<byte> changed = _builder.AddContents(new PageNumber(602), 1);
        old.CopyTo(changed);
        changed[100] ^= 0xFF;
        PageBatchVersion1Tests.Content(3, 3).CopyTo(_builder.AddContents(new PageNumber(603), 1));
        Assert.True(_builder.TrySetDelta(2, old, 100));
        _builder.SetKnown(3, new byte[16]);
        _builder.AddZero(new PageNumber(605));
        bool plain = rule.StartsWith("delta", StringComparison.Ordinal);
        byte[] batch = _encoded[.._builder.Encode(_encoded, plain ? BlockCoding.Plain : BlockCoding.Lz4)];
        PageBatchReader.Parse(batch, _blocks, _decoder);
        switch (rule)
        {
            case "block": batch[0] = 3; break;
            case "region": batch[2] = 2; break;
            case "first": batch[7] = 2; break;
            // Block "odd" ends at page 777, 177 pages after the first one here.
            case "span": batch[8] = 178; break;
            case "span-zero": batch[8] = 0; break;
            case "flags-unknown": batch[10] |= 0x08; break;
            case "coder": batch[10] = 0x30; break;
            // Less than a page; more than two.
            case "raw-length-short": batch[12] = 0x0F; break;
            case "raw-length-long": batch[12] = 0x21; break;
            case "first-bit": batch[15] ^= 0x01; break;
            case "last-bit": batch[15] ^= 0x20; break;
            case "stray-bit": batch[15] |= 0x40; break;
            case "kind": batch[17] = 0x77; break;
            case "stray-kind": batch[18] |= 0x10; break;
            // The byte that held two kinds holds one that does not exist.
            case "one-kind": batch[10] |= 0x02; break;
            case "short-word": batch = batch[..26]; break;
            case "lz4": batch.AsSpan(43).Fill(0xFF); break;
            case "delta-length": batch[43 + 4096] = 2; break;
            case "delta-bytes": batch[43 + 4096] = 5; break;
            case "header": batch = batch[..14]; break;
        }

        StreamFormatException e = Assert.Throws<StreamFormatException>(
            () => { PageBatchReader.Parse(batch, _blocks, _decoder); });
        Assert.Equal(offset, e.Offset);
    }

    [Theory]
    [InlineData(PageKind.Content)]
    [InlineData(PageKind.Raw)]
    [InlineData(PageKind.Delta)]
    [InlineData(PageKind.Changed)]
    public void Too_many_content_pages_are_refused_before_anything_is_decoded(PageKind kind)
    {
        byte[] batch = new byte[PageBatch.EncodedBytesMax];
        PageBatch.WriteHeader(batch, new PageBatchHeader(0, 0, 0, 65, 0x03, 65 * Page.Size));
        batch[PageBatch.HeaderBytes] = (byte)kind;
        StreamFormatException e = Assert.Throws<StreamFormatException>(
            () => { PageBatchReader.Parse(batch, _blocks, _decoder); });
        Assert.Contains("65", e.Message, StringComparison.Ordinal);
        Assert.Contains("64", e.Message, StringComparison.Ordinal);
    }

    // Goal: a peer cannot make a lane keep more than the window. Method: a frame that asks for twice as much.
    [Fact]
    public void A_stream_with_too_wide_a_window_is_refused()
    {
        _builder.Begin(0, 0);
        PageBatchVersion1Tests.Content(3, 1).CopyTo(_builder.AddContents(new PageNumber(0), 1));
        byte[] batch = _encoded[.._builder.Encode(_encoded, new BlockCoding(BlockCoder.Zstd, 1, Zstd.WindowLogMax))];
        PageBatchReader.Parse(batch, _blocks, _decoder);
        _decoder.Reset();
        // RFC 8878, 3.1.1.1.2: the exponent stands in the window descriptor's upper five bits, less 10.
        int descriptor = PageBatch.HeaderBytes + 1 + 5;
        Assert.Equal((Zstd.WindowLogMax - 10) << 3, batch[descriptor]);
        batch[descriptor] += 1 << 3;
        Assert.Throws<StreamFormatException>(() => { PageBatchReader.Parse(batch, _blocks, _decoder); });
    }

    [Fact]
    public void Batches_cost_no_allocation()
    {
        byte[] text = PageBatchVersion1Tests.Content(3, 5);
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
                        continue;
                    }

                    Span<byte> content = _builder.AddContents(number, 1);
                    text.CopyTo(content);
                    if (page % 3 == 1)
                    {
                        content[i] ^= 0xFF;
                        Assert.True(_builder.TrySetDelta(_builder.Slots - 1, text, 100));
                    }
                }

                BlockCoding coding = i == 0 ? new(BlockCoder.Zstd, 3, 20) : i % 2 == 0 ? BlockCoding.Lz4 : _zstd;
                Span<byte> batch = _encoded.AsSpan(0, _builder.Encode(_encoded, coding));
                foreach (PageRun run in PageBatchReader.Parse(batch, _blocks, _decoder))
                {
                    pages += run.Count;
                }
            }

            return pages;
        }
    }
}
