using Godwit.ChunkStore;
using Godwit.Migration.Wire;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Inventory;

/// <summary>A file whose blocks can be had by name: a kept memory image, or a disk image.</summary>
/// <remarks>Any thread may read; nobody may after <see cref="Dispose"/>.</remarks>
internal sealed class ContentSource(
    ContentOrigin origin, ContentIndex index, IDisposable? mapping, SafeFileHandle file) : IDisposable
{
    private long _rebuilt;

    public ContentOrigin Origin => origin;

    public ContentIndex Index => index;

    /// <summary>Blocks that were read and had the name they were wanted by.</summary>
    public long Rebuilt => Interlocked.Read(ref _rebuilt);

    /// <summary>Reads a block by its name.</summary>
    /// <param name="block">4096 bytes; anything may be left in them if the result is false.</param>
    /// <returns>True only if what was read has this name: files change, and an index is a hint.</returns>
    public bool TryRead(ContentName name, Span<byte> block)
    {
        if (!index.TryFind(name, out uint number))
        {
            return false;
        }

        try
        {
            long offset = (long)number * ContentIndex.BlockBytes;
            for (int at = 0; at < block.Length;)
            {
                int count = RandomAccess.Read(file, block[at..], offset + at);
                if (count == 0)
                {
                    return false;
                }

                at += count;
            }
        }
        catch (IOException)
        {
            // A bad sector of an old copy: the content is asked for, as of any that is not there.
            return false;
        }

        if (ContentName.Of(block) != name)
        {
            return false;
        }

        Interlocked.Increment(ref _rebuilt);
        return true;
    }

    public void Dispose()
    {
        mapping?.Dispose();
        file.Dispose();
    }
}
