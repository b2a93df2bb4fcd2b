using Godwit.ChunkStore.Storage;

namespace Godwit.ChunkStore.Trees;

/// <summary>Stores a node and gives its id.</summary>
public delegate ChunkId NodeSink(ReadOnlySpan<byte> node);

/// <summary>Ids of pages that follow each other; default for those of zeros.</summary>
/// <param name="First">Number of the first page.</param>
public readonly record struct TreePart(long First, ReadOnlyMemory<ChunkId> Pages);

/// <summary>Trees over the pages of a memory or a disk: equal contents have equal roots, whoever built them.</summary>
public static class ChunkTree
{
    /// <summary>Pages of the largest tree that is read: 1 TiB.</summary>
    public const long PagesMax = 1L << 28;

    // 65,536 pages in a part: 2 MiB of ids.
    private const int PartLevel = 3;
    private static readonly ChunkId[] Zeros = new ChunkId[Covered(PartLevel + 1)];

    /// <summary>Builds a tree bottom up.</summary>
    /// <param name="pages">The id of each page, default for one of zeros; they are in the store already.</param>
    /// <param name="put">Takes every node that is not all zeros.</param>
    /// <returns>The root; default if everything is zeros.</returns>
    public static ChunkId Build(ReadOnlySpan<ChunkId> pages, NodeSink put)
    {
        int rootLevel = TreeNode.RootLevel(pages.Length);
        Span<byte> node = stackalloc byte[TreeNode.BytesMax];
        ReadOnlySpan<ChunkId> below = pages;
        for (int level = 0; ; level++)
        {
            ChunkId[] nodes = new ChunkId[Math.Max(1, (below.Length + TreeNode.Fanout - 1) / TreeNode.Fanout)];
            for (int i = 0; i < nodes.Length && !below.IsEmpty; i++)
            {
                ReadOnlySpan<ChunkId> children = below.Slice(
                    i * TreeNode.Fanout, Math.Min(TreeNode.Fanout, below.Length - (i * TreeNode.Fanout)));
                if (children.ContainsAnyExcept(default(ChunkId)))
                {
                    nodes[i] = put(node[..TreeNode.Write(level, children, node)]);
                }
            }

            if (level == rootLevel)
            {
                return nodes[0];
            }

            below = nodes;
        }
    }

    /// <summary>Reads a tree from its first page to its last.</summary>
    /// <remarks>
    /// A few nodes can name the same subtree again and again: what a manifest says costs nothing to say. So no more is
    /// held than one part and the way to it.
    /// </remarks>
    /// <param name="pages">Pages it covers.</param>
    /// <returns>Parts without a gap.</returns>
    /// <exception cref="ChunkLostException">A node cannot be had.</exception>
    /// <exception cref="StoreFormatException">
    /// A node is none of its level, or names pages past the end; or there are over <see cref="PagesMax"/>.
    /// </exception>
    public static IEnumerable<TreePart> Parts(ChunkId root, long pages, StoreReader reader)
    {
        RequireReadable(root, pages);
        return pages == 0 ? [] : Parts(root, TreeNode.RootLevel(pages), 0, pages, reader);
    }

    /// <summary>Reads all ids of a tree, 32 bytes for each page: for pages that are in memory anyhow.</summary>
    /// <returns>The id of each page, default for one of zeros.</returns>
    /// <inheritdoc cref="Parts(ChunkId, long, StoreReader)"/>
    public static ChunkId[] Load(ChunkId root, long pages, StoreReader reader)
    {
        RequireReadable(root, pages);
        ChunkId[] ids = new ChunkId[pages];
        foreach (TreePart part in Parts(root, pages, reader))
        {
            part.Pages.CopyTo(ids.AsMemory((int)part.First));
        }

        return ids;
    }

    /// <summary>The id of one page.</summary>
    /// <inheritdoc cref="Parts(ChunkId, long, StoreReader)"/>
    public static ChunkId PageAt(ChunkId root, long pages, long page, StoreReader reader)
    {
        RequireReadable(root, pages);
        ChunkId id = root;
        Span<ChunkId> children = stackalloc ChunkId[TreeNode.Fanout];
        for (int level = TreeNode.RootLevel(pages); level >= 0 && !id.IsZeros; level--)
        {
            Require(reader.Read(id), level, children);
            id = children[(int)(page / Covered(level) % TreeNode.Fanout)];
        }

        return id;
    }

    /// <summary>Visits the nodes and pages of a tree top down, and no subtree that the caller does not want.</summary>
    /// <param name="enter">Told a node's id, says whether to go on below it. Asked once for each node of the tree.
    /// </param>
    /// <param name="page">Told the pages of the nodes that were entered.</param>
    /// <param name="rescue">Asked for nodes that cannot be had; what is below those that it has not either is left out.
    /// </param>
    /// <exception cref="ChunkLostException">A node cannot be had, and nobody can be asked.</exception>
    public static void Walk(
        ChunkId root, long pages, StoreReader reader, Func<ChunkId, bool> enter, Action<ChunkId> page,
        ChunkRescue? rescue = null)
    {
        ChunkId[] ids = root.IsZeros || !enter(root) ? [] : [root];
        Span<ChunkId> children = stackalloc ChunkId[TreeNode.Fanout];
        for (int level = TreeNode.RootLevel(pages); ids.Length > 0; level--)
        {
            var below = new List<ChunkId>();
            foreach (byte[] node in rescue is null ? ReadAll(ids, reader) : ReadAll(ids, reader, rescue))
            {
                Require(node, level, children);
                foreach (ChunkId child in children)
                {
                    if (child.IsZeros)
                    {
                        continue;
                    }

                    if (level == 0)
                    {
                        page(child);
                    }
                    else if (enter(child))
                    {
                        below.Add(child);
                    }
                }
            }

            ids = [.. below];
        }
    }

