using System.Buffers;
using System.Buffers.Binary;
using System.Text;
using Godwit.Pages;

namespace Godwit.GuestStreams.Qemu;

/// <summary>Builds the stream that the destination's QEMU reads; docs/formats/qemu-stream.md.</summary>
public sealed class QemuStreamWriter(IBufferWriter<byte> output, QemuStreamHead head)
{
    private const ulong Zero = 0x002, PageRecord = 0x008, EndOfSection = 0x010, Continue = 0x020;
    private int _currentBlock = -1;

    /// <summary>The bytes of a stream's head as they were read.</summary>
    public void Prologue(ReadOnlySpan<byte> verbatim) => output.Write(verbatim);

    /// <summary>The 5 bytes that close a section.</summary>
    public void Footer()
    {
        Span<byte> footer = output.GetSpan(5);
        footer[0] = 0x7E;
        BinaryPrimitives.WriteUInt32BigEndian(footer[1..], head.RamSectionId);
        output.Advance(5);
    }

    /// <summary>Opens a RAM section that others may follow.</summary>
    public void BeginPart() => Begin(0x02);

    /// <summary>Opens RAM's last section.</summary>
    public void BeginEnd() => Begin(0x03);

    /// <summary>Writes a record for a page of zeros into the open section.</summary>
    public void ZeroPage(RamBlock block, PageNumber page)
    {
        Record(block, page, Zero);
        output.GetSpan(1)[0] = 0;
        output.Advance(1);
    }

    /// <summary>Writes a record for a page into the open section.</summary>
    /// <param name="block">The block as the prologue lists it.</param>
    /// <param name="page">A page inside the block.</param>
    /// <param name="content">4096 bytes; a page of zeros costs less as <see cref="ZeroPage"/>.</param>
    public void Page(RamBlock block, PageNumber page, ReadOnlySpan<byte> content)
    {
        // A record states no length: one byte more or less and QEMU takes guest memory for records.
        if (content.Length != Godwit.Pages.Page.Size)
        {
            throw new ArgumentException(
                $"Page {page} of RAM block {block.Name} has {content.Length} bytes, not {Godwit.Pages.Page.Size}.",
                nameof(content));
        }

        Record(block, page, PageRecord);
        output.Write(content);
    }

    /// <summary>Closes the open section.</summary>
    public void EndSection()
    {
        Word(EndOfSection);
        Footer();
    }

    /// <summary>Writes a command between two sections.</summary>
    public void Command(ushort number, ReadOnlySpan<byte> payload)
    {
        Span<byte> command = output.GetSpan(5);
        command[0] = 0x08;
        BinaryPrimitives.WriteUInt16BigEndian(command[1..], number);
        BinaryPrimitives.WriteUInt16BigEndian(command[3..], checked((ushort)payload.Length));
        output.Advance(5);
        output.Write(payload);
    }

    /// <summary>Has QEMU take pages away, which it has to do once at least before it listens.</summary>
    public void Discard(RamBlock block, PageNumber first, long count)
    {
        byte[] name = Encoding.UTF8.GetBytes(block.Name);
        byte[] payload = new byte[3 + name.Length + (2 * sizeof(ulong))];
        payload[1] = checked((byte)name.Length);
        name.CopyTo(payload, 2);
        BinaryPrimitives.WriteInt64BigEndian(payload.AsSpan(name.Length + 3), first.Value * Pages.Page.Size);
        BinaryPrimitives.WriteInt64BigEndian(payload.AsSpan(name.Length + 3 + sizeof(ulong)), count * Pages.Page.Size);
        Command(QemuCommand.PostcopyRamDiscard, payload);
    }

    /// <summary>Ends a postcopy stream: behind RAM's last section nothing follows.</summary>
    public void EndOfStream()
    {
        output.GetSpan(1)[0] = 0;
        output.Advance(1);
    }

    private void Begin(byte type)
    {
        Span<byte> section = output.GetSpan(5);
        section[0] = type;
        BinaryPrimitives.WriteUInt32BigEndian(section[1..], head.RamSectionId);
        output.Advance(5);
    }

    private void Record(RamBlock block, PageNumber page, ulong flags)
    {
        if ((ulong)page.Value >= (ulong)block.PageCount)
        {
            throw new ArgumentOutOfRangeException(
                nameof(page), $"Page {page} lies outside RAM block {block.Name} of {block.PageCount} pages.");
        }

        ulong word = ((ulong)page.Value * Godwit.Pages.Page.Size) | flags;
        if (block.Index == _currentBlock)
        {
            Word(word | Continue);
            return;
        }

        Word(word);
        int length = Encoding.UTF8.GetByteCount(block.Name);
        Span<byte> name = output.GetSpan(1 + length);
        name[0] = (byte)length;
        Encoding.UTF8.GetBytes(block.Name, name[1..]);
        output.Advance(1 + length);
        _currentBlock = block.Index;
    }

    private void Word(ulong word)
    {
        BinaryPrimitives.WriteUInt64BigEndian(output.GetSpan(8), word);
        output.Advance(8);
    }
}
