using System.Buffers.Binary;
using System.Text;
using Godwit.Pages;

namespace Godwit.GuestStreams.Qemu;

/// <summary>Takes apart the migration stream that QEMU writes; docs/formats/qemu-stream.md.</summary>
/// <remarks>
/// A push parser: bytes in, cut anywhere, callbacks out. It understands a precopy stream in which RAM is the only
/// iterative section, which is what the capabilities we set produce, and refuses everything else by name. RAM contents
/// are handed on as spans of the bytes fed whenever a record lies whole in them. Bytes are trusted for nothing: every
/// length and offset is checked before it is used. After an exception the reader must not be fed again.
/// </remarks>
public sealed partial class QemuStreamReader(IQemuStreamSink sink)
{
    /// <summary>The longest prologue taken in; a block list of a thousand entries needs a quarter of it.</summary>
    public const int PrologueBytesMax = 1 << 20;

    // Longer than any element that must be whole before it is looked at: a page record with its block's name, a
    // command, a configuration subsection.
    private const int ElementBytesMax = 8192;

    private enum State
    {
        Header,
        Configuration,
        ConfigurationSubsection,
        Element,
        Footer,
        SectionHead,
        BlockEntry,
        BlockPageSize,
        RamRecord,
        Tail,
    }

    private readonly byte[] _carry = new byte[ElementBytesMax];
    private int _carried;
    private State _state;
    private long _offset;
    private byte _sectionType;
    private uint _ramSectionId;
    private bool _ramKnown;
    private bool _ended;

    /// <summary>Bytes taken in and understood.</summary>
    public long Offset => _offset;

    /// <summary>Everything fed so far has been understood and no section is open; a footer may still be due.</summary>
    public bool AtBoundary => _carried == 0 && _state is State.Element or State.Footer or State.Tail;

    /// <summary>Takes the next bytes.</summary>
    /// <exception cref="StreamFormatException">The stream is not one we carry.</exception>
    public void Feed(ReadOnlySpan<byte> bytes)
    {
        // First finish what an earlier call left over, taking only as much of the new bytes as that can need.
        while (_carried > 0 && !bytes.IsEmpty)
        {
            int add = Math.Min(bytes.Length, ElementBytesMax - _carried);
            if (add == 0)
            {
                throw Error($"an element longer than {ElementBytesMax} bytes");
            }

            bytes[..add].CopyTo(_carry.AsSpan(_carried));
            int held = _carried + add;
            int used = Run(_carry.AsSpan(0, held));
            if (used >= _carried)
            {
                bytes = bytes[(used - _carried)..];
                _carried = 0;
                break;
            }

            _carry.AsSpan(used, held - used).CopyTo(_carry);
            _carried = held - used;
            bytes = bytes[add..];
        }

        if (bytes.IsEmpty)
        {
            return;
        }

        ReadOnlySpan<byte> rest = bytes[Run(bytes)..];
        if (rest.Length > ElementBytesMax)
        {
            throw Error($"an element longer than {ElementBytesMax} bytes");
        }

        rest.CopyTo(_carry);
        _carried = rest.Length;
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
                // The states that only pass on to another one take no bytes either; they have changed _state then.
                if (_stepped)
                {
                    _stepped = false;
                    continue;
                }

                break;
            }

            if (_prologue is not null)
            {
                Keep(bytes.Slice(used, taken));
            }

