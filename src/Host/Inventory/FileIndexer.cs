using System.Runtime.InteropServices;
using Godwit.ChunkStore;
using Godwit.ChunkStore.Trees;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Inventory;

/// <summary>Reads a file block by block and names what it holds; holes and zeros are passed over.</summary>
internal static partial class FileIndexer
{
    private const int SeekData = 3;
    private const int SeekHole = 4;
    private const int ReadBytes = 1 << 20;

    /// <summary>Blocks after which a part of the index is given out: 64 MiB.</summary>
    private const int PartBlocks = 16_384;

    /// <summary>Indexes a file as it is read; whoever writes it meanwhile makes some entries vain.</summary>
    /// <param name="builder">Takes every block in.</param>
    /// <param name="part">
    /// Called with the newest blocks alone, each time there are enough of them and at the end; may be null.
    /// </param>
    /// <param name="tree">Takes every block in as well, zeros included; may be null.</param>
    /// <exception cref="IOException">It cannot be read.</exception>
    /// <exception cref="OperationCanceledException">Wanted by the caller.</exception>
    public static void Index(
        SafeFileHandle file, ContentIndexBuilder builder, Action<ContentIndexBuilder>? part,
        CancellationToken cancellationToken, ChunkTreeBuilder? tree = null)
    {
        byte[] buffer = new byte[ReadBytes];
        ContentIndexBuilder? newest = part is null ? null : new ContentIndexBuilder();
        long length = RandomAccess.GetLength(file);
        for (long at = 0; at < length && !builder.IsFull;)
        {
            cancellationToken.ThrowIfCancellationRequested();
            long data = Seek(file, at, SeekData);
            if (data < 0)
            {
                break;
            }

            // Back to a whole block: a file system may count holes in other units.
            data -= data % ContentIndex.BlockBytes;
            long end = Math.Min(length, Seek(file, data, SeekHole) is > 0 and var hole ? hole : length);
            at = Math.Max(at, data);
            while (at < end && !builder.IsFull)
            {
                cancellationToken.ThrowIfCancellationRequested();
                int count = RandomAccess.Read(file, buffer, at);
                int blocks = count / ContentIndex.BlockBytes;
                for (int i = 0; i < blocks; i++)
                {
                    Add(builder, newest, tree, at, buffer.AsSpan(i * ContentIndex.BlockBytes, ContentIndex.BlockBytes));
                    at += ContentIndex.BlockBytes;
                }

                if (blocks == 0)
                {
                    // The rest of a file that is no whole number of blocks: no page can be found there.
                    at = length;
                }

                if (newest?.Blocks >= PartBlocks)
                {
                    part!(newest);
                    newest = new ContentIndexBuilder();
                }
            }

            at = Math.Max(at, end);
        }

        if (newest?.Blocks > 0)
        {
            part!(newest);
        }

        tree?.AddZerosTo(ContentSource.Blocks(length));
        tree?.Finish();
    }

    private static void Add(
        ContentIndexBuilder builder, ContentIndexBuilder? newest, ChunkTreeBuilder? tree, long offset,
        ReadOnlySpan<byte> block)
    {
        if (!block.ContainsAnyExcept((byte)0))
        {
            return;
        }

        var id = ChunkId.Of(block);
        var name = new ContentName(id.High);
        ulong fingerprint = Fingerprint.Of(block);
        uint number = (uint)(offset / ContentIndex.BlockBytes);
        tree?.AddZerosTo(number);
        tree?.Add(id);
        builder.Add(number, name, fingerprint);
        newest?.Add(number, name, fingerprint);
    }

    [LibraryImport("libc", EntryPoint = "lseek", SetLastError = true)]
    private static partial long Seek(SafeFileHandle file, long offset, int whence);
}
