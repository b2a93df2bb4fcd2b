using System.Buffers.Binary;
using System.Text;
using Godwit.Pages;

namespace Godwit.GuestStreams.Qemu;

/// <summary>Takes apart the migration stream that QEMU writes; docs/formats/qemu-stream.md.</summary>
/// <remarks>
/// A push parser: bytes in, cut anywhere, callbacks out. It understands a precopy stream in which RAM is the only
/// iterative section, which is what the capabilities we set produce, and refuses everything else by name. RAM contents
/// are handed on as spans of the bytes fed whenever a record lies whole in them. Bytes are trusted for nothing: every
/// length and offset is checked before it is used.
/// </remarks>
public sealed class QemuStreamReader(IQemuStreamSink sink)
{
    // Everything that must be whole before it is looked at: the block list is the longest by far.
    private const int CarryBytesMax = 1 << 20;
    private const int ConfigurationBytesMax = 4096;

    private enum State
    {
        Header,
        Configuration,
        ConfigurationSubsection,
        Element,
        SectionHead,
        RamRecord,
        Tail,
    }

    private readonly List<RamBlock> _blocks = [];
    private readonly Dictionary<string, int> _blockByName = new(StringComparer.Ordinal);
    private byte[] _carry = new byte[8192];
    private int _carried;
    private State _state;
    private long _offset;
    private List<byte>? _prologue = [];
    private string _machine = "";
    private byte _sectionType;
    private uint _ramSectionId;
    private bool _ramKnown;
    private bool _inStart;
    private long _blocksTotal;
    private long _blocksSeen;
    private bool _inBlockList;
    private int _currentBlock = -1;
    private int _sectionPages;
    private bool _ended;
    private bool _footerDue;
    private bool _ignoreShared;
    private bool _pageSizesListed;

    /// <summary>Bytes taken in and understood.</summary>
    public long Offset => _offset;

    /// <summary>True between sections: everything fed so far has been understood and no section is open.</summary>
    public bool AtBoundary => _carried == 0 && _state is State.Element or State.Tail;

    /// <summary>Takes the next bytes.</summary>
    /// <exception cref="StreamFormatException">The stream is not one we carry.</exception>
    public void Feed(ReadOnlySpan<byte> bytes)
    {
        // First finish what an earlier call left over, taking only as much of the new bytes as that needs.
        while (_carried > 0 && !bytes.IsEmpty)
        {
            int add = Math.Min(bytes.Length, Math.Max(64, Page.Size + 512));
            EnsureCarry(_carried + add);
            bytes[..add].CopyTo(_carry.AsSpan(_carried));
            int used = Run(_carry.AsSpan(0, _carried + add));
            if (used >= _carried)
            {
                bytes = bytes[(used - _carried)..];
                _carried = 0;
                break;
            }

            _carry.AsSpan(used, _carried + add - used).CopyTo(_carry);
            _carried = _carried + add - used;
            bytes = bytes[add..];
        }

        if (bytes.IsEmpty)
        {
            return;
        }

        int consumed = Run(bytes);
        ReadOnlySpan<byte> rest = bytes[consumed..];
        EnsureCarry(rest.Length);
        rest.CopyTo(_carry);
        _carried = rest.Length;
    }

    private void EnsureCarry(int length)
    {
        if (length > CarryBytesMax)
        {
            throw Error($"an element longer than {CarryBytesMax} bytes");
        }

        if (_carry.Length < length)
        {
            Array.Resize(ref _carry, Math.Max(length, _carry.Length * 2));
        }
    }

    // Takes as many whole elements as there are and says how many bytes they took.
    private int Run(ReadOnlySpan<byte> bytes)
    {
        int used = 0;
        while (used < bytes.Length)
        {
            if (_state == State.Tail)
            {
                sink.Tail(bytes[used..]);
                _offset += bytes.Length - used;
                return bytes.Length;
            }

            int taken = Step(bytes[used..]);
            if (taken == 0)
            {
                break;
            }

            // The prologue ends with the START section's EOS; whether this step was that one shows in _prologue.
            _prologue?.AddRange(bytes.Slice(used, taken));
            used += taken;
            _offset += taken;
            if (_prologueComplete)
            {
                CompletePrologue();
            }
        }

        return used;
    }