            used += taken;
            _offset += taken;
            if (_prologueComplete)
            {
                CompletePrologue();
            }
        }

        return used;
    }

    // Set by a state that found that the byte before it belongs to the next state.
    private bool _stepped;

    private int PassTo(State state)
    {
        _state = state;
        _stepped = true;
        return 0;
    }

    // Each state takes one whole piece from the front and returns its length, or 0 when it has not all arrived.
    private int Step(ReadOnlySpan<byte> b) => _state switch
    {
        State.RamRecord => RamRecord(b),
        State.Header => Header(b),
        State.Configuration => Configuration(b),
        State.ConfigurationSubsection => ConfigurationSubsection(b),
        State.Element => Element(b),
        State.Footer => Footer(b),
        State.SectionHead => SectionHead(b),
        State.BlockEntry => BlockEntry(b),
        State.BlockPageSize => BlockPageSize(b),
        _ => throw new InvalidOperationException($"The reader has no step for {_state}."),
    };

    private int Footer(ReadOnlySpan<byte> b)
    {
        if (b.Length < 5)
        {
            return 0;
        }

        if (b[0] != 0x7E || BinaryPrimitives.ReadUInt32BigEndian(b[1..]) != _ramSectionId)
        {
            throw Error(
                $"byte 0x{b[0]:x2} where the footer of section {_ramSectionId} belongs (machine types up to 2.3 have "
                + "none: use a newer one)");
        }

        _state = State.Element;
        return 5;
    }

    private int Element(ReadOnlySpan<byte> b)
    {
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
                return PassTo(State.Tail);
            case 0x04:
                throw Error("device state before all of RAM (a device that sends in setup, such as virtio-mem): "
                    + "remove the device");
            case 0x00:
                throw Error("its end before all of RAM: the source's QEMU gave up");
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
        bool known = number switch
        {
            QemuCommand.Ping => length == 4,
            QemuCommand.OpenReturnPath or QemuCommand.SwitchoverStart => length == 0,
            QemuCommand.PostcopyAdvise => length is 0 or 16 && !_ramKnown,
            _ => false,
        };
        if (!known)
        {
            throw Error($"command {number}{CommandName(number)} with {length} bytes, which no precopy has there");
        }

        if (b.Length < 5 + length)
        {
            return 0;
        }

        ReadOnlySpan<byte> payload = b.Slice(5, length);
        if (number == QemuCommand.PostcopyAdvise)
        {
            Advise(payload);
        }

        sink.Command(number, payload);
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
                throw Error($"section {id}, which is not RAM's or comes after RAM's end");
            }

            _sectionPages = 0;
            _state = State.RamRecord;
            return 4;
        }

        if (b.Length < 5 || b.Length < 5 + b[4] + 8)
        {
            return 0;
        }

        ReadOnlySpan<byte> name = b.Slice(5, b[4]);
        uint instance = BinaryPrimitives.ReadUInt32BigEndian(b[(5 + b[4])..]);
        uint version = BinaryPrimitives.ReadUInt32BigEndian(b[(9 + b[4])..]);
        if (!name.SequenceEqual("ram"u8) || instance != 0 || version != 4 || _ramKnown)
        {
            throw Error(
                $"iterative section '{Readable(name)}' instance {instance} version {version}: only 'ram' 0 version 4 "
                + "is carried, once; switch the capability off or remove the device that makes it");
        }

        _ramKnown = true;
        _ramSectionId = id;
        _inStart = true;
        _state = State.RamRecord;
        return 5 + b[4] + 8;
    }

    private static string CommandName(ushort number) => number switch
    {
        4 => " (POSTCOPY_LISTEN)",
        5 => " (POSTCOPY_RUN)",
        6 => " (POSTCOPY_RAM_DISCARD: the source was told to turn to postcopy)",
        7 => " (PACKAGED: the source was told to turn to postcopy)",
        8 => " (ENABLE_COLO: switch capability x-colo off)",
        9 => " (POSTCOPY_RESUME)",
        10 => " (RECV_BITMAP)",
        _ => "",
    };

    // Names from the stream go into messages and logs; whatever is not printable shows as a question mark.
    private static string Readable(ReadOnlySpan<byte> name)
    {
        Span<byte> shown = stackalloc byte[256];
        name = name[..Math.Min(name.Length, shown.Length)];
        for (int i = 0; i < name.Length; i++)
        {
            shown[i] = name[i] is >= 0x20 and < 0x7F ? name[i] : (byte)'?';
        }

        return Encoding.ASCII.GetString(shown[..name.Length]);
    }

    private StreamFormatException Error(string found) =>
        new(_offset, $"QEMU's stream has {found}.");
}
