using System.Buffers.Binary;
using Godwit.ChunkStore;
using Godwit.ChunkStore.Trees;

namespace Godwit.Host.Inventory;

/// <summary>A block of a hoard that holds nodes of trees, one behind the other, each after its length.</summary>
/// <remarks>docs/formats/inventory.md. A length of 0, or the end of the block, ends it.</remarks>
internal static class NodeBlock
{
    private const int LengthBytes = 2;

    /// <summary>Puts a node behind those that are there.</summary>
    /// <param name="used">Bytes of the block that are in use; grows.</param>
    /// <returns>False if it has no room.</returns>
    public static bool TryAdd(Span<byte> block, ref int used, ReadOnlySpan<byte> node)
    {
        if (used + LengthBytes + node.Length > block.Length)
        {
            return false;
        }

        BinaryPrimitives.WriteUInt16LittleEndian(block[used..], (ushort)node.Length);
        node.CopyTo(block[(used + LengthBytes)..]);
        used += LengthBytes + node.Length;
        return true;
    }

    /// <summary>Finds a node and moves it to the block's beginning.</summary>
    public static bool TryFind(Span<byte> block, ChunkId id, out int length)
    {
        for (int at = 0; at + LengthBytes <= block.Length; at += LengthBytes + length)
        {
            length = BinaryPrimitives.ReadUInt16LittleEndian(block[at..]);
            if (length is 0 or > TreeNode.BytesMax || at + LengthBytes + length > block.Length)
            {
                break;
            }

            Span<byte> node = block.Slice(at + LengthBytes, length);
            if (ChunkId.Of(node) == id)
            {
                node.CopyTo(block);
                return true;
            }
        }

        length = 0;
        return false;
    }
}