    private bool _prologueComplete;

    private void CompletePrologue()
    {
        _prologueComplete = false;
        byte[] verbatim = _prologue!.ToArray();
        _prologue = null;
        sink.Prologue(verbatim, new QemuStreamHead(_machine, _ramSectionId, [.. _blocks]));
    }

    private int Step(ReadOnlySpan<byte> b) => _state switch
    {
        State.Header => Header(b),
        State.Configuration => Configuration(b),
        State.ConfigurationSubsection => ConfigurationSubsection(b),
        State.Element => Element(b),
        State.SectionHead => SectionHead(b),
        _ => _inBlockList ? BlockEntry(b) : RamRecord(b),
    };

    private int Header(ReadOnlySpan<byte> b)
    {
        if (b.Length < 8)
        {
            return 0;
        }

        uint magic = BinaryPrimitives.ReadUInt32BigEndian(b);
        uint version = BinaryPrimitives.ReadUInt32BigEndian(b[4..]);
        if (magic != 0x5145564D || version != 3)
        {
            throw Error($"magic 0x{magic:x8} version {version} where a QEMU stream (0x5145564d version 3) begins");
        }

        _state = State.Configuration;
        return 8;
    }

    private int Configuration(ReadOnlySpan<byte> b)
    {
        if (b.Length < 5)
        {
            return 0;
        }

        uint length = BinaryPrimitives.ReadUInt32BigEndian(b[1..]);
        if (b[0] != 7 || length > ConfigurationBytesMax)
        {
            throw Error($"element {b[0]} of {length} bytes where the configuration belongs (machine types before 2.3 have none)");
        }

        int whole = 5 + (int)length;
        if (b.Length < whole)
        {
            return 0;
        }

        _machine = Encoding.UTF8.GetString(b[5..whole]);
        _state = State.ConfigurationSubsection;
        return whole;
    }

    // 05, str8 name, be32 version, payload by name.
    private int ConfigurationSubsection(ReadOnlySpan<byte> b)
    {
        if (b[0] != 5)
        {
            _state = State.Element;
            return Element(b);
        }

        if (b.Length < 2 || b.Length < 2 + b[1] + 4)
        {
            return 0;
        }

        string name = Encoding.UTF8.GetString(b.Slice(2, b[1]));
        int at = 2 + b[1] + 4;
        switch (name)
        {
            case "configuration/target-page-bits":
                return b.Length < at + 4 ? 0 : at + 4;
            case "configuration/uuid":
                return b.Length < at + 16 ? 0 : at + 16;
            case "configuration/capabilities":
                return Capabilities(b, at);
            default:
                throw Error($"configuration subsection '{name}'");
        }
    }

    private int Capabilities(ReadOnlySpan<byte> b, int at)
    {
        if (b.Length < at + 4)
        {
            return 0;
        }

        uint count = BinaryPrimitives.ReadUInt32BigEndian(b[at..]);
        if (count > 64)
        {
            throw Error($"a list of {count} capabilities");
        }

        at += 4;
        for (uint i = 0; i < count; i++)
        {
            if (b.Length < at + 1 || b.Length < at + 1 + b[at])
            {
                return 0;
            }

            string name = Encoding.UTF8.GetString(b.Slice(at + 1, b[at]));
            at += 1 + b[at];
            _ignoreShared |= name == "x-ignore-shared" ? true
                : throw Error($"capability '{name}': switch it off on the source's QEMU");
        }

        return at;
    }

