using System.Buffers;
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
        Assert.Equal("pc.ram", t.Head!.Blocks[0].Name);
        Assert.Equal(16 << 20, t.Head.Blocks[0].Length);
        Assert.StartsWith("pc-q35-", t.Head.Machine, StringComparison.Ordinal);
        // Every page of every block is named at least once in a first pass.
        Assert.Equal(t.Head.Blocks.Sum(b => b.PageCount), t.Pages.Count);
        Assert.True(t.TailBytes > 10_000, $"{t.TailBytes} bytes of device state");
        Assert.Equal(1, t.FinalSections);
    }

    // Goal: how the bytes are cut never matters. Method: two pieces at every offset of the head and of the first
    // records, then pieces of seeded random lengths over the whole, then byte by byte over the head.
    [Theory]
    [MemberData(nameof(AllVectors))]
    public void Any_cut_gives_the_same_callbacks(string name)
    {
        byte[] stream = Vectors.Load(name);
        string whole = Transcript.Of(stream).ToString();
        for (int cut = 1; cut < 2000; cut++)
        {
            Assert.Equal(whole, Transcript.Of(stream, cut).ToString());
        }

        var random = new Random(17);
        for (int run = 0; run < 20; run++)
        {
            var transcript = new Transcript();
            var reader = new QemuStreamReader(transcript);
            for (int at = 0; at < stream.Length;)
            {
                int length = Math.Min(stream.Length - at, random.Next(1, run < 10 ? 40 : 9000));
                reader.Feed(stream.AsSpan(at, length));
                at += length;
            }

            Assert.Equal(whole, transcript.ToString());
        }

        var single = new Transcript();
        var bytewise = new QemuStreamReader(single);
        for (int i = 0; i < stream.Length; i++)
        {
            bytewise.Feed(stream.AsSpan(i, 1));
        }

        Assert.Equal(whole, single.ToString());
    }

    [Theory]
    [MemberData(nameof(AllVectors))]
    public void A_rewritten_stream_says_the_same(string name)
    {
        byte[] rewritten = Rewriter.Rewrite(Vectors.Load(name));
        Transcript before = Transcript.Of(Vectors.Load(name));
        Transcript after = Transcript.Of(rewritten);
        Assert.Equal(before.PagesDigest(), after.PagesDigest());
        Assert.Equal(before.TailDigest(), after.TailDigest());
    }

    // Goal: hostile bytes cost the stream its life and this process nothing. Method: seeded flips, cuts and
    // repetitions of real streams; the reader may only finish or raise its own exception.
    [Theory]
    [MemberData(nameof(AllVectors))]
    public void Mangled_streams_are_refused_or_read_but_never_hurt(string name)
    {
        byte[] stream = Vectors.Load(name);
        var random = new Random(4711);
        int refused = 0;
        for (int run = 0; run < 400; run++)
        {
            byte[] mangled = stream.AsSpan(0, random.Next(1, 60_000)).ToArray();
            for (int flips = random.Next(1, 6); flips > 0; flips--)
            {
                mangled[random.Next(Math.Min(mangled.Length, 1 << random.Next(4, 16)))] = (byte)random.Next(256);
            }

            try
            {
                new QemuStreamReader(new Transcript()).Feed(mangled);
            }
            catch (StreamFormatException e)
            {
                refused++;
                Assert.InRange(e.Offset, 0, mangled.Length);
            }
        }

        Assert.True(refused > 100, $"only {refused} of 400 mangled streams were refused");
    }

    [Fact]
    public void A_page_costs_no_allocation()
    {
        byte[] stream = Vectors.Load(Vectors.Names[0]);
        var reader = new QemuStreamReader(new Silent());
        reader.Feed(stream.AsSpan(0, 100_000));
        long before = GC.GetAllocatedBytesForCurrentThread();
        reader.Feed(stream.AsSpan(100_000, 150_000));
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 10_000);
    }

    private sealed class Silent : IQemuStreamSink
    {
        public void Prologue(ReadOnlySpan<byte> verbatim, QemuStreamHead head) { }
        public void Page(int blockIndex, PageNumber page, ReadOnlySpan<byte> content) { }
        public void SectionEnd(bool final, int pages) { }
        public void Command(ushort number, ReadOnlySpan<byte> payload) { }
        public void Tail(ReadOnlySpan<byte> verbatim) { }
    }
}

