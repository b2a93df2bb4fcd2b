using Godwit.ChunkStore;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Inventory;

/// <summary>Writes nodes of trees into blocks of a file and enters them in its index.</summary>
/// <param name="take">Gives the number of the block that is written next.</param>
/// <param name="first">Number of the file's first block.</param>
internal sealed class NodeBlockWriter(
    SafeFileHandle file, ContentIndexBuilder builder, Func<uint> take, uint first = 0)
{
    private readonly byte[] _block = new byte[ContentIndex.BlockBytes];
    private readonly List<ContentName> _names = [];
    private int _used;

    /// <summary>Takes a node; it is found after the next <see cref="Flush"/>.</summary>
    /// <returns>Its id.</returns>
    public ChunkId Add(ReadOnlySpan<byte> node)
    {
        ChunkId id = ChunkId.Of(node);
        if (!NodeBlock.TryAdd(_block, ref _used, node))
        {
            Flush();
            NodeBlock.TryAdd(_block, ref _used, node);
        }

        _names.Add(new ContentName(id.High));
        return id;
    }

    /// <summary>Writes what is left over.</summary>
    public void Flush()
    {
        if (_names.Count == 0)
        {
            return;
        }

        _block.AsSpan(_used).Clear();
        uint block = take();
        RandomAccess.Write(file, _block, (long)(block - first) * ContentIndex.BlockBytes);
        ulong fingerprint = Fingerprint.Of(_block);
        _names.ForEach(name => builder.Add(block, name, fingerprint));
        _names.Clear();
        _used = 0;
    }
}
