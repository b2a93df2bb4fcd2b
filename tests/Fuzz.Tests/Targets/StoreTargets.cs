using System.Buffers.Binary;
using Godwit.ChunkStore;
using Godwit.ChunkStore.Packs;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.ChunkStore.Trees;
using Godwit.Host.Storage;

namespace Godwit.Fuzz.Tests.Targets;

/// <summary>Objects of a store that anybody who reaches it may have written.</summary>
internal static class StoreTargets
{
    private const int IndexChecksumAt = ObjectHeader.Size;
    private static readonly Anybody Judge = new();

    /// <summary>A pack's trailer: the input is a whole pack.</summary>
    public static bool FuzzPack(ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length < ObjectHeader.Size + PackBuilder.FooterBytes)
        {
            return false;
        }

        long start = PackTrailer.Start(bytes[^PackBuilder.FooterBytes..], bytes.Length);
        if (start < 0)
        {
            return false;
        }

        try
        {
            PackTrailer trailer = PackTrailer.Parse(
                "pack", bytes[..ObjectHeader.Size], bytes[(int)start..], start, key: null);
            foreach ((_, ChunkPlace place) in trailer.Chunks)
            {
                Require.That(place.Offset + place.Length <= start, "every segment lies before the trailer");
            }

            return true;
        }
        catch (StoreFormatException)
        {
            return false;
        }
    }

    /// <summary>A segment, as a damaged or forged pack may hold it.</summary>
    public static bool FuzzSegment(ReadOnlySpan<byte> bytes)
    {
        using var coder = new SegmentCoder();
        byte[] plain = new byte[Segment.PlainBytesMax];
        string? wrong = Segment.Open(
            bytes, 32, null, coder, plain, new byte[Segment.PlainBytesMax], out int length, out int slots);
        if (wrong is not null)
        {
            return false;
        }

        for (int slot = 0; slot < slots; slot++)
        {
            Require.That(
                !Segment.TryFind(plain.AsSpan(0, length), slots, slot, out ReadOnlySpan<byte> chunk)
                    || chunk.Length <= length, "a chunk lies in its segment");
        }

        return true;
    }

    /// <summary>An index, also with the right checksum: no change gets past that.</summary>
    public static bool FuzzIndex(ReadOnlySpan<byte> bytes)
    {
        byte[] sealedBytes = bytes.ToArray();
        if (sealedBytes.Length >= ChunkIndex.FixedBytes)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(
                sealedBytes.AsSpan(IndexChecksumAt), ChunkIndex.Checksum(sealedBytes));
            ReadIndex(sealedBytes);
        }

        return ReadIndex(bytes.ToArray());
    }

    /// <summary>A node of a tree, taken for one of its own level.</summary>
    public static bool FuzzNode(ReadOnlySpan<byte> bytes)
    {
        Span<ChunkId> children = stackalloc ChunkId[TreeNode.Fanout];
        int level = bytes.Length > 1 ? bytes[1] : 0;
        if (!TreeNode.TryRead(bytes, level, children))
        {
            return false;
        }

        Span<byte> again = stackalloc byte[TreeNode.BytesMax];
        int length = TreeNode.Write(level, children, again);
        Require.That(again[..length].SequenceEqual(bytes), "a node has one form");
        return true;
    }

    /// <summary>A manifest whose signature is good whatever it says.</summary>
    public static bool FuzzManifest(ReadOnlySpan<byte> bytes)
    {
        try
        {
            ParcelManifest manifest = ParcelShelf.Read("p1", bytes, Judge, key: null);
            Require.That(manifest.Parts.All(part => part.Pages >= 0), "every part has pages");
            Require.That(manifest.StateHeadBytes <= manifest.State.Bytes, "the head is a part of the state");
            return true;
        }
        catch (ParcelRefusedException)
        {
            return false;
        }
    }

    private static bool ReadIndex(byte[] bytes)
    {
        ChunkIndex index;
        try
        {
            index = ChunkIndex.Open("index", bytes, key: null);
        }
        catch (StoreFormatException)
        {
            return false;
        }

        // Ids in no order at all: whatever is asked for, the search ends.
        for (int i = 0; i < 8; i++)
        {
            if (index.TryFind(new ChunkId((UInt128)(uint)i << 125, 7), out int entry))
            {
                index.PlaceOf(entry);
                index.PackOf(entry);
            }
        }

        index.TryFind(default, out _);
        index.TryFind(new ChunkId(UInt128.MaxValue, UInt128.MaxValue), out _);
        return true;
    }

    private sealed class Anybody : IParcelJudge
    {
        public string? Refusal(
            ReadOnlySpan<byte> certificate, ReadOnlySpan<byte> bytes, ReadOnlySpan<byte> signature, string host) =>
            null;
    }
}
