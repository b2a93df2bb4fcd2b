using Godwit.GuestStreams.Qemu;
using Godwit.Pages;

namespace Godwit.GuestStreams.Tests;

public class QemuStreamReaderTests
{
    public static TheoryData<string> AllVectors => [.. Vectors.Names];

    [Theory]
    [MemberData(nameof(AllVectors))]
    public void Understands_a_whole_stream_of_real_QEMU(string name)
    {
        Transcript t = Transcript.Of(Vectors.Load(name));
        QemuStreamHead head = t.Head!;
        Assert.StartsWith(name[..name.IndexOf('-', StringComparison.Ordinal)], head.Machine["pc-".Length..]
            .Replace("i440fx", "pc", StringComparison.Ordinal), StringComparison.Ordinal);
        Assert.Equal("pc.ram", head.Blocks[0].Name);
        Assert.Equal(16 << 20, head.Blocks[0].Length);
        Assert.Equal(head.Blocks.Select((_, i) => i), head.Blocks.Select(b => b.Index));
        Assert.Equal(name.Contains("postcopy", StringComparison.Ordinal), head.PostcopyAdvised);
        Assert.Equal(name == Vectors.SharedLeftOut, head.SharedBlocksLeftOut);
        // A first pass names every page of every block that travels.
        IEnumerable<RamBlock> travelling = head.Blocks.Skip(name == Vectors.SharedLeftOut ? 1 : 0);
        Assert.Equal(travelling.Sum(b => b.PageCount), t.Newest.Count);
        Assert.Equal(t.PageRecords, t.Sections.Sum(s => (long)s.Pages));
        Assert.Equal(1, t.Sections.Count(s => s.Final));
        Assert.True(t.Sections[^1].Final);
        Assert.Equal(0x04, t.Tail[0]);
        Assert.InRange(t.Tail.Length, 10_000, 1_000_000);
    }

    [Fact]
    public void A_running_guest_on_a_return_path_sends_commands_and_pages_again()
    {
        Transcript t = Transcript.Of(Vectors.Load(Vectors.Running));
        Assert.Equal(
            [QemuCommand.OpenReturnPath, QemuCommand.Ping, QemuCommand.SwitchoverStart], t.Commands);
        Assert.True(t.Sections.Count > 10, $"{t.Sections.Count} sections");
        Assert.True(t.PageRecords > t.Newest.Count, "no page came twice, so nothing was dirtied in between");
    }

    // Goal: how the bytes are cut never matters. Method: two pieces at every offset of the stream's beginning, two
    // pieces at every offset around the first byte of device state, pieces of seeded random lengths over the whole,
    // and byte by byte over the whole.
    [Theory]
    [MemberData(nameof(AllVectors))]
    public void Any_cut_gives_the_same_callbacks(string name)
    {
        byte[] stream = Vectors.Load(name);
        ReadOnlySpan<byte> beginning = stream.AsSpan(0, 6000);
        string expected = Transcript.Of(beginning).Digest();
        for (int cut = 1; cut < beginning.Length; cut++)
        {
            Assert.True(expected == Transcript.Of(beginning, cut).Digest(), $"cut at {cut}");
        }

        Transcript whole = Transcript.Of(stream);
        expected = whole.Digest();
        int tail = stream.Length - whole.Tail.Length;
        for (int cut = tail - 40; cut < tail + 20; cut++)
        {
            Assert.True(expected == Transcript.Of(stream, cut).Digest(), $"cut at {cut}");
        }

        var random = new Random(17);
        foreach (int longest in new[] { 1, 1, 9, 40, 4096, 4200, 9000, 70_000 })
        {
            var transcript = new Transcript();
            var reader = new QemuStreamReader(transcript);
            for (int at = 0; at < stream.Length;)
            {
                int length = Math.Min(stream.Length - at, random.Next(1, longest + 1));
                reader.Feed(stream.AsSpan(at, length));
                at += length;
            }

            Assert.True(expected == transcript.Digest(), $"pieces of up to {longest} bytes");
            Assert.Equal(stream.Length, reader.Offset);
        }
    }

