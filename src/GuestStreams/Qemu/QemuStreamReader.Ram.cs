using System.Buffers.Binary;
using Godwit.Pages;

namespace Godwit.GuestStreams.Qemu;

// The records inside RAM's sections.
public sealed partial class QemuStreamReader
{
    private const ulong Zero = 0x002;
    private const ulong MemorySize = 0x004;
    private const ulong PageRecord = 0x008;
    private const ulong EndOfSection = 0x010;
    private const ulong Continue = 0x020;
    private const ulong Flags = 0xFFF;

    // The block of the last record, across sections: what CONTINUE stands for.
    private int _currentBlock = -1;
    private int _sectionPages;
    private byte[]? _fill;

    private int RamRecord(ReadOnlySpan<byte> b)
    {
        if (b.Length < 8)
        {
            return 0;
        }

        ulong word = BinaryPrimitives.ReadUInt64BigEndian(b);
        ulong flags = word & Flags;
        switch (flags)
        {
            case PageRecord | Continue or Zero | Continue or PageRecord or Zero when !_inStart:
                break;
            case EndOfSection when word == EndOfSection:
                return EndSection();
            case MemorySize:
                return BlockList((long)(word & ~Flags));
            default:
                throw Error($"a RAM record with flags 0x{flags:x3}{FlagName(flags & ~Continue)}");
        }

        int at = 8;
        int block = _currentBlock;
        if ((flags & Continue) == 0)
        {
            if (b.Length < 9 || b.Length < 9 + b[8])
            {
                return 0;
            }

            ReadOnlySpan<byte> name = b.Slice(9, b[8]);
            block = IndexOfBlock(name);
            if (block < 0)
            {
                throw Error($"a page of RAM block '{Readable(name)}', which is not in the list");
            }

            at = 9 + name.Length;
        }
        else if (block < 0)
        {
            throw Error("a page that continues a block before any was named");
        }

        ulong offset = word & ~Flags;
        RamBlock ram = _blocks[block];
        if (offset >= (ulong)ram.Length)
        {
            throw Error($"a page at {offset} of RAM block '{ram.Name}', which has {ram.Length} bytes");
        }

        var page = new PageNumber((long)(offset / Page.Size));
        int bodyLength = (flags & Zero) != 0 ? 1 : Page.Size;
        if (b.Length - at < bodyLength)
        {
            return 0;
        }

        ReadOnlySpan<byte> content = b.Slice(at, bodyLength);
        sink.Page(block, page, bodyLength == 1 ? Filled(content[0]) : content);
        _currentBlock = block;
        _sectionPages++;
        return at + bodyLength;
    }

    // QEMU 7.2 may name any byte that fills the page; for zero there is no content.
    private ReadOnlySpan<byte> Filled(byte fill)
    {
        if (fill == 0)
        {
            return [];
        }

        _fill ??= new byte[Page.Size];
        _fill.AsSpan().Fill(fill);
        return _fill;
    }

    private int EndSection()
    {
        if (_inStart)
        {
            if (_blocks.Count == 0)
            {
                throw Error("RAM's setup without a block list");
            }

            _inStart = false;
            _prologueComplete = true;
        }
        else
        {
            _ended = _sectionType == 3;
            sink.SectionEnd(_ended, _sectionPages);
        }

        _state = State.Footer;
        return 8;
    }

    private int IndexOfBlock(ReadOnlySpan<byte> name)
    {
        // Only a record that changes the block names it, and the list is short: comparing beats decoding a string.
        for (int i = 0; i < _blocks.Count; i++)
        {
            string candidate = _blocks[i].Name;
            if (candidate.Length == name.Length && System.Text.Ascii.Equals(name, candidate))
            {
                return i;
            }
        }

        return -1;
    }

    private static string FlagName(ulong flag) => flag switch
    {
        0x002 or 0x008 => " (a page inside RAM's setup)",
        0x040 => " (XBZRLE: switch capability xbzrle off)",
        0x080 => " (RDMA: migrate through a socket)",
        0x100 => " (a compressed page: switch capability compress off)",
        0x200 => " (multifd: switch capability multifd off)",
        _ => ", which nothing known has",
    };
}
