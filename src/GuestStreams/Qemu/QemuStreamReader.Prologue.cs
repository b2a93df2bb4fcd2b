using System.Buffers.Binary;
using System.Text;
using Godwit.Pages;

namespace Godwit.GuestStreams.Qemu;

// Everything up to the end of RAM's setup: header, configuration, commands on the way, and the block list.
public sealed partial class QemuStreamReader
{
    private const int MachineBytesMax = 255;
    private const int CapabilitiesMax = 16;

    private readonly List<RamBlock> _blocks = [];
    private byte[]? _prologue = new byte[4096];
    private int _prologueLength;
    private bool _prologueComplete;
    private string _machine = "";
    private bool _inStart;
    private long _blocksTotal;
    private long _blocksSeen;
    private bool _sharedLeftOut;
    private bool _postcopyAdvised;
    private bool _pageSizesListed;

    private void Keep(ReadOnlySpan<byte> bytes)
    {
        if (_prologueLength + bytes.Length > PrologueBytesMax)
        {
            throw Error($"more than {PrologueBytesMax} bytes before the end of RAM's setup");
        }

        if (_prologueLength + bytes.Length > _prologue!.Length)
        {
            Array.Resize(ref _prologue, Math.Max(_prologue.Length * 2, _prologueLength + bytes.Length));
        }

        bytes.CopyTo(_prologue.AsSpan(_prologueLength));
        _prologueLength += bytes.Length;
    }

    private void CompletePrologue()
    {
        byte[] prologue = _prologue!;
        _prologueComplete = false;
        _prologue = null;
        sink.Prologue(
            prologue.AsSpan(0, _prologueLength),
            new QemuStreamHead(_machine, _ramSectionId, [.. _blocks])
            {
                PostcopyAdvised = _postcopyAdvised,
                SharedBlocksLeftOut = _sharedLeftOut,
            });
    }

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
        if (b[0] != 7)
        {
            throw Error(
                $"element 0x{b[0]:x2} where the configuration belongs (very old machine types have none: use a "
                + "newer one)");
        }

        if (b.Length < 5)
        {
            return 0;
        }

        uint length = BinaryPrimitives.ReadUInt32BigEndian(b[1..]);
        if (length is 0 or > MachineBytesMax)
        {
            throw Error($"a machine type of {length} bytes; the limit is {MachineBytesMax}");
        }

        int whole = 5 + (int)length;
        if (b.Length < whole)
        {
            return 0;
        }

        ReadOnlySpan<byte> machine = b[5..whole];
        if (machine.ContainsAnyExceptInRange((byte)0x21, (byte)0x7E))
        {
            throw Error($"machine type '{Readable(machine)}', which is not printable");
        }