    [Fact]
    public void The_prologue_and_each_section_are_reported_without_waiting_for_the_footer()
    {
        byte[] stream = Vectors.Load(Vectors.Running);
        Transcript whole = Transcript.Of(stream);
        Transcript early = Transcript.Of(stream.AsSpan(0, whole.Prologue.Length));
        Assert.Equal(whole.Prologue, early.Prologue);
        Assert.Equal(stream[..whole.Prologue.Length], early.Prologue);
        // Five bytes of footer lie between the end of the last section and the first byte of device state.
        Transcript ended = Transcript.Of(stream.AsSpan(0, stream.Length - whole.Tail.Length - 5));
        Assert.True(ended.Sections[^1].Final);
    }

    [Theory]
    [MemberData(nameof(AllVectors))]
    public void A_rewritten_stream_says_the_same(string name)
    {
        byte[] stream = Vectors.Load(name);
        Transcript before = Transcript.Of(stream);
        Transcript after = Transcript.Of(Rewriter.Rewrite(stream, 5));
        Assert.Equal(before.Newest.Count, after.PageRecords);
        foreach (((int, long) page, byte[] content) in before.Newest)
        {
            Assert.Equal(content, after.Newest[page]);
        }

        Assert.Equal(before.Tail, after.Tail);
        Assert.Equal(before.Prologue, after.Prologue);
    }

    [Fact]
    public void The_writer_refuses_what_would_derail_QEMU()
    {
        RamBlock block = new(0, "a", 2 * Page.Size);
        var output = new System.Buffers.ArrayBufferWriter<byte>();
        var writer = new QemuStreamWriter(output, new QemuStreamHead("pc", 1, [block]));
        Assert.Throws<ArgumentException>(() => writer.Page(block, new PageNumber(0), new byte[Page.Size - 1]));
        Assert.Throws<ArgumentException>(() => writer.Page(block, new PageNumber(0), []));
        Assert.Throws<ArgumentOutOfRangeException>(() => writer.Page(block, new PageNumber(2), new byte[Page.Size]));
        Assert.Throws<ArgumentOutOfRangeException>(() => writer.ZeroPage(block, new PageNumber(-1)));
        Assert.Equal(0, output.WrittenCount);
    }

    [Fact]
    public void Pages_cost_no_allocation()
    {
        byte[] stream = Vectors.Load("q35-10.0");
        int tail = stream.Length - Transcript.Of(stream).Tail.Length;
        // The head of a stream is kept; what its pages cost is counted behind it.
        var readers = new Queue<QemuStreamReader>();
        for (int i = 0; i < Allocations.Runs; i++)
        {
            var reader = new QemuStreamReader(new Silent());
            reader.Feed(stream.AsSpan(0, 4000));
            readers.Enqueue(reader);
        }

        long least = Allocations.Least(() =>
        {
            QemuStreamReader reader = readers.Dequeue();
            for (int at = 4000; at < tail; at += 1000)
            {
                reader.Feed(stream.AsSpan(at, Math.Min(1000, tail - at)));
            }
        });
        Assert.Equal(0, least);
    }

    private sealed class Silent : IQemuStreamSink
    {
        public void Prologue(ReadOnlySpan<byte> verbatim, QemuStreamHead head) { }
        public void Page(int blockIndex, PageNumber page, ReadOnlySpan<byte> content) { }
        public void SectionEnd(bool final, int pages) { }
        public void Command(ushort number, ReadOnlySpan<byte> payload) { }
        public void Tail(ReadOnlySpan<byte> verbatim) { }
    }

    // QEMU's loadvm_postcopy_ram_handle_discard: version, name, zero, be64 start and length in bytes.
    [Fact]
    public void A_discard_names_block_start_and_length()
    {
        var block = new RamBlock(0, "pc.ram", 8 * Page.Size);
        var output = new System.Buffers.ArrayBufferWriter<byte>();
        new QemuStreamWriter(output, new QemuStreamHead("pc", 1, [block])).Discard(block, new PageNumber(3), 2);
        Assert.Equal(
            "08000600" + "19" + "00" + "06" + Convert.ToHexString("pc.ram"u8) + "00" + "0000000000003000"
            + "0000000000002000", Convert.ToHexString(output.WrittenSpan));
    }
}
