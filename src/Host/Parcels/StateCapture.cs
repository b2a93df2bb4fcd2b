using System.Buffers;
using System.Buffers.Binary;
using Godwit.GuestStreams.Qemu;
using Godwit.Migration;
using Godwit.Pages;

namespace Godwit.Host.Parcels;

/// <summary>What QEMU's stream says of a guest that is put into a store: which pages changed, and its state.</summary>
/// <remarks>
/// Contents of the guest's own memory are not taken from the stream: whoever stores a page reads it from the memory
/// file after the stream has named it. Blocks without a file (ROM, video memory) are kept here. The caller locks.
/// </remarks>
internal sealed class StateCapture(Func<RamBlock, bool> isShared) : IQemuStreamSink
{
    /// <summary>Blocks without a file, together: a guest's video memory and ROMs are a tenth of it.</summary>
    private const long CarriedBytesMax = 256 << 20;
    private readonly List<byte> _head = [];
    private readonly ArrayBufferWriter<byte> _tail = new();
    private byte[]?[] _carried = [];

    /// <summary>Null until the stream has begun.</summary>
    public QemuStreamHead? Head { get; private set; }

    /// <summary>
    /// Pages of the shared block that were named and not taken since; null until the stream has begun.
    /// </summary>
    public DirtySet? Dirty { get; private set; }

    /// <summary>Sections of RAM that have ended.</summary>
    public long Sections { get; private set; }

    /// <summary>RAM has ended: the guest stands still, and no page will be named any more.</summary>
    public bool RamEnded { get; private set; }

    /// <summary>The number of each PING that has not been answered.</summary>
    public Queue<uint> Pings { get; } = new();

    /// <summary>The stream's head, and what follows RAM.</summary>
    public (byte[] Head, byte[] Tail) State => ([.. _head], _tail.WrittenSpan.ToArray());

    /// <summary>Contents of blocks without a file.</summary>
    public IEnumerable<(RamBlock Block, byte[] Content)> Carried =>
        Head!.Blocks.Where(block => !isShared(block))
            .Select(block => (block, _carried[block.Index] ?? new byte[block.Length]));

    public void Prologue(ReadOnlySpan<byte> verbatim, QemuStreamHead head)
    {
        _head.AddRange(verbatim);
        _carried = new byte[head.Blocks.Count][];
        long carried = head.Blocks.Where(block => !isShared(block)).Sum(block => block.Length);
        RamBlock[] shared = [.. head.Blocks.Where(isShared)];
        if (shared.Length != 1 || carried > CarriedBytesMax)
        {
            throw new GodwitException("parcel-memory",
                $"The guest has {shared.Length} blocks of shared memory and {carried >> 20} MiB that are not shared; "
                + $"a parcel takes one, and at most {CarriedBytesMax >> 20} MiB.",
                "A guest that was created with --private-memory cannot be suspended into a store.");
        }

        Dirty = new DirtySet(shared[0].PageCount);
        Head = head;
    }

    public void Page(int blockIndex, PageNumber page, ReadOnlySpan<byte> content)
    {
        RamBlock block = Head!.Blocks[blockIndex];
        if (isShared(block))
        {
            Dirty!.Add(page);
            return;
        }

        Span<byte> to = (_carried[blockIndex] ??= new byte[block.Length]).AsSpan(
            (int)page.ByteOffset, Godwit.Pages.Page.Size);
        to.Clear();
        content.CopyTo(to);
    }

    public void SectionEnd(bool final, int pages)
    {
        Sections++;
        RamEnded |= final;
    }

    public void Command(ushort number, ReadOnlySpan<byte> payload)
    {
        if (number == QemuCommand.Ping)
        {
            Pings.Enqueue(BinaryPrimitives.ReadUInt32BigEndian(payload));
        }
    }

    public void Tail(ReadOnlySpan<byte> verbatim) => _tail.Write(verbatim);

    /// <summary>Whether the tail is whole.</summary>
    public bool TailIsWhole => RamEnded && StateStream.DevicesEnd(_tail.WrittenSpan) >= 0;
}
