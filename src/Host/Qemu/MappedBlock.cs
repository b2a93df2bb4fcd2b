using System.Runtime.InteropServices;
using Godwit.Migration;
using Godwit.Pages;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Qemu;

/// <summary>A RAM block of the guest, mapped shared into this process.</summary>
/// <remarks>
/// The mapping is of QEMU's own memory file, which QEMU seals against shrinking: as long as this object lives, every
/// page inside <see cref="Length"/> is there, even after QEMU has ended. Any thread may read and write; nobody may
/// after <see cref="Dispose"/>.
/// </remarks>
public sealed unsafe partial class MappedBlock : BlockMemory, IDisposable
{
    private const int PageBytes = 4096;
    // 64 MiB: what may be counted as this process's own of a guest whose memory it walks over.
    private const int ResidentPagesMax = 16384;
    private readonly SafeFileHandle _file;
    private byte* _start;
    private int _touched;

    private MappedBlock(string name, SafeFileHandle file, byte* start, long length)
    {
        Name = name;
        _file = file;
        _start = start;
        Length = length;
    }

    /// <summary>QEMU's name of the block, as its migration stream has it.</summary>
    public string Name { get; }

    public override long Length { get; }

    public override ReadOnlySpan<byte> Read(PageNumber page)
    {
        byte* start = At(page);
        Touch();
        return new(start, PageBytes);
    }

    public override void Write(PageNumber page, ReadOnlySpan<byte> content)
    {
        byte* target = At(page);
        Touch();
        if (content.Length == PageBytes)
        {
            content.CopyTo(new Span<byte>(target, PageBytes));
        }
        else if (!content.IsEmpty)
        {
            throw new ArgumentException($"A page has {PageBytes} bytes, not {content.Length}.", nameof(content));
        }
        else if (IsAllocated(page))
        {
            // A page that nobody has written is a hole and zero already. To look at it through the mapping would
            // allocate it, and a guest that uses a tenth of its memory would arrive with all of it in use.
            new Span<byte>(target, PageBytes).Clear();
        }
    }

    // Takes the pages out of this process's resident set every now and then; the guest's memory is not touched, and the
    // next access finds it again. A daemon with the memory of all its moving guests in its set would be the first to be
    // killed when memory runs short.
    private void Touch()
    {
        if (Interlocked.Increment(ref _touched) % ResidentPagesMax == 0)
        {
            // On a shared mapping of a file MADV_DONTNEED (4) drops the page table entries, never the contents.
            _ = MemoryAdvise(_start, (nuint)Length, 4);
        }
    }

    /// <summary>Finds the memory file of a QEMU process and maps it.</summary>
    internal static MappedBlock Open(int processId, string name, long length)
    {
        string directory = $"/proc/{processId}/fd";
        string? path;
        try
        {
            path = Directory.EnumerateFileSystemEntries(directory).FirstOrDefault(IsMemory);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw Failure(name, processId, e.Message, e);
        }
        if (path is null)
        {
            throw Failure(name, processId, "the process holds no such memory file", null);
        }
        SafeFileHandle file;
        try
        {
            file = File.OpenHandle(path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite | FileShare.Delete);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw Failure(name, processId, e.Message, e);
        }
        try
        {
            long actual = RandomAccess.GetLength(file);
            if (actual != length)
            {
                throw Failure(name, processId, $"the memory file has {actual} bytes, the contract says {length}", null);
            }
            // PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE.
            byte* start = (byte*)MemoryMap(null, (nuint)length, 3, 0x4001, file, 0);
            if ((nint)start == -1)
            {
                throw Failure(name, processId, Marshal.GetLastPInvokeErrorMessage(), null);
            }
            // Children of this process have no business with a guest's memory (MADV_DONTFORK), and neither have its
            // core dumps (MADV_DONTDUMP).
            _ = MemoryAdvise(start, (nuint)length, 10);
            _ = MemoryAdvise(start, (nuint)length, 16);
            return new MappedBlock(name, file, start, length);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    private static bool IsMemory(string descriptor)
    {
        try
        {
            return File.ResolveLinkTarget(descriptor, returnFinalTarget: false) is { } target
                && target.FullName.Contains("/memfd:memory-backend-memfd", StringComparison.Ordinal);
        }
        catch (IOException)
        {
            // Closed between the listing and the look.
            return false;
        }
    }

    private static GodwitException Failure(string name, int processId, string why, Exception? inner) =>
        new("memory-map", $"RAM block {name} of QEMU process {processId} cannot be mapped: {why}.",
            "The daemon has to run as root or as QEMU's user; a guest with private memory moves without mapping.",
            inner);

    /// <remarks>
    /// Safe because the result points to a whole page inside [start, start + Length): the page number is checked
    /// against Length as an unsigned quotient, so neither a negative number nor an overflow gets through.
    /// </remarks>
    private byte* At(PageNumber page)
    {
        ObjectDisposedException.ThrowIf(_start is null, this);
        if ((ulong)page.Value >= (ulong)(Length / PageBytes))
        {
            throw new ArgumentOutOfRangeException(nameof(page),
                $"Page {page.Value} is outside RAM block {Name}, which has {Length / PageBytes} pages.");
        }
        return _start + (page.Value * PageBytes);
    }

    public override bool IsAllocated(PageNumber page)
    {
        long offset = page.Value * PageBytes;
        // SEEK_DATA (3) gives the first offset at or after ours that holds data; the file position itself is unused.
        return Seek(_file, offset, 3) == offset;
    }

    public void Dispose()
    {
        if (_start is not null)
        {
            _ = MemoryUnmap(_start, (nuint)Length);
            _start = null;
            _file.Dispose();
        }
    }

    [LibraryImport("libc", EntryPoint = "mmap", SetLastError = true)]
    private static partial void* MemoryMap(
        void* address, nuint length, int protection, int flags, SafeFileHandle file, long offset);

    [LibraryImport("libc", EntryPoint = "munmap", SetLastError = true)]
    private static partial int MemoryUnmap(void* address, nuint length);

    [LibraryImport("libc", EntryPoint = "madvise", SetLastError = true)]
    private static partial int MemoryAdvise(void* address, nuint length, int advice);

    [LibraryImport("libc", EntryPoint = "lseek", SetLastError = true)]
    private static partial long Seek(SafeFileHandle file, long offset, int whence);
}