    private int Element(ReadOnlySpan<byte> b)
    {
        if (_footerDue)
        {
            if (b.Length < 5)
            {
                return 0;
            }

            if (b[0] != 0x7E || BinaryPrimitives.ReadUInt32BigEndian(b[1..]) != _ramSectionId)
            {
                throw Error($"byte 0x{b[0]:x2} where the footer of section {_ramSectionId} belongs");
            }

            _footerDue = false;
            return 5;
        }

        switch (b[0])
        {
            case 0x01 or 0x02 or 0x03:
                _sectionType = b[0];
                _state = State.SectionHead;
                return 1;
            case 0x08:
                return Command(b);
            case 0x04 or 0x00 when _ended:
                // Device state has no length: from here on every byte belongs to the destination's QEMU.
                _state = State.Tail;
                sink.Tail(b);
                return b.Length;
            case 0x04:
                throw Error("device state before all of RAM (a device that sends in setup, such as virtio-mem): "
                    + "remove the device");
            default:
                throw Error($"element type 0x{b[0]:x2}");
        }
    }

    private int Command(ReadOnlySpan<byte> b)
    {
        if (b.Length < 5)
        {
            return 0;
        }

        ushort number = BinaryPrimitives.ReadUInt16BigEndian(b[1..]);
        int length = BinaryPrimitives.ReadUInt16BigEndian(b[3..]);
        if (length > 4096)
        {
            throw Error($"command {number} with {length} bytes");
        }

        if (b.Length < 5 + length)
        {
            return 0;
        }

        switch (number)
        {
            case QemuCommand.Ping when length == 4:
            case QemuCommand.OpenReturnPath when length == 0:
            case QemuCommand.SwitchoverStart when length == 0:
                break;
            case QemuCommand.PostcopyAdvise when length is 0 or 16:
                _pageSizesListed = length == 16 && BinaryPrimitives.ReadUInt64BigEndian(b[5..]) != Page.Size;
                if (_pageSizesListed)
                {
                    throw Error("huge pages under capability postcopy-ram: switch the capability off");
                }

                break;
            default:
                throw Error($"command {number} with {length} bytes, which no precopy needs");
        }

        sink.Command(number, b.Slice(5, length));
        return 5 + length;
    }

    private int SectionHead(ReadOnlySpan<byte> b)
    {
        if (b.Length < 4)
        {
            return 0;
        }

        uint id = BinaryPrimitives.ReadUInt32BigEndian(b);
        if (_sectionType != 1)
        {
            if (!_ramKnown || id != _ramSectionId || _ended)
            {
                throw Error($"section {id}, which is not RAM's or comes after its end");
            }

            BeginRam();
            return 4;
        }

        if (b.Length < 5 || b.Length < 5 + b[4] + 8)
        {
            return 0;
        }

        string name = Encoding.UTF8.GetString(b.Slice(5, b[4]));
        uint instance = BinaryPrimitives.ReadUInt32BigEndian(b[(5 + b[4])..]);
        uint version = BinaryPrimitives.ReadUInt32BigEndian(b[(9 + b[4])..]);
        if (name != "ram" || instance != 0 || version != 4 || _ramKnown)
        {
            throw Error($"iterative section '{name}' instance {instance} version {version}: only 'ram' 0 version 4 is "
                + "carried; switch the capability or remove the device that makes it");
        }

        _ramKnown = true;
        _ramSectionId = id;
        _inStart = true;
        BeginRam();
        return 5 + b[4] + 8;
    }

    private void BeginRam()
    {
        _state = State.RamRecord;
        _sectionPages = 0;
    }

    private int BlockEntry(ReadOnlySpan<byte> b)
    {
        int length = 1 + b[0] + 8 + (_ignoreShared ? 8 : 0);
        if (b.Length < length)
        {
            return 0;
        }

        string name = Encoding.UTF8.GetString(b.Slice(1, b[0]));
        ulong used = BinaryPrimitives.ReadUInt64BigEndian(b[(1 + b[0])..]);
        if (_blocks.Count == RamBlock.CountMax)
        {
            throw Error($"more than {RamBlock.CountMax} RAM blocks");
        }

        if (used > (ulong)(_blocksTotal - _blocksSeen)
            || RamBlock.Refusal(_blocks.Count, name, (long)used) is not null || !_blockByName.TryAdd(name, _blocks.Count))
        {
            throw Error($"RAM block '{name}' of {used} bytes ({_blocksTotal - _blocksSeen} are left of the total)");
        }

        _blocks.Add(new RamBlock(_blocks.Count, name, (long)used));
        _blocksSeen += (long)used;
        _inBlockList = _blocksSeen < _blocksTotal;
        return length;
    }

