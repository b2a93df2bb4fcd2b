using System.Buffers;
using System.IO.MemoryMappedFiles;

namespace Godwit.Host.Inventory;

/// <summary>A whole file as read-only memory, up to 2 GiB.</summary>
/// <remarks>
/// The file must not become shorter while it is mapped: files here are replaced by a rename, never written in place. A
/// look at one that did would end the process.
/// </remarks>
internal sealed unsafe class MappedFile : MemoryManager<byte>
{
    private readonly MemoryMappedFile _file;
    private readonly MemoryMappedViewAccessor _view;
    private readonly byte* _start;
    private readonly int _length;

    private MappedFile(MemoryMappedFile file, int length)
    {
        _file = file;
        _length = length;
        _view = file.CreateViewAccessor(0, length, MemoryMappedFileAccess.Read);
        // Safe: the view holds the mapping until Dispose, which also gives the pointer back.
        _view.SafeMemoryMappedViewHandle.AcquirePointer(ref _start);
        _start += _view.PointerOffset;
    }

    /// <exception cref="IOException">It cannot be read, is empty, or is longer than 2 GiB.</exception>
    public static MappedFile Open(string path)
    {
        long length = new FileInfo(path).Length;
        if (length is 0 or > int.MaxValue)
        {
            throw new IOException($"{path} has {length} bytes; 1 to {int.MaxValue} can be mapped.");
        }

        return new MappedFile(
            MemoryMappedFile.CreateFromFile(path, FileMode.Open, null, 0, MemoryMappedFileAccess.Read), (int)length);
    }

    // Safe: the mapping covers exactly this length, and nobody may use the span after Dispose.
    public override Span<byte> GetSpan() => new(_start, _length);

    public override MemoryHandle Pin(int elementIndex = 0) => new(_start + elementIndex, default, this);

    public override void Unpin()
    {
    }

    protected override void Dispose(bool disposing)
    {
        _view.SafeMemoryMappedViewHandle.ReleasePointer();
        _view.Dispose();
        _file.Dispose();
    }
}