    /// <summary>
    /// Finds the pages in which two trees over as many pages differ; equal subtrees cost one comparison.
    /// </summary>
    /// <param name="differs">Told a page's number and its ids in both trees.</param>
    public static void Compare(
        ChunkId left, ChunkId right, long pages, StoreReader leftReader, StoreReader rightReader,
        Action<long, ChunkId, ChunkId> differs)
    {
        Span<ChunkId> leftChildren = stackalloc ChunkId[TreeNode.Fanout];
        Span<ChunkId> rightChildren = stackalloc ChunkId[TreeNode.Fanout];
        List<(long Number, ChunkId Left, ChunkId Right)> pairs = left == right ? [] : [(0, left, right)];
        for (int level = TreeNode.RootLevel(pages); pairs.Count > 0; level--)
        {
            byte[][] leftNodes = ReadAll([.. pairs.Select(pair => pair.Left)], leftReader);
            byte[][] rightNodes = ReadAll([.. pairs.Select(pair => pair.Right)], rightReader);
            var below = new List<(long, ChunkId, ChunkId)>();
            for (int i = 0; i < pairs.Count; i++)
            {
                Require(leftNodes[i], level, leftChildren);
                Require(rightNodes[i], level, rightChildren);
                for (int child = 0; child < TreeNode.Fanout; child++)
                {
                    if (leftChildren[child] == rightChildren[child])
                    {
                        continue;
                    }

                    long number = (pairs[i].Number * TreeNode.Fanout) + child;
                    if (level == 0)
                    {
                        differs(number, leftChildren[child], rightChildren[child]);
                    }
                    else
                    {
                        below.Add((number, leftChildren[child], rightChildren[child]));
                    }
                }
            }

            pairs = below;
        }
    }

    private static void RequireReadable(ChunkId root, long pages)
    {
        if (pages > PagesMax)
        {
            throw new StoreFormatException($"tree {root}", $"it is said to have {pages} pages; {PagesMax} are read");
        }
    }

    // Of the subtree under a node: pages of it that there are, from the first one on.
    private static IEnumerable<TreePart> Parts(ChunkId id, int level, long first, long pages, StoreReader reader)
    {
        if (id.IsZeros)
        {
            for (long at = 0; at < pages; at += Zeros.Length)
            {
                yield return new TreePart(first + at, Zeros.AsMemory(0, (int)Math.Min(Zeros.Length, pages - at)));
            }
        }
        else if (level <= PartLevel)
        {
            ChunkId[] ids = [id];
            for (; level >= 0; level--)
            {
                ids = Descend(ids, level, Count(pages, level), reader);
            }

            yield return new TreePart(first, ids);
        }
        else
        {
            ChunkId[] children = Descend([id], level, Count(pages, level), reader);
            for (int i = 0; i < children.Length; i++)
            {
                long at = i * Covered(level);
                foreach (TreePart part in Parts(
                    children[i], level - 1, first + at, Math.Min(Covered(level), pages - at), reader))
                {
                    yield return part;
                }
            }
        }
    }

    // Nodes of a level over so many pages.
    private static long Count(long pages, int level) => Math.Max(1, (pages + Covered(level) - 1) / Covered(level));

    // Pages under one child of a node of a level.
    private static long Covered(int level) => 1L << (4 * level);

    private static ChunkId[] Descend(ChunkId[] ids, int level, long count, StoreReader reader)
    {
        ChunkId[] below = new ChunkId[count];
        Span<ChunkId> children = stackalloc ChunkId[TreeNode.Fanout];
        byte[][] nodes = ReadAll(ids, reader);
        for (int i = 0; i < ids.Length; i++)
        {
            Require(nodes[i], level, children);
            long at = (long)i * TreeNode.Fanout;
            int room = (int)Math.Clamp(count - at, 0, TreeNode.Fanout);
            if (children[room..].ContainsAnyExcept(default(ChunkId)))
            {
                throw new StoreFormatException($"tree node {ids[i]}", "it names pages past the end");
            }

            children[..room].CopyTo(below.AsSpan((int)at));
        }

        return below;
    }

    // Empty for a subtree of zeros.
    private static byte[][] ReadAll(ChunkId[] ids, StoreReader reader)
    {
        byte[][] nodes = new byte[ids.Length][];
        var wanted = new List<WantedChunk>(ids.Length);
        for (int i = 0; i < ids.Length; i++)
        {
            nodes[i] = [];
            if (!ids[i].IsZeros)
            {
                wanted.Add(new WantedChunk(ids[i], i));
            }
        }

        reader.Read(wanted, (tag, chunk) => nodes[tag] = chunk.ToArray());
        return nodes;
    }

    // Empty for one that cannot be had.
    private static byte[][] ReadAll(ChunkId[] ids, StoreReader reader, ChunkRescue rescue)
    {
        try
        {
            return ReadAll(ids, reader);
        }
        catch (ChunkLostException) when (ids.Length > 1)
        {
            // One of them: each by itself.
            return [.. ids.Select(id => ReadAll([id], reader, rescue)[0])];
        }
        catch (ChunkLostException e)
        {
            return [rescue(e.Id) ?? []];
        }
    }

    private static void Require(byte[] node, int level, Span<ChunkId> children)
    {
        if (node.Length == 0)
        {
            children.Clear();
        }
        else if (!TreeNode.TryRead(node, level, children))
        {
            throw new StoreFormatException($"tree node {ChunkId.Of(node)}", $"it is no node of level {level}");
        }
    }
}
