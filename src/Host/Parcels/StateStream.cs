using System.Buffers;
using System.Buffers.Binary;
using System.Text;
using Godwit.GuestStreams.Qemu;
using Godwit.Pages;

namespace Godwit.Host.Parcels;

/// <summary>Puts the streams together that QEMU reads a parcel's state from; docs/formats/qemu-stream.md.</summary>
internal static class StateStream
{
    private const byte ConfigurationElement = 0x07;
    private const byte CommandElement = 0x08;
    private const byte StartElement = 0x01;
    private const int HeaderBytes = 8;

    /// <summary>
    /// Where the devices' state in a tail ends; -1 if the tail is not whole. Nothing in the stream says where it ends
    /// but its own last element: after an EOF, the description of the devices: a byte 6, a length, and JSON.
    /// </summary>
    public static int DevicesEnd(ReadOnlySpan<byte> tail)
    {
        const int before = 6;
        if (tail.IsEmpty || tail[^1] != (byte)'}')
        {
            return -1;
        }

        for (int from = 0; from < tail.Length - before; from++)
        {
            int found = tail[from..].IndexOf("\0\u0006"u8);
            if (found < 0 || from + found + before > tail.Length)
            {
                return -1;
            }

            from += found;
            uint length = BinaryPrimitives.ReadUInt32BigEndian(tail[(from + 2)..]);
            if (length == tail.Length - from - before && tail[from + before] == (byte)'{')
            {
                return from;
            }
        }

        return -1;
    }

    /// <summary>What a head says of the guest.</summary>
    /// <exception cref="StreamFormatException">It is no head.</exception>
    public static QemuStreamHead Parse(ReadOnlySpan<byte> head)
    {
        var sink = new HeadSink();
        new QemuStreamReader(sink).Feed(head);
        return sink.Head ?? throw new StreamFormatException(head.Length, "The state has no head.");
    }

    /// <summary>For a QEMU whose memory is in place: the head, blocks without a file in the last section, devices.
    /// </summary>
    public static byte[] Whole(
        ReadOnlySpan<byte> head, ReadOnlySpan<byte> tail, IReadOnlyList<(string Name, byte[] Content)> carried)
    {
        QemuStreamHead known = Parse(head);
        var output = new ArrayBufferWriter<byte>();
        var writer = new QemuStreamWriter(output, known);
        writer.Prologue(head);
        writer.Footer();
        writer.BeginEnd();
        Carry(writer, known, carried);
        writer.EndSection();
        output.Write(tail);
        return output.WrittenSpan.ToArray();
    }

    /// <summary>
    /// For a QEMU that gets its memory afterwards: the head, which says so, and blocks without a file.
    /// </summary>
    public static byte[] Advised(ReadOnlySpan<byte> head, IReadOnlyList<(string Name, byte[] Content)> carried)
    {
        QemuStreamHead known = Parse(head);
        int start = StartOf(head);
        var output = new ArrayBufferWriter<byte>();
        var writer = new QemuStreamWriter(output, known);
        writer.Prologue(head[..start]);
        Span<byte> pageSizes = stackalloc byte[16];
        BinaryPrimitives.WriteInt64BigEndian(pageSizes, Page.Size);
        BinaryPrimitives.WriteInt64BigEndian(pageSizes[8..], Page.Size);
        writer.Command(QemuCommand.PostcopyAdvise, pageSizes);
        writer.Prologue(head[start..]);
        writer.Footer();
        writer.BeginPart();
        Carry(writer, known, carried);
        writer.EndSection();
        return output.WrittenSpan.ToArray();
    }

    /// <summary>What follows <see cref="Advised"/>: the devices' state, after which the guest may run.</summary>
    /// <param name="missing">The block that is filled afterwards.</param>
    public static byte[] Packaged(QemuStreamHead head, RamBlock missing, ReadOnlySpan<byte> tail)
    {
        const ushort listen = 4, run = 5, discard = 6, packaged = 7;
        int end = DevicesEnd(tail);
        if (end < 0)
        {
            throw new StreamFormatException(tail.Length, "The state of the devices is cut off.");
        }

        var package = new ArrayBufferWriter<byte>();
        var writer = new QemuStreamWriter(package, head);
        writer.Command(listen, []);
        package.Write(tail[..end]);
        writer.Command(run, []);
        var output = new ArrayBufferWriter<byte>();
        var outer = new QemuStreamWriter(output, head);
        // All of it is missing already. But a QEMU that listens without ever having discarded anything (10.0) takes
        // pages as before a postcopy: it waits for the pages that it is about to put in place.
        byte[] name = Encoding.UTF8.GetBytes(missing.Name);
        byte[] range = new byte[16];
        BinaryPrimitives.WriteInt64BigEndian(range.AsSpan(8), missing.Length);
        outer.Command(discard, [0, (byte)name.Length, .. name, 0, .. range]);
        Span<byte> length = stackalloc byte[4];
        BinaryPrimitives.WriteInt32BigEndian(length, package.WrittenCount);
        outer.Command(packaged, length);
        output.Write(package.WrittenSpan);
        return output.WrittenSpan.ToArray();
    }

    // QEMU's own order: the advice comes between the commands and RAM's setup.
    private static int StartOf(ReadOnlySpan<byte> head)
    {
        int at = HeaderBytes;
        if (head.Length > at + 5 && head[at] == ConfigurationElement)
        {
            at += 5 + BinaryPrimitives.ReadInt32BigEndian(head[(at + 1)..]);
        }

        while (at >= 0 && at + 5 <= head.Length && head[at] == CommandElement)
        {
            at += 5 + BinaryPrimitives.ReadUInt16BigEndian(head[(at + 3)..]);
        }

        return at > 0 && at < head.Length && head[at] == StartElement ? at
            : throw new StreamFormatException(at, "The state's head has something before RAM that is not known.");
    }

    private static void Carry(
        QemuStreamWriter writer, QemuStreamHead head, IReadOnlyList<(string Name, byte[] Content)> carried)
    {
        foreach ((string name, byte[] content) in carried)
        {
            RamBlock block = head.Blocks.FirstOrDefault(one => one.Name == name && one.Length == content.Length)
                ?? throw new StreamFormatException(0, $"The state has no block {name} of {content.Length} bytes.");
            for (int page = 0; page < block.PageCount; page++)
            {
                ReadOnlySpan<byte> one = content.AsSpan(page * Page.Size, Page.Size);
                if (ZeroTest.IsZero(one))
                {
                    writer.ZeroPage(block, new PageNumber(page));
                }
                else
                {
                    writer.Page(block, new PageNumber(page), one);
                }
            }
        }
    }

    private sealed class HeadSink : IQemuStreamSink
    {
        public QemuStreamHead? Head { get; private set; }

        public void Prologue(ReadOnlySpan<byte> verbatim, QemuStreamHead head) => Head = head;

        public void Page(int blockIndex, PageNumber page, ReadOnlySpan<byte> content)
        {
        }

        public void SectionEnd(bool final, int pages)
        {
        }

        public void Command(ushort number, ReadOnlySpan<byte> payload)
        {
        }

        public void Tail(ReadOnlySpan<byte> verbatim)
        {
        }
    }
}
