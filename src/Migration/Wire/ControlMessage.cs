using System.Buffers;
using System.Buffers.Binary;
using System.Text;
using Godwit.Pages;

namespace Godwit.Migration.Wire;

/// <summary>A message of the control lane.</summary>
public abstract partial record ControlMessage
{
    /// <summary>QEMU's stream from its header through the RAM block list, as it came.</summary>
    public sealed record Prologue(ReadOnlyMemory<byte> Verbatim) : ControlMessage;

    /// <summary>A command of QEMU's stream that stands between the RAM sections.</summary>
    public sealed record StreamCommand(ushort Number, ReadOnlyMemory<byte> Payload) : ControlMessage;

    /// <summary>The next bytes of device state, as they came; they count only once all pages are in place.</summary>
    public sealed record DeviceState(ReadOnlyMemory<byte> Bytes) : ControlMessage;

    /// <summary>Bytes of page lane frames taken in so far, all lanes together.</summary>
    public sealed record Received(long FrameBytes) : ControlMessage;

    /// <summary>Answered at once by <see cref="Pong"/> with the same number.</summary>
    public sealed record Ping(long Number) : ControlMessage;

    public sealed record Pong(long Number) : ControlMessage;

    /// <summary>Every lane's barrier has come: all pages are in place.</summary>
    public sealed record PagesPlaced : ControlMessage;

    /// <summary>The destination's QEMU has loaded the guest and stands still with it.</summary>
    /// <param name="Handed">From the last page in place to the first byte of device state in QEMU's hands.</param>
    /// <param name="Load">From there to QEMU's own word that it has loaded.</param>
    public sealed record Loaded(TimeSpan Handed, TimeSpan Load) : ControlMessage;

    /// <summary>The point of no return: the source will not run the guest again.</summary>
    public sealed record Commit : ControlMessage;

    /// <summary>The guest runs at the destination.</summary>
    /// <param name="Resume">From the commit's arrival to the first instruction.</param>
    /// <param name="Announcement">From there to the first announcement on the bridge.</param>
    /// <param name="CpuTime">Processor time the destination's daemon spent on the move.</param>
    public sealed record Running(TimeSpan Resume, TimeSpan Announcement, TimeSpan CpuTime) : ControlMessage;

    /// <summary>The sender gives up, before the commit; the guest runs on at the source.</summary>
    public sealed record Abort(string Code, string Text) : ControlMessage;

    /// <summary>Writes header and body.</summary>
    public void Encode(IBufferWriter<byte> writer)
    {
        switch (this)
        {
            case Prologue m: WriteFrame(writer, FrameType.Prologue, m.Verbatim.Span); break;
            case StreamCommand m:
            {
                byte[] body = new byte[2 + m.Payload.Length];
                BinaryPrimitives.WriteUInt16LittleEndian(body, m.Number);
                m.Payload.Span.CopyTo(body.AsSpan(2));
                WriteFrame(writer, FrameType.StreamCommand, body);
                break;
            }

            case DeviceState m: WriteDeviceState(writer, m.Bytes.Span); break;
            case Received m: WriteNumbers(writer, FrameType.Received, m.FrameBytes); break;
            case Ping m: WriteNumbers(writer, FrameType.Ping, m.Number); break;
            case Pong m: WriteNumbers(writer, FrameType.Pong, m.Number); break;
            case PagesPlaced: WriteNumbers(writer, FrameType.PagesPlaced); break;
            case Loaded m: WriteNumbers(writer, FrameType.Loaded, m.Handed.Ticks, m.Load.Ticks); break;
            case Commit: WriteNumbers(writer, FrameType.Commit); break;
            case Running m:
                WriteNumbers(writer, FrameType.Running, m.Resume.Ticks, m.Announcement.Ticks, m.CpuTime.Ticks);
                break;
            case InventoryOffer m: WriteOffer(writer, m); break;
            case InventoryReady m: WriteNumbers(writer, FrameType.InventoryReady, m.TakesDeltas ? 1 : 0); break;
            case PagesWanted m: WriteWanted(writer, m); break;
            case PagesMissing m: WriteMissing(writer, m); break;
            case MissingTold: WriteNumbers(writer, FrameType.MissingTold); break;
            case PagesRequested m: WriteRequested(writer, m); break;
            case MemoryComplete m: WriteComplete(writer, m); break;
            case Abort m:
            {
                ReadOnlySpan<byte> text = PeerText.Encode(m.Text);
                byte[] body = new byte[1 + m.Code.Length + text.Length];
                body[0] = checked((byte)m.Code.Length);
                Encoding.ASCII.GetBytes(m.Code, body.AsSpan(1));
                text.CopyTo(body.AsSpan(1 + m.Code.Length));
                WriteFrame(writer, FrameType.Abort, body);
                break;
            }

            default: throw new InvalidOperationException($"No encoding for {GetType().Name}.");
        }
    }

