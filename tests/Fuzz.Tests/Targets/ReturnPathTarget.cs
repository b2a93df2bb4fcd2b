using System.Buffers;
using System.Buffers.Binary;
using System.Text;
using Godwit.GuestStreams.Qemu;
using Godwit.Pages;

namespace Godwit.Fuzz.Tests.Targets;

/// <summary>The return path: whole and byte by byte say the same, and written again it is the input.</summary>
internal static class ReturnPathTarget
{
    public static bool Fuzz(ReadOnlySpan<byte> bytes)
    {
        string whole = Outcome(bytes, bytes.Length, 1);
        Require.That(whole == Outcome(bytes, 0, 1), "byte by byte is the same");
        return whole[0] != 'R';
    }

    /// <summary>All that came of the bytes, in a first piece and then equal ones; begins with R if refused.</summary>
    public static string Outcome(ReadOnlySpan<byte> bytes, int first, int then)
    {
        var reader = new ReturnPathReader();
        var written = new ArrayBufferWriter<byte>(bytes.Length + 8);
        try
        {
            Take(reader, bytes[..first], written);
            for (int at = first; at < bytes.Length; at += then)
            {
                Take(reader, bytes.Slice(at, Math.Min(then, bytes.Length - at)), written);
            }

            Require.That(bytes.StartsWith(written.WrittenSpan), "the messages written again are the input");
            return $"{written.WrittenCount}";
        }
        catch (StreamFormatException e)
        {
            Require.That(e.Offset == written.WrittenCount, "a refusal stands where the message begins");
            return $"Refused at {e.Offset}";
        }
    }

    private static void WriteRequest(ArrayBufferWriter<byte> written, ReturnPathMessage message)
    {
        byte[] name = message.Type == ReturnPathType.RequestPagesOf ? Encoding.Latin1.GetBytes(message.Block) : [];
        byte[] tail = name.Length > 0 ? [(byte)name.Length, .. name] : [];
        Span<byte> bytes = written.GetSpan(16 + tail.Length);
        BinaryPrimitives.WriteUInt16BigEndian(bytes, (ushort)message.Type);
        BinaryPrimitives.WriteUInt16BigEndian(bytes[2..], (ushort)(12 + tail.Length));
        BinaryPrimitives.WriteInt64BigEndian(bytes[4..], message.Offset);
        BinaryPrimitives.WriteUInt32BigEndian(bytes[12..], message.Value);
        tail.CopyTo(bytes[16..]);
        written.Advance(16 + tail.Length);
    }

    private static void Take(ReturnPathReader reader, ReadOnlySpan<byte> piece, ArrayBufferWriter<byte> written)
    {
        reader.Feed(piece);
        while (reader.TryTake(out ReturnPathMessage message))
        {
            switch (message.Type)
            {
                case ReturnPathType.Shut: ReturnPathWriter.Shut(written, message.Value); break;
                case ReturnPathType.Pong: ReturnPathWriter.Pong(written, message.Value); break;
                case ReturnPathType.RequestPagesOf or ReturnPathType.RequestPages:
                    WriteRequest(written, message);
                    break;
                default: ReturnPathWriter.SwitchoverAck(written); break;
            }
        }
    }
}
