using System.Collections.Concurrent;
using System.Numerics;
using Godwit.ChunkStore;
using Godwit.Migration.Wire;
using Godwit.Pages;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Inventory;

/// <summary>A file whose blocks can be had by name: a kept memory image, a disk image, or a hoard.</summary>
/// <remarks>Any thread may read; nobody may after <see cref="Dispose"/>.</remarks>
/// <param name="isHoard">What is given out is counted block by block.</param>
/// <param name="nodes">
/// Blocks behind those of a file that is not ours: nodes of the tree over it. Null for a file that has its own.
/// </param>
internal sealed class ContentSource(
    ContentOrigin origin, ContentIndex index, IDisposable? mapping, SafeFileHandle file, bool isHoard = false,
    SafeFileHandle? nodes = null) : IDisposable
{
    private readonly long _nodesFrom = nodes is null ? long.MaxValue : Blocks(index.Subject.Length);
    private readonly ConcurrentDictionary<uint, bool> _used = new();
    private long _rebuilt;

    public bool IsHoard => isHoard;

    /// <summary>Of a hoard: blocks of which something was given out.</summary>
    public int UsedBlocks => _used.Count;

    public ContentOrigin Origin => origin;

    public ContentIndex Index => index;

    /// <summary>Blocks that were read and had the name they were wanted by.</summary>
    public long Rebuilt => Interlocked.Read(ref _rebuilt);

    /// <summary>Reads blocks by their names; those that lie one behind the other, as pages that come in the order of
    /// their numbers mostly do in an image of the guest's memory, at once.</summary>
    /// <param name="names">16 bytes for each block, 64 blocks at most.</param>
    /// <param name="blocks">4096 bytes for each; anything may be left in those that are wanted and not found.</param>
    /// <param name="wanted">A bit for each block to read, the first one's lowest; the others are left as they are.
    /// </param>
    /// <returns>The bits of those whose content has the name: files change, and an index is a hint.</returns>
    public ulong Read(ReadOnlySpan<byte> names, Span<byte> blocks, ulong wanted)
    {
        ulong found = 0;
        int count = names.Length / ContentName.Size;
        for (int first = 0; first < count;)
        {
            if (!Find(names, first, wanted, out uint number))
            {
                first++;
                continue;
            }

            int end = first + 1;
            while (end < count && Find(names, end, wanted, out uint next) && next == number + (uint)(end - first))
            {
                end++;
            }

            Span<byte> run = blocks[(first * ContentIndex.BlockBytes)..(end * ContentIndex.BlockBytes)];
            int read = Read(number, run) / ContentIndex.BlockBytes;
            for (int i = first; i < first + read; i++)
            {
                Span<byte> block = blocks.Slice(i * ContentIndex.BlockBytes, ContentIndex.BlockBytes);
                if (ContentName.Of(block) == Name(names, i))
                {
                    found |= 1UL << i;
                    Use(number + (uint)(i - first));
                }
            }

            first = end;
        }

        Interlocked.Add(ref _rebuilt, BitOperations.PopCount(found));
        return found;
    }

    /// <summary>Reads a block by its number, whatever it holds by now.</summary>
    /// <returns>False if it cannot be read.</returns>
    public bool TryRead(PageNumber block, Span<byte> content) => Read((uint)block.Value, content) == content.Length;

    /// <summary>Blocks that a file of so many bytes has; nodes stand behind them.</summary>
    public static long Blocks(long length) => (length + ContentIndex.BlockBytes - 1) / ContentIndex.BlockBytes;

    /// <summary>Reads a page or a node.</summary>
    /// <param name="to">4096 bytes.</param>
    public bool TryRead(ChunkId id, Span<byte> to, out int length)
    {
        length = ContentIndex.BlockBytes;
        Span<byte> block = to[..ContentIndex.BlockBytes];
        if (!index.TryFind(new ContentName(id.High), out uint number) || Read(number, block) < block.Length
            || !(ChunkId.Of(block) == id || NodeBlock.TryFind(block, id, out length)))
        {
            return false;
        }

        Use(number);
        return true;
    }

    private void Use(uint block)
    {
        if (isHoard)
        {
            _used.TryAdd(block, true);
        }
    }

    private static ContentName Name(ReadOnlySpan<byte> names, int at) =>
        ContentName.Read(names.Slice(at * ContentName.Size, ContentName.Size));

    private bool Find(ReadOnlySpan<byte> names, int at, ulong wanted, out uint number)
    {
        number = 0;
        return (wanted >> at & 1) != 0 && index.TryFind(Name(names, at), out number);
    }

    // Bytes read; fewer where the file ends or cannot be read.
    private int Read(uint number, Span<byte> to)
    {
        SafeFileHandle from = number >= _nodesFrom ? nodes! : file;
        long start = (number >= _nodesFrom ? number - _nodesFrom : number) * ContentIndex.BlockBytes;
        int at = 0;
        try
        {
            while (at < to.Length && RandomAccess.Read(from, to[at..], start + at) is > 0 and var count)
            {
                at += count;
            }
        }
        catch (IOException)
        {
            // A bad sector of an old copy: the content is asked for, as of any that is not there.
        }

        return at;
    }

    public void Dispose()
    {
        mapping?.Dispose();
        file.Dispose();
        nodes?.Dispose();
    }
}
