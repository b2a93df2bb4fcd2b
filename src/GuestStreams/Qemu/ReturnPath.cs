using System.Buffers;
using System.Buffers.Binary;
using Godwit.Pages;

namespace Godwit.GuestStreams.Qemu;

/// <summary>What the destination's QEMU says on the return path.</summary>
public enum ReturnPathType : ushort
{
    Shut = 1,
    Pong = 2,
    /// <summary>Pages of a named block are waited for.</summary>
    RequestPagesOf = 3,
    /// <summary>Pages of the block that was named last are waited for.</summary>
    RequestPages = 4,
    SwitchoverAck = 7,
}

/// <param name="Value">The number of SHUT (0: success) and PONG, the bytes of a request; else 0.</param>
/// <param name="Offset">Of a request: where it begins in its block, in bytes.</param>
/// <param name="Block">Of a request: the block's name.</param>
public readonly record struct ReturnPathMessage(ReturnPathType Type, uint Value, long Offset = 0, string Block = "");

/// <summary>Takes apart the return path: be16 type, be16 length, payload.</summary>
/// <param name="takenUp">
/// Somebody else read its beginning: pages may be asked for of a block that was named to them, and is empty here.
/// </param>
public sealed class ReturnPathReader(bool takenUp = false)
{
    private readonly List<byte> _bytes = [];
    private long _offset;
    private string _block = "";

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
        bool known = type switch
        {
            ReturnPathType.Shut or ReturnPathType.Pong => length == 4,
            ReturnPathType.SwitchoverAck => length == 0,
            ReturnPathType.RequestPagesOf => length is > 13 and <= 13 + 255,
            ReturnPathType.RequestPages => length == 12 && (_block.Length > 0 || takenUp),
            _ => false,
        };
        if (!known)
        {
            throw new StreamFormatException(
                _offset, $"The return path has message {(ushort)type} with {length} bytes.");
        }

        if (bytes.Length < 4 + length)
        {
            return false;
        }

        message = type is ReturnPathType.RequestPagesOf or ReturnPathType.RequestPages
            ? Request(type, bytes.Slice(4, length))
            : new ReturnPathMessage(type, length == 4 ? BinaryPrimitives.ReadUInt32BigEndian(bytes[4..]) : 0);
        _bytes.RemoveRange(0, 4 + length);
        _offset += 4 + length;
        return true;
    }

    // be64 offset, be32 bytes, and in the longer one the block's name behind its length.
    private ReturnPathMessage Request(ReturnPathType type, ReadOnlySpan<byte> body)
    {
        long offset = BinaryPrimitives.ReadInt64BigEndian(body);
        uint length = BinaryPrimitives.ReadUInt32BigEndian(body[8..]);
        if (type == ReturnPathType.RequestPagesOf)
        {
            if (body[12] != body.Length - 13)
            {
                throw new StreamFormatException(
                    _offset, $"A page request names a block in {body[12]} bytes; {body.Length - 13} follow.");
            }

            _block = System.Text.Encoding.Latin1.GetString(body[13..]);
        }

        return new ReturnPathMessage(type, length, offset, _block);
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
