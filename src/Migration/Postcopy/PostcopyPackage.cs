using System.Buffers;
using System.Buffers.Binary;

namespace Godwit.Migration.Postcopy;

/// <summary>Makes of the end of a precopy stream what a QEMU that waits for a postcopy takes in one piece.</summary>
/// <remarks>
/// The end of a precopy is device state, one FULL section after the other, an end mark (00), and a description (06,
/// be32 length, JSON) that nobody needs. The sections state no lengths. But the description does, and stands last: the
/// end has come whole when an end mark is followed by a description that reaches exactly as far as what has come.
/// A package is the command PACKAGED with, inside, LISTEN, the sections, a PING, and RUN.
/// </remarks>
public sealed class PostcopyPackage
{
    // As many bytes as a destination holds of device state.
    private const int BytesMax = 64 << 20;
    private readonly ArrayBufferWriter<byte> _tail = new();

    private static ReadOnlySpan<byte> Listen => [8, 0, 4, 0, 0];

    private static ReadOnlySpan<byte> PingAndRun => [8, 0, 2, 0, 4, 0, 0, 0, 3, 8, 0, 5, 0, 0];

    /// <summary>The next bytes, cut anywhere.</summary>
    /// <exception cref="Pages.StreamFormatException">More than any guest's device state.</exception>
    public void Add(ReadOnlySpan<byte> bytes)
    {
        if (_tail.WrittenCount + bytes.Length > BytesMax)
        {
            throw new Pages.StreamFormatException(0, $"More than {BytesMax} bytes of device state.");
        }

        _tail.Write(bytes);
    }

    /// <summary>Gives the package, its command in front; false as long as the end has not come whole.</summary>
    public bool TryBuild(out byte[] package)
    {
        package = [];
        ReadOnlySpan<byte> tail = _tail.WrittenSpan;
        int end = EndMark(tail);
        if (end < 0)
        {
            return false;
        }

        package = [8, 0, 7, 0, 4, 0, 0, 0, 0, .. Listen, .. tail[..end], .. PingAndRun];
        BinaryPrimitives.WriteInt32BigEndian(package.AsSpan(5), package.Length - 9);
        return true;
    }

    private static int EndMark(ReadOnlySpan<byte> tail)
    {
        if (tail.IsEmpty || tail[^1] != (byte)'}')
        {
            return -1;
        }

        for (int at = 0; ; at++)
        {
            int next = tail[at..].IndexOf([(byte)0, (byte)6]);
            if (next < 0)
            {
                return -1;
            }

            at += next;
            if (at + 7 <= tail.Length && tail[at + 6] == (byte)'{'
                && BinaryPrimitives.ReadUInt32BigEndian(tail[(at + 2)..]) == (uint)(tail.Length - at - 6))
            {
                return at;
            }
        }
    }
}
