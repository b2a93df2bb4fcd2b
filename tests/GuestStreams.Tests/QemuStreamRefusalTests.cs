using System.Buffers.Binary;
using System.Text;
using Godwit.GuestStreams.Qemu;
using Godwit.Pages;

namespace Godwit.GuestStreams.Tests;

// Goal: what we cannot carry is refused where it stands, by name and with the remedy, and what we can is not.
// Method: streams composed by hand, each with one thing in them.
public class QemuStreamRefusalTests
{
    private const ulong Zero = 2, Size = 4, PageRecord = 8, End = 16, Continue = 32;

    private static Bytes Head => new Bytes().Be32(0x5145564D).Be32(3).Byte(7).Be32(12).Text("pc-test-10.0");

    private static Bytes RamStart => new Bytes().Byte(1).Be32(2).Str("ram").Be32(0).Be32(4);

    private static Bytes BlockList =>
        new Bytes().Be64(0x3000 | Size).Str("a").Be64(0x2000).Str("b").Be64(0x1000).Be64(End);

    private static Bytes Footer => new Bytes().Byte(0x7E).Be32(2);

    private static Bytes Setup => Head + RamStart + BlockList + Footer;

    private static Bytes Part => new Bytes().Byte(2).Be32(2);

    public static TheoryData<string, string> Refusals => new()
    {
        { "magic", "0x5145564e" },
        { "version", "version 4" },
        { "no configuration", "newer" },
        { "machine of 0 bytes", "0 bytes" },
        { "machine of 4 GiB", "4294967295" },
        { "machine with control characters", "not printable" },
        { "unknown subsection", "configuration/x" },
        { "page bits 14", "2^14" },
        { "mapped-ram", "'mapped-ram'" },
        { "capability list", "1000 capabilities" },
        { "FULL in setup", "virtio-mem" },
        { "FULL before END", "before all of RAM" },
        { "EOF before END", "gave up" },
        { "other section", "'dirty-bitmap'" },
        { "second ram", "once" },
        { "ram version 5", "version 5" },
        { "unknown element", "0x09" },
        { "VMDESC in the middle", "0x06" },
        { "unknown command", "command 12" },
        { "PACKAGED", "PACKAGED" },
        { "COLO", "x-colo" },
        { "PING of 5 bytes", "5 bytes" },
        { "ADVISE late", "command 3" },
        { "foreign target page", "16384" },
        { "postcopy and x-ignore-shared", "switch one off" },
        { "no blocks", "without a block list" },
        { "total 0", "RAM of 0" },
        { "total too large", "limit" },
        { "block beyond the total", "left of the total" },
        { "block of 0 bytes", "length 0" },
        { "block of odd length", "4097" },
        { "block without a name", "0 bytes" },
        { "block twice", "twice" },
        { "block name not printable", "printable ASCII" },
        { "second list", "second block list" },
        { "page in setup", "setup" },
        { "page outside its block", "8192" },
        { "page of an unknown block", "'c'" },
        { "continue nothing", "before any was named" },
        { "XBZRLE", "capability xbzrle off" },
        { "hook", "RDMA" },
        { "compressed", "capability compress off" },
        { "multifd", "capability multifd off" },
        { "unknown flag", "0x400" },
        { "two kinds", "0x00a" },
        { "end with an offset", "flags 0x010" },
        { "wrong footer", "0x7d" },
        { "footer of another section", "footer of section 2" },
        { "PART of another section", "section 3" },
        { "PART after END", "after RAM's end" },
    };

    [Theory]
    [MemberData(nameof(Refusals))]
    public void Refuses(string what, string named)
    {
        (Bytes good, Bytes bad) = Compose(what);
        var reader = new QemuStreamReader(new Transcript());
        reader.Feed(good.Value);
        StreamFormatException e = Assert.Throws<StreamFormatException>(() => reader.Feed(bad.Value));
        Assert.Contains(named, e.Message, StringComparison.Ordinal);
        Assert.InRange(e.Offset, good.Length, good.Length + bad.Length);
        // And byte by byte, at the same place with the same words.
        var single = new QemuStreamReader(new Transcript());
        StreamFormatException again = Assert.Throws<StreamFormatException>(() =>
        {
            foreach (byte b in (good + bad).Value)
            {
                single.Feed([b]);
            }
        });
        Assert.Equal(e.Message, again.Message);
        Assert.Equal(e.Offset, again.Offset);
    }

