using System.Runtime.InteropServices;
using Godwit.ChunkStore;
using Godwit.ChunkStore.Storage;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Inventory;

/// <summary>What is being fetched ahead of a guest's resume: pages that this host lacks, and nodes.</summary>
/// <remarks>
/// One thread at a time. First what was hoarded before is looked through (<see cref="TryRetain"/>); what is not
/// retained gives its room to what is added afterwards. Nothing is lost by an end at any point: what has been committed
/// is found by the next hoard, and a block that has been written over is not what an older index says.
/// docs/formats/inventory.md.
/// </remarks>
public sealed partial class Hoard : IChunksAtHand, IDisposable
{
    private const int BlockBytes = ContentIndex.BlockBytes;
    private const int PunchHole = 3;   // FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    private readonly Action<byte[]> _put;
    private readonly IndexSubject _subject;
    private readonly SafeFileHandle _file;
    private readonly ContentSource? _before;
    private readonly HashSet<uint> _retained = [];
    private readonly ContentIndexBuilder _builder = new();
    private readonly NodeBlockWriter _nodes;
    private readonly IChunksAtHand? _beside;
    private readonly uint _beforeEnd;
    private uint _hole;
    private uint _end;

    /// <param name="file">The image; disposed of here.</param>
    /// <param name="before">What it holds already, or null; disposed of here.</param>
    /// <param name="beside">What else the host has, or null.</param>
    /// <param name="put">Puts the index.</param>
    internal Hoard(
        SafeFileHandle file, ContentSource? before, IChunksAtHand? beside, IndexSubject subject, Action<byte[]> put)
    {
        _file = file;
        _before = before;
        _beside = beside;
        _subject = subject;
        _put = put;
        _beforeEnd = (uint)(RandomAccess.GetLength(file) / BlockBytes);
        _end = _beforeEnd;
        _nodes = new NodeBlockWriter(file, _builder, () =>
        {
            Blocks++;
            return _end++;
        });
    }

    /// <summary>Blocks that it holds by now.</summary>
    public long Blocks { get; private set; }

    /// <summary>Whether a page is there from before; it is then kept.</summary>
    /// <param name="page">4096 bytes to work with.</param>
    public bool TryRetain(ChunkId id, Span<byte> page)
    {
        if (_before?.Index.TryFind(new ContentName(id.High), out uint block) != true
            || !_before.TryRead(id, page, out int length) || length != BlockBytes)
        {
            return false;
        }

        if (_retained.Add(block))
        {
            _builder.Add(block, new ContentName(id.High), Fingerprint.Of(page[..BlockBytes]));
            Blocks++;
        }

        return true;
    }

    /// <summary>Adds a page that has this id.</summary>
    public void Add(ChunkId id, ReadOnlySpan<byte> page)
    {
        while (_hole < _beforeEnd && _retained.Contains(_hole))
        {
            _hole++;
        }

        uint block = _hole < _beforeEnd ? _hole++ : _end++;
        RandomAccess.Write(_file, page, (long)block * BlockBytes);
        _builder.Add(block, new ContentName(id.High), Fingerprint.Of(page));
        Blocks++;
    }

    /// <summary>Adds a node. While it is looked for what is retained, room is taken behind what was there.</summary>
    /// <returns>Its id.</returns>
    public ChunkId AddNode(ReadOnlySpan<byte> node) => _nodes.Add(node);

    /// <summary>Gives what was hoarded before, or is there beside.</summary>
    public bool TryRead(ChunkId id, Span<byte> to, out int length)
    {
        length = 0;
        return _before?.TryRead(id, to, out length) == true || _beside?.TryRead(id, to, out length) == true;
    }

    /// <summary>Makes what has been added so far findable. A block that is not retained is not any more.</summary>
    /// <exception cref="IOException">The disk is full, or the hoard was removed meanwhile.</exception>
    public void Commit()
    {
        _nodes.Flush();
        RandomAccess.FlushToDisk(_file);
        _put(_builder.Build(_subject));
    }

    /// <summary>Commits, and gives the room back that nothing was put into.</summary>
    public void Finish()
    {
        Commit();
        for (uint block = _hole; block < _beforeEnd; block++)
        {
            if (!_retained.Contains(block))
            {
                // Only room is lost where this is refused.
                _ = Allocate(_file, PunchHole, (long)block * BlockBytes, BlockBytes);
            }
        }
    }

    public void Dispose()
    {
        _before?.Dispose();
        _file.Dispose();
    }

    [LibraryImport("libc", EntryPoint = "fallocate", SetLastError = true)]
    private static partial int Allocate(SafeFileHandle file, int mode, long offset, long length);
}
