using Godwit.ChunkStore.Storage;

namespace Godwit.ChunkStore.Trees;

/// <summary>Stores a node and gives its id.</summary>
public delegate ChunkId NodeSink(ReadOnlySpan<byte> node);

/// <summary>Trees over the pages of a memory or a disk: equal contents have equal roots, whoever built them.</summary>
public static class ChunkTree
{
    /// <summary>Pages of the largest tree that is loaded whole: 1 TiB, which takes 8 GiB for their ids.</summary>
    public const long LoadedPagesMax = 1L << 28;

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

    /// <summary>Reads a whole tree, level by level.</summary>
    /// <param name="pages">Pages it covers.</param>
    /// <returns>The id of each page, default for one of zeros.</returns>
    /// <exception cref="ChunkLostException">A node cannot be had.</exception>
    /// <exception cref="StoreFormatException">
    /// A node is none of its level, or names pages past the end; or there are over <see cref="LoadedPagesMax"/>.
    /// </exception>
    public static ChunkId[] Load(ChunkId root, long pages, StoreReader reader)
    {
        // What a manifest says costs nothing to say.
        if (pages > LoadedPagesMax)
        {
            throw new StoreFormatException(
                $"tree {root}", $"it is said to have {pages} pages; {LoadedPagesMax} are loaded");
        }

        ChunkId[] ids = [root];
        for (int level = TreeNode.RootLevel(pages); pages > 0 && level >= 0; level--)
        {
            ids = Descend(ids, level, Count(pages, level), reader);
        }

        return pages > 0 ? ids : [];
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
