using System.Buffers;
using System.Buffers.Binary;
using Godwit.Pages;

namespace Godwit.GuestStreams.Qemu;

/// <summary>What the destination's QEMU says on the return path.</summary>
public enum ReturnPathType : ushort
{
    Shut = 1,
    Pong = 2,
    SwitchoverAck = 7,
}

/// <param name="Value">The number of SHUT (0: success) and PONG; else 0.</param>
public readonly record struct ReturnPathMessage(ReturnPathType Type, uint Value);

/// <summary>Takes apart the return path of a precopy: be16 type, be16 length, payload.</summary>
public sealed class ReturnPathReader
{
    private readonly List<byte> _bytes = [];
    private long _offset;

    public void Feed(ReadOnlySpan<byte> bytes) => _bytes.AddRange(bytes);

    /// <exception cref="StreamFormatException">A message that no precopy has, or of the wrong length.</exception>
    public bool TryTake(out ReturnPathMessage message)
    {
        message = default;
        ReadOnlySpan<byte> bytes = System.Runtime.InteropServices.CollectionsMarshal.AsSpan(_bytes);
        if (bytes.Length < 4)
        {
            return false;
        }

        var type = (ReturnPathType)BinaryPrimitives.ReadUInt16BigEndian(bytes);
        int length = BinaryPrimitives.ReadUInt16BigEndian(bytes[2..]);
        int wanted = type switch
        {
            ReturnPathType.Shut or ReturnPathType.Pong => 4,
            ReturnPathType.SwitchoverAck => 0,
            _ => -1,
        };
        if (length != wanted)
        {
            throw new StreamFormatException(
                _offset, $"The return path has message {(ushort)type} with {length} bytes.");
        }

        if (bytes.Length < 4 + length)
        {
            return false;
        }

        message = new ReturnPathMessage(type, length == 4 ? BinaryPrimitives.ReadUInt32BigEndian(bytes[4..]) : 0);
        _bytes.RemoveRange(0, 4 + length);
        _offset += 4 + length;
        return true;
    }
}

/// <summary>Speaks to the source's QEMU on its return path, in the destination's stead.</summary>
public static class ReturnPathWriter
{
    /// <summary>0: the destination has loaded everything and runs.</summary>
    public static void Shut(IBufferWriter<byte> output, uint code) => Write(output, ReturnPathType.Shut, code);

    public static void Pong(IBufferWriter<byte> output, uint value) => Write(output, ReturnPathType.Pong, value);

    public static void SwitchoverAck(IBufferWriter<byte> output)
    {
        BinaryPrimitives.WriteUInt32BigEndian(output.GetSpan(4), (uint)ReturnPathType.SwitchoverAck << 16);
        output.Advance(4);
    }

    private static void Write(IBufferWriter<byte> output, ReturnPathType type, uint value)
    {
        Span<byte> message = output.GetSpan(8);
        BinaryPrimitives.WriteUInt16BigEndian(message, (ushort)type);
        BinaryPrimitives.WriteUInt16BigEndian(message[2..], 4);
        BinaryPrimitives.WriteUInt32BigEndian(message[4..], value);
        output.Advance(8);
    }
}