    private static (Bytes Good, Bytes Bad) Compose(string what) => what switch
    {
        "magic" => (new(), new Bytes().Be32(0x5145564E).Be32(3)),
        "version" => (new(), new Bytes().Be32(0x5145564D).Be32(4)),
        "no configuration" => (new Bytes().Be32(0x5145564D).Be32(3), RamStart),
        "machine of 0 bytes" => (new Bytes().Be32(0x5145564D).Be32(3), new Bytes().Byte(7).Be32(0)),
        "machine of 4 GiB" => (new Bytes().Be32(0x5145564D).Be32(3), new Bytes().Byte(7).Be32(uint.MaxValue)),
        "machine with control characters" =>
            (new Bytes().Be32(0x5145564D).Be32(3), new Bytes().Byte(7).Be32(4).Text("p\u001b[m")),
        "unknown subsection" => (Head, new Bytes().Byte(5).Str("configuration/x").Be32(1)),
        "page bits 14" => (Head, new Bytes().Byte(5).Str("configuration/target-page-bits").Be32(1).Be32(14)),
        "mapped-ram" =>
            (Head, new Bytes().Byte(5).Str("configuration/capabilities").Be32(1).Be32(1).Str("mapped-ram")),
        "capability list" => (Head, new Bytes().Byte(5).Str("configuration/capabilities").Be32(1).Be32(1000)),
        "FULL in setup" => (Head, new Bytes().Byte(4)),
        "FULL before END" => (Setup, new Bytes().Byte(4)),
        "EOF before END" => (Setup, new Bytes().Byte(0)),
        "other section" => (Head, new Bytes().Byte(1).Be32(9).Str("dirty-bitmap").Be32(0).Be32(1)),
        "second ram" => (Setup, RamStart),
        "ram version 5" => (Head, new Bytes().Byte(1).Be32(2).Str("ram").Be32(0).Be32(5)),
        "unknown element" => (Setup, new Bytes().Byte(9)),
        "VMDESC in the middle" => (Setup, new Bytes().Byte(6).Be32(4).Text("{}  ")),
        "unknown command" => (Setup, Command(12, 0)),
        "PACKAGED" => (Setup, Command(7, 4)),
        "COLO" => (Setup, Command(8, 0)),
        "PING of 5 bytes" => (Setup, Command(2, 5)),
        "ADVISE late" => (Setup, Command(3, 0)),
        "foreign target page" => (Head, Advise(4096, 16384)),
        "postcopy and x-ignore-shared" =>
            (Head + new Bytes().Byte(5).Str("configuration/capabilities").Be32(1).Be32(1).Str("x-ignore-shared"),
            Advise(0x201000, 4096)),
        "no blocks" => (Head + RamStart, new Bytes().Be64(End)),
        "total 0" => (Head + RamStart, new Bytes().Be64(Size)),
        "total too large" => (Head + RamStart, new Bytes().Be64(ulong.MaxValue & ~0xFFFUL | Size)),
        "block beyond the total" => (Head + RamStart, new Bytes().Be64(0x3000 | Size).Str("a").Be64(0x4000)),
        "block of 0 bytes" => (Head + RamStart, new Bytes().Be64(0x3000 | Size).Str("a").Be64(0)),
        "block of odd length" => (Head + RamStart, new Bytes().Be64(0x3000 | Size).Str("a").Be64(4097)),
        "block without a name" => (Head + RamStart, new Bytes().Be64(0x3000 | Size).Str("").Be64(0x1000)),
        "block twice" => (Head + RamStart, new Bytes().Be64(0x3000 | Size).Str("a").Be64(0x1000).Str("a").Be64(0x1000)),
        "block name not printable" => (Head + RamStart, new Bytes().Be64(0x3000 | Size).Str("a\n").Be64(0x1000)),
        "second list" => (Setup + Part, BlockList),
        "page in setup" => (Head + RamStart, new Bytes().Be64(PageRecord).Str("a")),
        "page outside its block" => (Setup + Part, new Bytes().Be64(0x2000 | Zero).Str("a").Byte(0)),
        "page of an unknown block" => (Setup + Part, new Bytes().Be64(Zero).Str("c").Byte(0)),
        "continue nothing" => (Setup + Part, new Bytes().Be64(Zero | Continue).Byte(0)),
        "XBZRLE" => (Setup + Part, new Bytes().Be64(0x040).Str("a")),
        "hook" => (Setup + Part, new Bytes().Be64(0x080)),
        "compressed" => (Setup + Part, new Bytes().Be64(0x100 | Continue)),
        "multifd" => (Setup + Part, new Bytes().Be64(0x200)),
        "unknown flag" => (Setup + Part, new Bytes().Be64(0x400)),
        "two kinds" => (Setup + Part, new Bytes().Be64(Zero | PageRecord).Str("a")),
        "end with an offset" => (Setup + Part, new Bytes().Be64(0x1000 | End)),
        "wrong footer" => (Head + RamStart + BlockList, new Bytes().Byte(0x7D).Be32(2)),
        "footer of another section" => (Head + RamStart + BlockList, new Bytes().Byte(0x7E).Be32(3)),
        "PART of another section" => (Setup, new Bytes().Byte(2).Be32(3)),
        "PART after END" => (Setup + new Bytes().Byte(3).Be32(2).Be64(End) + Footer, Part),
        _ => throw new ArgumentException(what),
    };

