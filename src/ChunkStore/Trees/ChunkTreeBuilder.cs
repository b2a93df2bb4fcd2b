namespace Godwit.ChunkStore.Trees;

/// <summary>Builds a tree as its pages come, in the memory that one node of each level takes.</summary>
/// <remarks>The nodes are those of <see cref="ChunkTree.Build"/> over the same pages.</remarks>
/// <param name="put">Takes every node that is not all zeros.</param>
public sealed class ChunkTreeBuilder(NodeSink put)
{
    private readonly List<(ChunkId[] Children, int Count)> _levels = [];
    private long _pages;

    /// <summary>Pages so far.</summary>
    public long Pages => _pages;

    /// <summary>Adds the next page: default for one of zeros.</summary>
    public void Add(ChunkId page)
    {
        _pages++;
        Add(0, page);
    }

    /// <summary>Adds pages of zeros up to a number of pages.</summary>
    public void AddZerosTo(long pages)
    {
        while (_pages < pages)
        {
            Add(default);
        }
    }

    /// <summary>Ends the tree.</summary>
    /// <returns>The root; default if everything is zeros.</returns>
    public ChunkId Finish()
    {
        int root = TreeNode.RootLevel(_pages);
        for (int level = 0; level <= root; level++)
        {
            if (level < _levels.Count && _levels[level].Count > 0)
            {
                Close(level);
            }
        }

        return root + 1 < _levels.Count ? _levels[root + 1].Children[0] : default;
    }

    private void Add(int level, ChunkId child)
    {
        if (level == _levels.Count)
        {
            _levels.Add((new ChunkId[TreeNode.Fanout], 0));
        }

        (ChunkId[] children, int count) = _levels[level];
        children[count] = child;
        _levels[level] = (children, count + 1);
        if (count + 1 == TreeNode.Fanout)
        {
            Close(level);
        }
    }

    private void Close(int level)
    {
        (ChunkId[] children, int count) = _levels[level];
        _levels[level] = (children, 0);
        ReadOnlySpan<ChunkId> there = children.AsSpan(0, count);
        ChunkId id = default;
        if (there.ContainsAnyExcept(default(ChunkId)))
        {
            Span<byte> node = stackalloc byte[TreeNode.BytesMax];
            id = put(node[..TreeNode.Write(level, there, node)]);
        }

        Add(level + 1, id);
    }
}
