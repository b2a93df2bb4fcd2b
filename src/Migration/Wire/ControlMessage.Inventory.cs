using System.Buffers;
using System.Buffers.Binary;
using Godwit.ChunkStore;
using Godwit.Pages;

namespace Godwit.Migration.Wire;

/// <summary>Where the destination would take a content from. The values are on the wire.</summary>
public enum ContentOrigin
{
    /// <summary>The memory image that this guest left behind when it was there last.</summary>
    OwnMemory = 0,

    /// <summary>The guest's disk images and what they are based on.</summary>
    Disk = 1,

    /// <summary>What other guests of that host hold.</summary>
    Sibling = 2,
}

// What the destination can rebuild by itself, and what it could not after all. From version 2 on.
public abstract partial record ControlMessage
{
    /// <summary>Contents the destination believes it has. A fingerprint is a guess and promises nothing.</summary>
    /// <param name="Fingerprints">8 bytes each, little-endian; at most <see cref="CountMax"/>.</param>
    public sealed record InventoryOffer(ContentOrigin Origin, ReadOnlyMemory<byte> Fingerprints) : ControlMessage
    {
        /// <summary>Fingerprints in one message: what waits behind it waits milliseconds on a slow link.</summary>
        public const int CountMax = 4096;
    }

    /// <summary>What the destination had ready has been offered. More may follow.</summary>
    /// <param name="TakesDeltas">
    /// It can read the guest's memory, and so apply a delta to what a page holds; not where QEMU alone has it.
    /// </param>
    public sealed record InventoryReady(bool TakesDeltas) : ControlMessage;

    /// <summary>Pages that were sent by name and could not be rebuilt: their contents are wanted.</summary>
    /// <param name="Region">All of them lie in this region of the block, and so on one lane.</param>
    /// <param name="Bits">64 bytes, one bit per page of the region; at least one is set.</param>
    public sealed record PagesWanted(int BlockIndex, long Region, ReadOnlyMemory<byte> Bits) : ControlMessage
    {
        /// <summary>Bytes of <see cref="Bits"/>.</summary>
        public const int BitsBytes = Page.RegionPages / 8;

        /// <summary>The pages, ascending.</summary>
        public IEnumerable<PageNumber> Pages()
        {
            for (int i = 0; i < Page.RegionPages; i++)
            {
                if ((Bits.Span[i / 8] & (1 << (i % 8))) != 0)
                {
                    yield return new PageNumber((Region * Page.RegionPages) + i);
                }
            }
        }
    }

    private static void WriteOffer(IBufferWriter<byte> writer, InventoryOffer offer)
    {
        byte[] body = new byte[1 + offer.Fingerprints.Length];
        body[0] = (byte)offer.Origin;
        offer.Fingerprints.Span.CopyTo(body.AsSpan(1));
        WriteFrame(writer, FrameType.InventoryOffer, body);
    }

    private static InventoryOffer ReadOffer(ReadOnlySpan<byte> body)
    {
        const int bytesMax = InventoryOffer.CountMax * Fingerprint.Size;
        if (body.Length is < 1 or > 1 + bytesMax || body.Length % Fingerprint.Size != 1
            || body[0] > (byte)ContentOrigin.Sibling)
        {
            throw Malformed(FrameType.InventoryOffer, body, $"an origin and up to {bytesMax} bytes of fingerprints");
        }

        return new InventoryOffer((ContentOrigin)body[0], body[1..].ToArray());
    }

    private static void WriteWanted(IBufferWriter<byte> writer, PagesWanted wanted)
    {
        Span<byte> body = stackalloc byte[6 + PagesWanted.BitsBytes];
        BinaryPrimitives.WriteUInt16LittleEndian(body, checked((ushort)wanted.BlockIndex));
        BinaryPrimitives.WriteUInt32LittleEndian(body[2..], checked((uint)wanted.Region));
        wanted.Bits.Span.CopyTo(body[6..]);
        WriteFrame(writer, FrameType.PagesWanted, body);
    }

    private static PagesWanted ReadWanted(ReadOnlySpan<byte> body)
    {
        if (body.Length != 6 + PagesWanted.BitsBytes || !body[6..].ContainsAnyExcept((byte)0))
        {
            throw Malformed(FrameType.PagesWanted, body, $"{6 + PagesWanted.BitsBytes} with a page named");
        }

        return new PagesWanted(
            BinaryPrimitives.ReadUInt16LittleEndian(body), BinaryPrimitives.ReadUInt32LittleEndian(body[2..]),
            body[6..].ToArray());
    }
}
