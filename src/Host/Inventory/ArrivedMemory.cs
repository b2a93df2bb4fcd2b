using System.Buffers;
using System.Buffers.Binary;
using System.Text;
using Godwit.Pages;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Inventory;

/// <summary>
/// What a guest's memory was when it came here, as sums of its lines: the host it came from keeps that memory, and when
/// the guest goes back there, what changed in a page since can be told.
/// </summary>
/// <remarks>
/// docs/formats/inventory.md has the file. Different pages may be noted and read by different threads at once. A failed
/// write ends the noting without a word: without sums, pages go whole.
/// </remarks>
public sealed class ArrivedMemory : IDisposable
{
    internal const string Extension = ".sums";
    internal const int HeaderBytes = 4096;
    private const int WordsAt = 20;
    private const int WordMax = 255;
    private const ushort Version = 1;
    private static ReadOnlySpan<byte> Magic => "GDWS"u8;
    private readonly SafeFileHandle _file;
    private readonly string _path;
    private volatile bool _failed;
    private bool _kept;

    private ArrivedMemory(string path, SafeFileHandle file)
    {
        _path = path;
        _file = file;
    }

    /// <summary>Begins one; nothing of it is seen before <see cref="Keep"/>.</summary>
    /// <param name="path">Where it will be; a file of its name with <c>.new</c> behind it is made.</param>
    /// <param name="label">The guest's name.</param>
    /// <param name="from">The host that the guest comes from.</param>
    /// <param name="memoryBytes">The length of the guest's memory.</param>
    /// <exception cref="IOException">It cannot be made.</exception>
    internal static ArrivedMemory Begin(string path, string label, string from, long memoryBytes)
    {
        byte[] header = new byte[HeaderBytes];
        Magic.CopyTo(header);
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(4), Version);
        BinaryPrimitives.WriteInt64LittleEndian(header.AsSpan(8), memoryBytes);
        int host = Encoding.UTF8.GetBytes(from, header.AsSpan(WordsAt, WordMax));
        int name = Encoding.UTF8.GetBytes(label, header.AsSpan(WordsAt + host, WordMax));
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(16), (ushort)host);
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(18), (ushort)name);
        SafeFileHandle file = HostInventory.Create(path + ".new", FileAccess.ReadWrite);
        try
        {
            RandomAccess.Write(file, header, 0);
            RandomAccess.SetLength(file, HeaderBytes + (memoryBytes / Page.Size * PageLines.SumsBytes));
            return new ArrivedMemory(path, file) { From = from, Label = label, MemoryBytes = memoryBytes };
        }
        catch
        {
            file.Dispose();
            File.Delete(path + ".new");
            throw;
        }
    }

    /// <summary>Opens one that was kept.</summary>
    /// <exception cref="IOException">It cannot be read, or is not one.</exception>
    internal static ArrivedMemory Open(string path)
    {
        SafeFileHandle file = File.OpenHandle(path, share: FileShare.ReadWrite | FileShare.Delete);
        try
        {
            Span<byte> header = new byte[HeaderBytes];
            int read = RandomAccess.Read(file, header, 0);
            int host = BinaryPrimitives.ReadUInt16LittleEndian(header[16..]);
            int name = BinaryPrimitives.ReadUInt16LittleEndian(header[18..]);
            long memory = BinaryPrimitives.ReadInt64LittleEndian(header[8..]);
            if (read < HeaderBytes || !header.StartsWith(Magic) || host > WordMax || name > WordMax
                || BinaryPrimitives.ReadUInt16LittleEndian(header[4..]) != Version
                || RandomAccess.GetLength(file) != HeaderBytes + (memory / Page.Size * PageLines.SumsBytes))
            {
                throw new IOException($"it holds no sums of version {Version}, or not all of them");
            }

            return new ArrivedMemory(path, file)
            {
                From = Encoding.UTF8.GetString(header.Slice(WordsAt, host)),
                Label = Encoding.UTF8.GetString(header.Slice(WordsAt + host, name)),
                MemoryBytes = memory,
                _kept = true,
            };
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>The host that the guest came from, and that keeps what is summed here.</summary>
    internal string From { get; private init; } = "";

    /// <summary>The guest's name.</summary>
    internal string Label { get; private init; } = "";

    /// <summary>The length of the guest's memory.</summary>
    internal long MemoryBytes { get; private init; }

    /// <summary>Notes what pages hold now.</summary>
    /// <param name="first">The first of them.</param>
    /// <param name="contents">4096 bytes for each.</param>
    public void Note(PageNumber first, ReadOnlySpan<byte> contents)
    {
        int count = contents.Length / Page.Size;
        byte[] sums = ArrayPool<byte>.Shared.Rent(count * PageLines.SumsBytes);
        for (int i = 0; i < count; i++)
        {
            PageLines.Sum(
                contents.Slice(i * Page.Size, Page.Size),
                sums.AsSpan(i * PageLines.SumsBytes, PageLines.SumsBytes));
        }

        Write(first, sums.AsSpan(0, count * PageLines.SumsBytes));
        ArrayPool<byte>.Shared.Return(sums);
    }

    /// <summary>Notes that pages are zero which were not.</summary>
    public void NoteZeros(PageNumber first, int count)
    {
        byte[] sums = ArrayPool<byte>.Shared.Rent(count * PageLines.SumsBytes);
        sums.AsSpan(0, count * PageLines.SumsBytes).Clear();
        Write(first, sums.AsSpan(0, count * PageLines.SumsBytes));
        ArrayPool<byte>.Shared.Return(sums);
    }

    /// <summary>Reads the sums of a page.</summary>
    /// <param name="sums"><see cref="PageLines.SumsBytes"/> bytes; zeros for a page that was zero.</param>
    /// <returns>False if they cannot be read.</returns>
    public bool TryRead(PageNumber page, Span<byte> sums)
    {
        try
        {
            return RandomAccess.Read(_file, sums, At(page)) == sums.Length;
        }
        catch (IOException)
        {
            return false;
        }
    }

    /// <summary>Not every page will be noted: nothing will be kept.</summary>
    public void GiveUp() => _failed = true;

    /// <summary>The guest runs here, and every page that it came with has been noted.</summary>
    internal void Keep()
    {
        if (!_failed)
        {
            File.Move(_path + ".new", _path, overwrite: true);
            _kept = true;
        }
    }

    /// <summary>Closes it; what was begun and not kept is removed.</summary>
    public void Dispose()
    {
        _file.Dispose();
        if (!_kept)
        {
            File.Delete(_path + ".new");
        }
    }

    private void Write(PageNumber first, ReadOnlySpan<byte> sums)
    {
        if (_failed)
        {
            return;
        }

        try
        {
            RandomAccess.Write(_file, sums, At(first));
        }
        catch (IOException)
        {
            _failed = true;
        }
    }

    private static long At(PageNumber page) => HeaderBytes + (page.Value * PageLines.SumsBytes);
}
