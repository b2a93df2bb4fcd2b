using System.Buffers.Binary;
using System.Numerics;

namespace Godwit.ChunkStore.Trees;

/// <summary>A node of a tree: the ids of up to 16 children, those that are all zeros left out.</summary>
/// <remarks>
/// docs/formats/chunk-store.md. A node is at most 516 bytes and a page always 4096, so that neither can be taken for
/// the other; the level in it keeps nodes of different levels apart.
/// </remarks>
public static class TreeNode
{
    /// <summary>Children of a node. docs/decisions/chunk-granularity.md has the reason.</summary>
    public const int Fanout = 16;

    /// <summary>Bytes of the largest node.</summary>
    public const int BytesMax = HeaderBytes + (Fanout * ChunkId.Size);

    /// <summary>The highest level there can be: 2^36 pages, 256 TiB.</summary>
    public const int LevelMax = 8;

    private const int HeaderBytes = 4;
    private const byte Format = 1;

    /// <summary>Writes a node.</summary>
    /// <param name="level">0 for one whose children are pages.</param>
    /// <param name="children">Up to 16, not all of them zeros.</param>
    /// <param name="to">At least <see cref="BytesMax"/> bytes.</param>
    /// <returns>Bytes written.</returns>
    public static int Write(int level, ReadOnlySpan<ChunkId> children, Span<byte> to)
    {
        int at = HeaderBytes;
        int present = 0;
        for (int i = 0; i < children.Length; i++)
        {
            if (!children[i].IsZeros)
            {
                present |= 1 << i;
                children[i].Write(to[at..]);
                at += ChunkId.Size;
            }
        }

        to[0] = Format;
        to[1] = (byte)level;
        BinaryPrimitives.WriteUInt16LittleEndian(to[2..], (ushort)present);
        return at;
    }

    /// <summary>Reads a node.</summary>
    /// <param name="children">16 of them; those that are zeros have the default id.</param>
    /// <returns>False if these bytes are no node of this level.</returns>
    public static bool TryRead(ReadOnlySpan<byte> bytes, int level, Span<ChunkId> children)
    {
        if (bytes.Length < HeaderBytes || bytes[0] != Format || bytes[1] != level)
        {
            return false;
        }

        int present = BinaryPrimitives.ReadUInt16LittleEndian(bytes[2..]);
        if (present == 0 || bytes.Length != HeaderBytes + (BitOperations.PopCount((uint)present) * ChunkId.Size))
        {
            return false;
        }

        int at = HeaderBytes;
        for (int i = 0; i < Fanout; i++)
        {
            children[i] = default;
            if ((present & (1 << i)) != 0)
            {
                children[i] = ChunkId.Read(bytes[at..]);
                at += ChunkId.Size;
                // Zeros are left out: one tree has one form, and equal contents have equal roots.
                if (children[i].IsZeros)
                {
                    return false;
                }
            }
        }

        return true;
    }

    /// <summary>Level of the root over so many pages.</summary>
    public static int RootLevel(long pages)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(pages);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(pages, 1L << (4 * (LevelMax + 1)));
        int level = 0;
        for (long covered = Fanout; covered < pages; covered *= Fanout)
        {
            level++;
        }

        return level;
    }
}