/// <summary>Everything a reader reported, in a form that can be compared.</summary>
internal sealed class Transcript : IQemuStreamSink
{
    private readonly List<string> _calls = [];
    private readonly MemoryStream _tail = new();

    public QemuStreamHead? Head { get; private set; }
    public Dictionary<(int Block, long Page), ulong> Pages { get; } = [];
    public int FinalSections { get; private set; }
    public long TailBytes => _tail.Length;

    public static Transcript Of(byte[] stream, int cut = 0)
    {
        var transcript = new Transcript();
        var reader = new QemuStreamReader(transcript);
        reader.Feed(stream.AsSpan(0, cut));
        reader.Feed(stream.AsSpan(cut));
        return transcript;
    }

    public string PagesDigest() =>
        string.Join('\n', Pages.OrderBy(p => p.Key).Select(p => $"{p.Key.Block} {p.Key.Page} {p.Value:x}"));

    public string TailDigest() => Convert.ToHexString(System.Security.Cryptography.SHA256.HashData(_tail.ToArray()));

    public override string ToString() => string.Join('\n', _calls) + TailDigest();

    public void Prologue(ReadOnlySpan<byte> verbatim, QemuStreamHead head)
    {
        Head = head;
        _calls.Add($"prologue {verbatim.Length} {Digest(verbatim):x} {head.Machine} {head.RamSectionId}");
    }

    public void Page(int blockIndex, PageNumber page, ReadOnlySpan<byte> content)
    {
        ulong digest = content.IsEmpty ? 0 : Digest(content);
        Pages[(blockIndex, page.Value)] = digest;
        _calls.Add($"page {blockIndex} {page} {digest:x}");
    }

    public void SectionEnd(bool final, int pages)
    {
        FinalSections += final ? 1 : 0;
        _calls.Add($"end {final} {pages}");
    }

    public void Command(ushort number, ReadOnlySpan<byte> payload) => _calls.Add($"command {number} {payload.Length}");

    public void Tail(ReadOnlySpan<byte> verbatim) => _tail.Write(verbatim);

    private static ulong Digest(ReadOnlySpan<byte> bytes)
    {
        var hash = new HashCode();
        hash.AddBytes(bytes);
        return (ulong)(uint)hash.ToHashCode() << 32 | (uint)bytes.Length;
    }
}

/// <summary>What a destination does: prologue and tail as they came, the pages between in sections of its own.</summary>
internal sealed class Rewriter : IQemuStreamSink
{
    private readonly ArrayBufferWriter<byte> _output = new();
    private QemuStreamWriter? _writer;
    private QemuStreamHead? _head;

    public static byte[] Rewrite(byte[] stream)
    {
        var rewriter = new Rewriter();
        new QemuStreamReader(rewriter).Feed(stream);
        return rewriter._output.WrittenSpan.ToArray();
    }

    public void Prologue(ReadOnlySpan<byte> verbatim, QemuStreamHead head)
    {
        _head = head;
        _writer = new QemuStreamWriter(_output, head);
        _writer.Prologue(verbatim);
        _writer.Footer();
    }

    public void Page(int blockIndex, PageNumber page, ReadOnlySpan<byte> content)
    {
        _writer!.BeginPart();
        if (content.IsEmpty)
        {
            _writer.ZeroPage(_head!.Blocks[blockIndex], page);
        }
        else
        {
            _writer.Page(_head!.Blocks[blockIndex], page, content);
        }

        _writer.EndSection();
    }

    public void SectionEnd(bool final, int pages)
    {
        if (final)
        {
            _writer!.BeginEnd();
            _writer.EndSection();
        }
    }

    public void Command(ushort number, ReadOnlySpan<byte> payload) => _writer?.Command(number, payload);

    public void Tail(ReadOnlySpan<byte> verbatim) => _output.Write(verbatim);
}