    private int RamRecord(ReadOnlySpan<byte> b)
    {
        if (b.Length < 8)
        {
            return 0;
        }

        ulong word = BinaryPrimitives.ReadUInt64BigEndian(b);
        int flags = (int)(word & 0xFFF);
        long offset = (long)(word & ~0xFFFUL);
        const int Zero = 0x002, MemorySize = 0x004, PageRecord = 0x008, EndOfSection = 0x010, Continue = 0x020;
        switch (flags & ~Continue)
        {
            case EndOfSection:
                return EndSection();
            case MemorySize when _inStart && _blocks.Count == 0:
                if (offset <= 0 || offset > RamBlock.LengthMax)
                {
                    throw Error($"RAM of {offset} bytes; the limit is {RamBlock.LengthMax}");
                }

                _blocksTotal = offset;
                _inBlockList = true;
                return 8;
            case PageRecord when !_inStart:
            case Zero when !_inStart:
                break;
            default:
                throw Error($"RAM record with flags 0x{flags:x3} ({FlagName(flags & ~Continue)})");
        }

        int at = 8;
        int block = _currentBlock;
        if ((flags & Continue) == 0)
        {
            if (b.Length < 9 || b.Length < 9 + b[8])
            {
                return 0;
            }

            block = BlockOf(b.Slice(9, b[8]));
            at = 9 + b[8];
        }
        else if (block < 0)
        {
            throw Error("a record that continues a block before any was named");
        }

        if ((ulong)offset >= (ulong)_blocks[block].Length)
        {
            throw Error($"a page at {offset} of block '{_blocks[block].Name}', which has {_blocks[block].Length} bytes");
        }

        var page = new PageNumber(offset / Page.Size);
        if ((flags & Zero) != 0)
        {
            if (b.Length < at + 1)
            {
                return 0;
            }

            ReportFilled(block, page, b[at]);
            at++;
        }
        else
        {
            if (b.Length < at + Page.Size)
            {
                return 0;
            }

            sink.Page(block, page, b.Slice(at, Page.Size));
            at += Page.Size;
        }

        _currentBlock = block;
        _sectionPages++;
        return at;
    }

    private byte[]? _fill;

    private void ReportFilled(int block, PageNumber page, byte fill)
    {
        if (fill == 0)
        {
            sink.Page(block, page, []);
            return;
        }

        // QEMU 7.2 may fill a page with any one byte.
        _fill ??= new byte[Page.Size];
        _fill.AsSpan().Fill(fill);
        sink.Page(block, page, _fill);
    }

    private int EndSection()
    {
        if (_inStart)
        {
            if (_blocks.Count == 0)
            {
                throw Error("RAM's setup ends without a block list");
            }

            _inStart = false;
            _prologueComplete = true;
        }
        else
        {
            _ended = _sectionType == 3;
            sink.SectionEnd(_ended, _sectionPages);
        }

        _state = State.Element;
        _footerDue = true;
        return 8;
    }

    private int BlockOf(ReadOnlySpan<byte> name)
    {
        // Records of one block follow each other, and the list is short: comparing beats decoding a string.
        for (int i = 0; i < _blocks.Count; i++)
        {
            string candidate = _blocks[i].Name;
            if (candidate.Length == name.Length && Encoding.UTF8.GetByteCount(candidate) == name.Length
                && Ascii.Equals(name, candidate))
            {
                return i;
            }
        }

        throw Error($"a page of block '{Encoding.UTF8.GetString(name)}', which is not in the list");
    }

    private static string FlagName(int flag) => flag switch
    {
        0x004 => "a second block list",
        0x040 => "XBZRLE: switch capability xbzrle off",
        0x080 => "RDMA hook",
        0x100 => "compressed page: switch capability compress off",
        0x200 => "multifd: switch the capability off",
        _ => "unknown",
    };

    private StreamFormatException Error(string found) =>
        new(_offset, $"QEMU's stream has {found}.");
}
