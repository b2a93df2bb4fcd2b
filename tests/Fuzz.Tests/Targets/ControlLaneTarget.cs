using System.Buffers;
using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Fuzz.Tests.Targets;

/// <summary>Frames and messages of the control lane: what is read can be written, and reads the same again.</summary>
internal static class ControlLaneTarget
{
    public static bool Fuzz(ReadOnlySpan<byte> bytes)
    {
        try
        {
            while (bytes.Length >= FrameHeader.Size)
            {
                FrameHeader header = FrameHeader.Read(bytes, FrameHeader.ControlBodyMax);
                bytes = bytes[FrameHeader.Size..];
                if (bytes.Length < header.BodyLength)
                {
                    break;
                }

                byte[] written = Encode(ControlMessage.Decode(header.Type, bytes[..header.BodyLength]));
                FrameHeader again = FrameHeader.Read(written, FrameHeader.ControlBodyMax);
                Require.That(again.Type == header.Type && again.BodyLength == written.Length - FrameHeader.Size,
                    "the type and the length come back");
                Require.That(
                    written.AsSpan().SequenceEqual(
                        Encode(ControlMessage.Decode(again.Type, written.AsSpan(FrameHeader.Size)))),
                    "what is written reads the same");
                bytes = bytes[header.BodyLength..];
            }

            return true;
        }
        catch (StreamFormatException)
        {
            return false;
        }
    }

    private static byte[] Encode(ControlMessage message)
    {
        var writer = new ArrayBufferWriter<byte>();
        message.Encode(writer);
        return writer.WrittenSpan.ToArray();
    }
}