        _machine = Encoding.ASCII.GetString(machine);
        _state = State.ConfigurationSubsection;
        return whole;
    }

    // 05, str8 name, be32 version, payload by name.
    private int ConfigurationSubsection(ReadOnlySpan<byte> b)
    {
        if (b[0] != 5)
        {
            return PassTo(State.Element);
        }

        if (b.Length < 2 || b.Length < 2 + b[1] + 4)
        {
            return 0;
        }

        ReadOnlySpan<byte> name = b.Slice(2, b[1]);
        int at = 2 + b[1] + 4;
        uint version = BinaryPrimitives.ReadUInt32BigEndian(b[(at - 4)..]);
        if (version == 1 && name.SequenceEqual("configuration/target-page-bits"u8))
        {
            if (b.Length < at + 4)
            {
                return 0;
            }

            uint bits = BinaryPrimitives.ReadUInt32BigEndian(b[at..]);
            return bits == 12 ? at + 4 : throw Error($"pages of 2^{bits} bytes; only {Page.Size} are carried");
        }

        if (version == 1 && name.SequenceEqual("configuration/uuid"u8))
        {
            return b.Length < at + 16 ? 0 : at + 16;
        }

        return version == 1 && name.SequenceEqual("configuration/capabilities"u8)
            ? Capabilities(b, at)
            : throw Error($"configuration subsection '{Readable(name)}' version {version}");
    }

    private int Capabilities(ReadOnlySpan<byte> b, int at)
    {
        if (b.Length < at + 4)
        {
            return 0;
        }

        uint count = BinaryPrimitives.ReadUInt32BigEndian(b[at..]);
        if (count > CapabilitiesMax)
        {
            throw Error($"a list of {count} capabilities; the limit is {CapabilitiesMax}");
        }

        at += 4;
        for (uint i = 0; i < count; i++)
        {
            if (b.Length < at + 1 || b.Length < at + 1 + b[at])
            {
                return 0;
            }

            ReadOnlySpan<byte> name = b.Slice(at + 1, b[at]);
            if (!name.SequenceEqual("x-ignore-shared"u8))
            {
                throw Error($"capability '{Readable(name)}': switch it off on the source's QEMU");
            }

            _sharedLeftOut = true;
            at += 1 + name.Length;
        }

        return at;
    }

    // be64 OR of all blocks' page sizes, be64 page size of the target; or nothing when only dirty bitmaps will follow.
    private void Advise(ReadOnlySpan<byte> payload)
    {
        _postcopyAdvised = true;
        if (payload.IsEmpty)
        {
            return;
        }

        _pageSizesListed = BinaryPrimitives.ReadUInt64BigEndian(payload) != Page.Size;
        ulong target = BinaryPrimitives.ReadUInt64BigEndian(payload[8..]);
        if (target != Page.Size)
        {
            throw Error($"pages of {target} bytes; only {Page.Size} are carried");
        }

        if (_pageSizesListed && _sharedLeftOut)
        {
            // A page size and an address could not be told apart in the block list. QEMU refuses the pair as well.
            throw Error("capabilities postcopy-ram and x-ignore-shared together: switch one off");
        }
    }

    private int BlockList(long total)
    {
        if (!_inStart || _blocks.Count > 0)
        {
            throw Error("a second block list or one outside RAM's setup");
        }

        if (total <= 0 || total > RamBlock.LengthMax)
        {
            throw Error($"RAM of {(ulong)total} bytes; the limit is {RamBlock.LengthMax}");
        }

        _blocksTotal = total;
        _state = State.BlockEntry;
        return 8;
    }

    // str8 name, be64 length; with x-ignore-shared be64 guest-physical address.
    private int BlockEntry(ReadOnlySpan<byte> b)
    {
        int length = 1 + b[0] + 8 + (_sharedLeftOut ? 8 : 0);
        if (b.Length < length)
        {
            return 0;
        }

        string name = Encoding.Latin1.GetString(b.Slice(1, b[0]));
        ulong used = BinaryPrimitives.ReadUInt64BigEndian(b[(1 + b[0])..]);
        if (used > (ulong)(_blocksTotal - _blocksSeen))
        {
            throw Error(
                $"RAM block '{Readable(b.Slice(1, b[0]))}' of {used} bytes where {_blocksTotal - _blocksSeen} are left "
                + "of the total");
        }

        if (RamBlock.Refusal(_blocks.Count, name, (long)used) is { } refusal)
        {
            throw new StreamFormatException(_offset, refusal);
        }

        if (IndexOfBlock(b.Slice(1, b[0])) >= 0)
        {
            throw Error($"RAM block '{name}' twice");
        }

        _blocks.Add(new RamBlock(_blocks.Count, name, (long)used));
        _blocksSeen += (long)used;
        _state = _pageSizesListed ? State.BlockPageSize
            : _blocksSeen < _blocksTotal ? State.BlockEntry
            : State.RamRecord;
        return length;
    }

    // Under postcopy-ram a block on huge pages is followed by its be64 page size, and nothing announces the field. A
    // next entry begins with the length of a name, which is not 0, and a page size begins with 0. After the last entry
    // the only other word is the end of the section.
    private int BlockPageSize(ReadOnlySpan<byte> b)
    {
        bool last = _blocksSeen == _blocksTotal;
        State next = last ? State.RamRecord : State.BlockEntry;
        if (!last && b[0] != 0)
        {
            return PassTo(next);
        }

        if (b.Length < 8)
        {
            return 0;
        }

        ulong size = BinaryPrimitives.ReadUInt64BigEndian(b);
        if (last && size == EndOfSection)
        {
            return PassTo(next);
        }

        if (size <= Page.Size || !ulong.IsPow2(size) || size > 1L << 34)
        {
            throw Error($"a page size of {size} for RAM block '{_blocks[^1].Name}'");
        }

        _state = next;
        return 8;
    }
}
