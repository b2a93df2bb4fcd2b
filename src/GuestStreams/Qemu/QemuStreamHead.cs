using Godwit.Pages;

namespace Godwit.GuestStreams.Qemu;

/// <summary>What the head of a stream says about the guest.</summary>
/// <param name="Machine">QEMU's machine type, for example <c>pc-q35-10.0</c>.</param>
/// <param name="RamSectionId">Number of the RAM section; learned, never assumed.</param>
/// <param name="Blocks">In the order of the stream.</param>
public sealed record QemuStreamHead(string Machine, uint RamSectionId, IReadOnlyList<RamBlock> Blocks)
{
    /// <summary>The source may turn to postcopy: it sent POSTCOPY_ADVISE.</summary>
    public bool PostcopyAdvised { get; init; }

    /// <summary>Blocks in shared memory are left out of the stream (capability x-ignore-shared).</summary>
    public bool SharedBlocksLeftOut { get; init; }
}

/// <summary>Commands of the stream (element 08) that a migration of ours may contain.</summary>
public static class QemuCommand
{
    public const ushort OpenReturnPath = 1;
    public const ushort Ping = 2;
    public const ushort PostcopyAdvise = 3;
    /// <summary>Device state in one piece whose length is known, with the order to listen and to run in it.</summary>
    public const ushort PostcopyRamDiscard = 6;
    public const ushort Packaged = 7;
    /// <summary>From machine type 10.0 on: the guest has stopped, what follows is the rest.</summary>
    public const ushort SwitchoverStart = 11;
}

/// <summary>What a <see cref="QemuStreamReader"/> finds, in the stream's order.</summary>
/// <remarks>Spans are valid during the call only.</remarks>
public interface IQemuStreamSink
{
    /// <summary>Once: every byte from the header to the end of RAM's setup, without its footer.</summary>
    /// <remarks>QEMU keeps the 5 bytes of a footer back until its next write, so nobody waits for one.</remarks>
    void Prologue(ReadOnlySpan<byte> verbatim, QemuStreamHead head);

    /// <summary>A page's content: 4096 bytes, or none for a page of zeros.</summary>
    void Page(int blockIndex, PageNumber page, ReadOnlySpan<byte> content);

    /// <summary>The end of a RAM section.</summary>
    /// <param name="final">It was the last one.</param>
    /// <param name="pages">Page records in it.</param>
    void SectionEnd(bool final, int pages);

    /// <summary>A command between sections; those before RAM's setup are part of the prologue as well.</summary>
    void Command(ushort number, ReadOnlySpan<byte> payload);

    /// <summary>Bytes of device state and what follows, as they come.</summary>
    void Tail(ReadOnlySpan<byte> verbatim);
}
