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
    private readonly List<(long At, byte[] Content)> _held = [];
    private long _length;
    private long _steps;

    /// <param name="isBase">Whether a block is one of a base image's.</param>
    public FileRecorder(string path, StoreWriter writer, Func<ChunkId, bool> isBase)
    {
        _path = path;
        _writer = writer;
        _isBase = isBase;
    }

    /// <summary>Blocks looked at so far: it grows as long as anything gets on.</summary>
    public long Steps => Interlocked.Read(ref _steps);

    /// <summary>The image.</summary>
    public string Path => _path;

    /// <summary>Reads the file through and puts what has changed since the last time.</summary>
    /// <exception cref="GodwitException"><c>parcel-disk</c>: it cannot be read.</exception>
    public void Record() => WithFile(file => Read(file, 0, _length));

    /// <summary>Reads parts of the file that have changed, and puts them.</summary>
    /// <param name="parts">Ascending, in bytes; no others have changed since the last time.</param>
    /// <exception cref="GodwitException"><c>parcel-disk</c>: it cannot be read.</exception>
    public void Record(IReadOnlyList<(long From, long Length)> parts) => WithFile(file =>
    {
        foreach ((long from, long to) in Pages(parts))
        {
            Read(file, from, to);
        }
    });

    /// <summary>Copies parts of the file, to be put when the guest runs again.</summary>
    /// <exception cref="GodwitException"><c>parcel-disk</c>: it cannot be read.</exception>
    public void Hold(IReadOnlyList<(long From, long Length)> parts) => WithFile(file =>
    {
        foreach ((long from, long to) in Pages(parts))
        {
            for (long at = from; at < to; at += ReadBytes)
            {
                byte[] content = new byte[Math.Min(ReadBytes, to - at)];
                ReadWhole(file, content, at);
                _held.Add((at, content));
            }
        }
    });

    /// <summary>Puts what was held.</summary>
    public void RecordHeld()
    {
        foreach ((long at, byte[] content) in _held)
        {
            for (int i = 0; i < content.Length; i += Page.Size)
            {
                Put((at + i) / Page.Size, content.AsSpan(i, Page.Size));
            }
        }

        _held.Clear();
    }

    // In whole pages, none of them twice, up to the end of the file.
    private IEnumerable<(long From, long To)> Pages(IReadOnlyList<(long From, long Length)> parts)
    {
        long done = 0;
        foreach ((long from, long length) in parts)
        {
            long first = Math.Max(done, from / Page.Size * Page.Size);
            done = Math.Max(done, Math.Min(_ids.Length * (long)Page.Size,
                (from + length + Page.Size - 1) / Page.Size * Page.Size));
            if (first < done)
            {
                yield return (first, done);
            }
        }
    }

    private void WithFile(Action<SafeFileHandle> work)
    {
        try
        {
            using SafeFileHandle file = File.OpenHandle(_path, share: FileShare.ReadWrite | FileShare.Delete);
            long length = RandomAccess.GetLength(file);
            if (length == 0)
            {
                throw new IOException("it is empty, or no file");
            }

            if (length > ChunkTree.PagesMax * Page.Size)
            {
                throw new IOException(
                    $"it has {length} bytes; up to {ChunkTree.PagesMax * Page.Size} are possible");
            }

            Resize(length);
            work(file);
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

        // A file that grew, as qcow2 does: what is known of it stays, and what is looked at again costs a look-up.
        _length = length;
        Array.Resize(ref _ids, (int)((length + Page.Size - 1) / Page.Size));
        _seen = new PageFingerprints(_ids.Length, _seed);
    }

    private void Read(SafeFileHandle file, long from, long to)
    {
        long at = from;
        while (at < to)
        {
            long data = Seek(file, at, SeekData);
            data = data < 0 ? to : Math.Min(to, data - (data % Page.Size));
            Clear(at, Math.Max(at, data));
            at = Math.Max(at, data);
            long hole = at < to ? Seek(file, at, SeekHole) : to;
            long end = hole < 0 ? to : Math.Min(to, (hole + Page.Size - 1) / Page.Size * Page.Size);
            while (at < end)
            {
                int whole = (int)(Math.Min(ReadBytes, end - at) + Page.Size - 1) / Page.Size * Page.Size;
                if (ReadWhole(file, _buffer.AsSpan(0, whole), at) == 0)
                {
                    throw new EndOfStreamException("it became shorter while it was read");
                }

                for (int i = 0; i < whole; i += Page.Size)
                {
                    Put((at + i) / Page.Size, _buffer.AsSpan(i, Page.Size));
                }

                at += whole;
            }
        }
    }

    // What lies behind the end of the file is zeros.
    private static int ReadWhole(SafeFileHandle file, Span<byte> content, long at)
    {
        int count = 0;
        for (int got; count < content.Length; count += got)
        {
            got = RandomAccess.Read(file, content[count..], at + count);
            if (got == 0)
            {
                break;
            }
        }

        content[count..].Clear();
        return count;
    }

    private void Clear(long from, long to)
    {
        for (long block = from / Page.Size; block < (to + Page.Size - 1) / Page.Size; block++)
        {
            _ids[block] = default;
            _seen!.Forget(new PageNumber(block));
        }
    }

    private void Put(long block, ReadOnlySpan<byte> content)
    {
        Interlocked.Increment(ref _steps);
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