    /// <summary>Reads one body. The message owns its bytes.</summary>
    /// <exception cref="StreamFormatException">
    /// The type is not of the control lane or the body breaks its layout.
    /// </exception>
    public static ControlMessage Decode(FrameType type, ReadOnlySpan<byte> body)
    {
        switch (type)
        {
            case FrameType.Prologue: return new Prologue(body.ToArray());
            case FrameType.StreamCommand:
                if (body.Length < 2)
                {
                    throw Malformed(type, body, "at least 2");
                }

                return new StreamCommand(BinaryPrimitives.ReadUInt16LittleEndian(body), body[2..].ToArray());
            case FrameType.DeviceState: return ReadDeviceState(body);
            case FrameType.Received: return new Received(Numbers(type, body, 1, 0));
            case FrameType.Ping: return new Ping(Numbers(type, body, 1, 0));
            case FrameType.Pong: return new Pong(Numbers(type, body, 1, 0));
            case FrameType.PagesPlaced: Numbers(type, body, 0, 0); return new PagesPlaced();
            case FrameType.Loaded: return new Loaded(Span(type, body, 2, 0), Span(type, body, 2, 1));
            case FrameType.Commit: Numbers(type, body, 0, 0); return new Commit();
            case FrameType.Running:
                return new Running(Span(type, body, 3, 0), Span(type, body, 3, 1), Span(type, body, 3, 2));
            case FrameType.InventoryOffer: return ReadOffer(body);
            case FrameType.InventoryReady: return new InventoryReady(Numbers(type, body, 1, 0) != 0);
            case FrameType.PagesWanted: return ReadWanted(body);
            case FrameType.PagesMissing: return ReadMissing(body);
            case FrameType.MissingTold: Numbers(type, body, 0, 0); return new MissingTold();
            case FrameType.PagesRequested: return ReadRequested(body);
            case FrameType.MemoryComplete: return ReadComplete(body);
            case FrameType.Abort:
                if (body.Length < 1 || body.Length < 1 + body[0] || body.Length > 1 + 255 + PeerText.BytesMax
                    || body.Slice(1, body[0]).ContainsAnyExceptInRange((byte)'!', (byte)'~'))
                {
                    throw Malformed(type, body, "a printable code and a text");
                }

                return new Abort(
                    Encoding.ASCII.GetString(body.Slice(1, body[0])), PeerText.Decode(body[(1 + body[0])..]));
            default:
                throw new StreamFormatException(4, $"Frame type {(byte)type} does not belong on the control lane.");
        }
    }

    private static void WriteFrame(IBufferWriter<byte> writer, FrameType type, ReadOnlySpan<byte> body)
    {
        Span<byte> span = writer.GetSpan(FrameHeader.Size + body.Length);
        new FrameHeader(type, body.Length).Write(span);
        body.CopyTo(span[FrameHeader.Size..]);
        writer.Advance(FrameHeader.Size + body.Length);
    }

    private static void WriteNumbers(IBufferWriter<byte> writer, FrameType type, params ReadOnlySpan<long> numbers)
    {
        Span<byte> body = stackalloc byte[8 * numbers.Length];
        for (int i = 0; i < numbers.Length; i++)
        {
            BinaryPrimitives.WriteInt64LittleEndian(body[(8 * i)..], numbers[i]);
        }

        WriteFrame(writer, type, body);
    }

    private static long Numbers(FrameType type, ReadOnlySpan<byte> body, int count, int index)
    {
        if (body.Length != 8 * count)
        {
            throw Malformed(type, body, $"{8 * count}");
        }

        return count == 0 ? 0 : BinaryPrimitives.ReadInt64LittleEndian(body[(8 * index)..]);
    }

    private static TimeSpan Span(FrameType type, ReadOnlySpan<byte> body, int count, int index) =>
        TimeSpan.FromTicks(Numbers(type, body, count, index));

    // Device state is 100 to 200 KB of mostly JSON and zeros and travels while the guest stands still: coding it
    // saves a millisecond of pause on a 1 Gbit/s link and fifty on a slow one.
    private static void WriteDeviceState(IBufferWriter<byte> writer, ReadOnlySpan<byte> bytes)
    {
        byte[] body = new byte[4 + Lz4.CodedBytesMax(bytes.Length)];
        int coded = Lz4.Compress(bytes, body.AsSpan(4));
        if (coded > 0 && coded < bytes.Length)
        {
            BinaryPrimitives.WriteInt32LittleEndian(body, bytes.Length);
            WriteFrame(writer, FrameType.DeviceState, body.AsSpan(0, 4 + coded));
            return;
        }

        BinaryPrimitives.WriteInt32LittleEndian(body, 0);
        bytes.CopyTo(body.AsSpan(4));
        WriteFrame(writer, FrameType.DeviceState, body.AsSpan(0, 4 + bytes.Length));
    }

    private static DeviceState ReadDeviceState(ReadOnlySpan<byte> body)
    {
        if (body.Length < 4)
        {
            throw Malformed(FrameType.DeviceState, body, "at least 4");
        }

        uint rawLength = BinaryPrimitives.ReadUInt32LittleEndian(body);
        if (rawLength == 0)
        {
            return new DeviceState(body[4..].ToArray());
        }

        // A byte of an LZ4 block stands for 255 at most: who claims more gets no memory for it.
        long rawMax = Math.Min(FrameHeader.ControlBodyMax, 255L * (body.Length - 4));
        if (rawLength > rawMax)
        {
            throw new StreamFormatException(
                0, $"Device state of {rawLength} bytes in a message of {body.Length}; the limit is {rawMax}.");
        }

        byte[] raw = new byte[rawLength];
        if (Lz4.Decompress(body[4..], raw) != raw.Length)
        {
            throw new StreamFormatException(4, "Coded device state does not decode to the length it announces.");
        }

        return new DeviceState(raw);
    }

    private static StreamFormatException Malformed(FrameType type, ReadOnlySpan<byte> body, string wanted) =>
        new(0, $"{type} has a body of {body.Length} bytes; {wanted} belong there.");
}