    [Fact]
    public void A_fill_byte_of_QEMU_7_2_becomes_a_page_of_it()
    {
        Transcript t = Transcript.Of((Setup + Part
            + new Bytes().Be64(Zero).Str("a").Byte(0).Be64(0x1000 | Zero | Continue).Byte(0xAB).Be64(End)).Value);
        Assert.Empty(t.Newest[(0, 0)]);
        Assert.Equal(Enumerable.Repeat((byte)0xAB, Page.Size), t.Newest[(0, 1)]);
        Assert.Equal([(false, 2)], t.Sections);
    }

    [Fact]
    public void CONTINUE_reaches_across_sections()
    {
        Transcript t = Transcript.Of((Setup + Part + new Bytes().Be64(Zero).Str("b").Byte(0).Be64(End) + Footer
            + Part + new Bytes().Be64(Zero | Continue).Byte(7).Be64(End)).Value);
        Assert.Equal(Page.Size, t.Newest[(1, 0)].Length);
    }

    // Goal: the page size of a block on huge pages, which nothing announces, is found wherever it may stand.
    [Theory]
    [InlineData(true, true)]
    [InlineData(true, false)]
    [InlineData(false, true)]
    [InlineData(false, false)]
    public void Page_sizes_in_the_block_list_are_found(bool first, bool last)
    {
        Bytes list = new Bytes().Be64(0x3000 | Size).Str("a").Be64(0x2000);
        list = first ? list.Be64(0x200000) : list;
        list = list.Str("b").Be64(0x1000);
        list = last ? list.Be64(0x40000000) : list;
        byte[] stream = (Head + Advise(0x40201000, 4096) + RamStart + list.Be64(End) + Footer).Value;
        for (int cut = 0; cut <= stream.Length; cut++)
        {
            Transcript t = Transcript.Of(stream, cut);
            Assert.Equal(["a", "b"], t.Head!.Blocks.Select(b => b.Name));
            Assert.True(t.Head.PostcopyAdvised);
            Assert.Equal(stream.Length - 5, t.Prologue.Length);
        }
    }

    [Fact]
    public void A_prologue_without_end_is_refused_at_its_limit()
    {
        var reader = new QemuStreamReader(new Transcript());
        reader.Feed(Head.Value);
        byte[] pings = (Command(2, 4) + Command(2, 4) + Command(2, 4)).Value;
        StreamFormatException e = Assert.Throws<StreamFormatException>(() =>
        {
            for (int fed = 0; fed < 2 * QemuStreamReader.PrologueBytesMax; fed += pings.Length)
            {
                reader.Feed(pings);
            }
        });
        Assert.InRange(e.Offset, QemuStreamReader.PrologueBytesMax - 100, QemuStreamReader.PrologueBytesMax);
    }

    private static Bytes Command(int number, int length) =>
        new Bytes().Byte(8).Be16(number).Be16(length).Text(new string('\0', length));

    private static Bytes Advise(ulong pageSizes, ulong target) =>
        new Bytes().Byte(8).Be16(3).Be16(16).Be64(pageSizes).Be64(target);

    private readonly struct Bytes
    {
        public Bytes()
        {
        }

        private Bytes(byte[] value) => Value = value;

        public byte[] Value { get; } = [];

        public int Length => Value.Length;

        public static Bytes operator +(Bytes left, Bytes right) => new([.. left.Value, .. right.Value]);

        public Bytes Byte(byte value) => new([.. Value, value]);

        public Bytes Be16(int value) => Append(2, b => BinaryPrimitives.WriteUInt16BigEndian(b, (ushort)value));

        public Bytes Be32(uint value) => Append(4, b => BinaryPrimitives.WriteUInt32BigEndian(b, value));

        public Bytes Be64(ulong value) => Append(8, b => BinaryPrimitives.WriteUInt64BigEndian(b, value));

        public Bytes Str(string text) => Byte((byte)text.Length).Text(text);

        public Bytes Text(string text) => new([.. Value, .. Encoding.Latin1.GetBytes(text)]);

        private Bytes Append(int length, Action<byte[]> write)
        {
            byte[] bytes = new byte[length];
            write(bytes);
            return new([.. Value, .. bytes]);
        }
    }
}
