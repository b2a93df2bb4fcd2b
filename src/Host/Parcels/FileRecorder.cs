using System.Runtime.InteropServices;
using System.Security.Cryptography;
using Godwit.ChunkStore;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.ChunkStore.Trees;
using Godwit.Migration;
using Godwit.Pages;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Parcels;

/// <summary>Puts a disk image into a store, and again as it changes.</summary>
/// <remarks>
/// Holds 48 bytes for each block. A second look names only what has changed since the first: blocks are compared by 128
/// bits of a seeded hash, as pages are that were sent in a move (<see cref="PageFingerprints"/>).
/// </remarks>
internal sealed partial class FileRecorder
{
    private const int SeekData = 3;
    private const int SeekHole = 4;
    private const int ReadBytes = 1 << 20;
    private readonly string _path;
    private readonly StoreWriter _writer;
    private readonly Func<ChunkId, bool> _isBase;
    private readonly byte[] _buffer = new byte[ReadBytes];
    private readonly long _seed = BitConverter.ToInt64(RandomNumberGenerator.GetBytes(sizeof(long)));
    private ChunkId[] _ids = [];
    private PageFingerprints? _seen;
    private long _length;

    /// <param name="isBase">Whether a block is one of a base image's.</param>
    public FileRecorder(string path, StoreWriter writer, Func<ChunkId, bool> isBase)
    {
        _path = path;
        _writer = writer;
        _isBase = isBase;
    }

    /// <summary>Reads the file through and puts what has changed since the last time.</summary>
    /// <exception cref="GodwitException"><c>parcel-disk</c>: it cannot be read.</exception>
    public void Record()
    {
        try
        {
            using SafeFileHandle file = File.OpenHandle(_path, share: FileShare.ReadWrite | FileShare.Delete);
            long length = RandomAccess.GetLength(file);
            if (length == 0)
            {
                throw new IOException("it is empty, or no file");
            }

            if (length > ChunkTree.LoadedPagesMax * Page.Size)
            {
                throw new IOException(
                    $"it has {length} bytes; up to {ChunkTree.LoadedPagesMax * Page.Size} are possible");
            }

            Resize(length);
            Read(file);
        }
        catch (Exception e) when (e is (IOException or UnauthorizedAccessException) and not StorageException)
        {
            throw new GodwitException("parcel-disk",
                $"The disk image {_path} cannot be put into a store: {e.Message}",
                "Disks that are files can be; check its owner and mode.", e);
        }
    }

    /// <summary>Puts the tree over what was recorded.</summary>
    public ParcelPart Finish() => new(
        _path, _length, ChunkTree.Build(_ids, node => _writer.Put(node, ChunkGroup.Nodes)).ToString());

    private void Resize(long length)
    {
        if (length == _length)
        {
            return;
        }

        // A file that grew, as qcow2 does: everything is looked at anew, and what is known costs a look-up.
        _length = length;
        _ids = new ChunkId[(length + Page.Size - 1) / Page.Size];
        _seen = new PageFingerprints(_ids.Length, _seed);
    }

    private void Read(SafeFileHandle file)
    {
        long at = 0;
        while (at < _length)
        {
            long data = Seek(file, at, SeekData);
            data = data < 0 ? _length : data - (data % Page.Size);
            Clear(at, Math.Max(at, data));
            at = Math.Max(at, data);
            long hole = at < _length ? Seek(file, at, SeekHole) : _length;
            long end = hole < 0 ? _length : Math.Min(_length, (hole + Page.Size - 1) / Page.Size * Page.Size);
            while (at < end)
            {
                int wanted = (int)Math.Min(ReadBytes, end - at);
                int count = 0;
                for (int got; count < wanted; count += got)
                {
                    got = RandomAccess.Read(file, _buffer.AsSpan(count, wanted - count), at + count);
                    if (got == 0)
                    {
                        break;
                    }
                }

                if (count == 0)
                {
                    throw new EndOfStreamException("it became shorter while it was read");
                }

                int whole = (count + Page.Size - 1) / Page.Size * Page.Size;
                _buffer.AsSpan(count, whole - count).Clear();
                for (int i = 0; i < whole; i += Page.Size)
                {
                    Put((at + i) / Page.Size, _buffer.AsSpan(i, Page.Size));
                }

                at += whole;
            }
        }
    }

    private void Clear(long from, long to)
    {
        for (long block = from / Page.Size; block < to / Page.Size; block++)
        {
            _ids[block] = default;
            _seen!.Forget(new PageNumber(block));
        }
    }

    private void Put(long block, ReadOnlySpan<byte> content)
    {
        if (!_seen!.Set(new PageNumber(block), content))
        {
            return;
        }

        if (ZeroTest.IsZero(content))
        {
            _ids[block] = default;
            return;
        }

        ChunkId id = ChunkId.Of(content);
        _writer.Put(id, content, _isBase(id) ? ChunkGroup.Base : ChunkGroup.Disk);
        _ids[block] = id;
    }

    [LibraryImport("libc", EntryPoint = "lseek", SetLastError = true)]
    private static partial long Seek(SafeFileHandle file, long offset, int whence);
}
