using System.Buffers.Binary;
using Godwit.Pages;

namespace Godwit.Migration.Wire;

/// <summary>What a frame carries; docs/formats/wire-protocol.md lists each body.</summary>
public enum FrameType : byte
{
    // Page lanes.
    PageBatch = 1,
    Barrier = 2,
    /// <summary>The lane has brought what it had before the guest was stopped for postcopy.</summary>
    PauseBarrier = 3,

    // Control lane.
    Prologue = 16,
    StreamCommand = 17,
    DeviceState = 18,
    Received = 19,
    Ping = 20,
    Pong = 21,
    PagesPlaced = 22,
    Loaded = 23,
    Commit = 24,
    Running = 25,
    Abort = 26,
    LaneAccepted = 27,
    LaneRefused = 28,
    InventoryOffer = 29,
    InventoryReady = 30,
    PagesWanted = 31,
    PagesMissing = 32,
    MissingTold = 33,
    PagesRequested = 34,
    MemoryComplete = 35,
}

/// <summary>The 8 bytes before every body: length, type, and room for flags that are zero today.</summary>
/// <param name="BodyLength">Bytes after the header.</param>
public readonly record struct FrameHeader(FrameType Type, int BodyLength)
{
    /// <summary>Bytes of a header.</summary>
    public const int Size = 8;

    /// <summary>
    /// Longest body on a page lane: a batch's contents, names, bitmaps and header, and room to spare.
    /// </summary>
    public const int PageBodyMax = 272 << 10;

    /// <summary>
    /// Longest body on the control lane: the prologue names every RAM block and stays far below this.
    /// </summary>
    public const int ControlBodyMax = 1 << 20;

    public void Write(Span<byte> header)
    {
        BinaryPrimitives.WriteInt32LittleEndian(header, BodyLength);
        header[4] = (byte)Type;
        header[5] = 0;
        header[6] = 0;
        header[7] = 0;
    }

    /// <summary>Reads a header and weighs the length it states before anyone rents a buffer for it.</summary>
    /// <exception cref="StreamFormatException">
    /// The length is over <paramref name="bodyMax"/> or a reserved byte is set.
    /// </exception>
    public static FrameHeader Read(ReadOnlySpan<byte> header, int bodyMax)
    {
        uint length = BinaryPrimitives.ReadUInt32LittleEndian(header);
        if (length > (uint)bodyMax)
        {
            throw new StreamFormatException(
                0, $"A frame announces a body of {length} bytes; the limit on this lane is {bodyMax}.");
        }

        if ((header[5] | header[6] | header[7]) != 0)
        {
            throw new StreamFormatException(
                5, "A frame's reserved bytes are set: the peer speaks a later version than was agreed.");
        }

        return new FrameHeader((FrameType)header[4], (int)length);
    }
}

/// <summary>The first 40 bytes of every lane: which version, which lane, which transfer.</summary>
public static class LanePreamble
{
    public const int Size = 40;
    public const int TicketBytes = 32;
    private static ReadOnlySpan<byte> Magic => "GDWL"u8;

    public static void Write(Span<byte> preamble, int version, int lane, ReadOnlySpan<byte> ticket)
    {
        Magic.CopyTo(preamble);
        BinaryPrimitives.WriteUInt16LittleEndian(preamble[4..], (ushort)version);
        BinaryPrimitives.WriteUInt16LittleEndian(preamble[6..], (ushort)lane);
        ticket[..TicketBytes].CopyTo(preamble[8..]);
    }

    /// <exception cref="StreamFormatException">Not a lane of ours.</exception>
    public static (int Version, int Lane, byte[] Ticket) Read(ReadOnlySpan<byte> preamble)
    {
        if (!preamble[..4].SequenceEqual(Magic))
        {
            throw new StreamFormatException(0, "The connection does not begin as a Godwit lane.");
        }

        return (BinaryPrimitives.ReadUInt16LittleEndian(preamble[4..]),
            BinaryPrimitives.ReadUInt16LittleEndian(preamble[6..]),
            preamble.Slice(8, TicketBytes).ToArray());
    }
}
