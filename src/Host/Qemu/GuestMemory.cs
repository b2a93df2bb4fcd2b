using System.Runtime.InteropServices;
using Godwit.Migration;
using Godwit.Pages;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Qemu;

/// <summary>A RAM block of the guest: QEMU's own memory file, read and written in place.</summary>
/// <remarks>
/// The file lives as long as this object does, even after QEMU has ended. Any thread may read and write; nobody may
/// after <see cref="Dispose"/>. The file is not mapped here: see docs/decisions/guest-memory.md.
/// </remarks>
public sealed partial class GuestMemory : IDisposable
{
    private const int SeekData = 3;
    private const int SeekHole = 4;
    private static readonly byte[] _zeros = new byte[64 * Page.Size];
    private readonly SafeFileHandle _file;

    private GuestMemory(string name, SafeFileHandle file, long length)
    {
        Name = name;
        _file = file;
        Length = length;
    }

    /// <summary>QEMU's name of the block, as its migration stream has it.</summary>
    public string Name { get; }

    /// <summary>The memory file, for those that read it by other units than pages. It goes with this object.</summary>
    internal SafeFileHandle File => _file;

    /// <summary>Bytes; equals the length of the RAM block.</summary>
    public long Length { get; }

    /// <summary>Copies pages out. The guest may write them meanwhile, so a page may be torn.</summary>
    /// <param name="first">The first page; all of them lie inside the block.</param>
    /// <param name="content">4096 bytes per page. Pages that nobody has written are zero and stay unallocated.</param>
    public void Read(PageNumber first, Span<byte> content)
    {
        long offset = Check(first, content.Length);
        while (!content.IsEmpty)
        {
            int count = RandomAccess.Read(_file, content, offset);
            if (count == 0)
            {
                throw new EndOfStreamException($"The memory file of RAM block {Name} ends at byte {offset}.");
            }

            content = content[count..];
            offset += count;
        }
    }

    /// <summary>Puts pages in place.</summary>
    /// <param name="first">The first page; all of them lie inside the block.</param>
    /// <param name="content">Whole pages, 4096 bytes each.</param>
    public void Write(PageNumber first, ReadOnlySpan<byte> content) =>
        RandomAccess.Write(_file, content, Check(first, content.Length));

    /// <summary>Makes pages zero.</summary>
    /// <remarks>
    /// A page that nobody has written is a hole and zero already. To write it would allocate it, and a guest that uses
    /// a tenth of its memory would arrive with all of it in use.
    /// </remarks>
    /// <returns>False if all of them were holes.</returns>
    public bool Clear(PageNumber first, int count)
    {
        bool wrote = false;
        long at = Check(first, (long)count * Page.Size);
        long end = at + ((long)count * Page.Size);
        while ((at = Seek(_file, at, SeekData)) >= 0 && at < end)
        {
            long dataEnd = Math.Min(Seek(_file, at, SeekHole), end);
            for (int length; at < dataEnd; at += length)
            {
                length = (int)Math.Min(_zeros.Length, dataEnd - at);
                RandomAccess.Write(_file, _zeros.AsSpan(0, length), at);
                wrote = true;
            }
        }

        return wrote;
    }

    /// <summary>Takes the contents of pages away: they are holes again, and a guest may wait for them.</summary>
    /// <exception cref="IOException">The system refused.</exception>
    public void Punch(PageNumber first, long count)
    {
        if (Allocate(_file, PunchHole | KeepSize, Check(first, count * Page.Size), count * Page.Size) != 0)
        {
            throw new IOException(
                $"Pages of RAM block {Name} cannot be taken away: {Marshal.GetLastPInvokeErrorMessage()}.");
        }
    }

    /// <summary>False for a page that nobody has written yet: it is zero.</summary>
    public bool IsAllocated(PageNumber page)
    {
        long offset = Check(page, Page.Size);
        return Seek(_file, offset, SeekData) == offset;
    }

    /// <summary>Finds the next pages that somebody has written; everything between them is zero.</summary>
    /// <param name="from">The first page that may be given.</param>
    /// <param name="run">The pages: their first one and their number.</param>
    /// <returns>False if there are none up to the block's end.</returns>
    public bool TryFindAllocated(PageNumber from, out (PageNumber First, long Count) run)
    {
        run = default;
        if (from.Value >= Length / Page.Size)
        {
            return false;
        }

        long data = Seek(_file, Check(from, 0), SeekData);
        if (data < 0)
        {
            return false;
        }

        long hole = Math.Min(Length, Seek(_file, data, SeekHole));
        long first = data / Page.Size;
        run = (new PageNumber(first), ((hole + Page.Size - 1) / Page.Size) - first);
        return true;
    }

    /// <summary>Finds the memory file of a QEMU process and opens it.</summary>
    internal static GuestMemory Open(int processId, string name, long length)
    {
        SafeFileHandle file;
        try
        {
            string path = Directory.EnumerateFileSystemEntries($"/proc/{processId}/fd").FirstOrDefault(IsMemory)
                ?? throw new FileNotFoundException("the process holds no such memory file");
            file = System.IO.File.OpenHandle(
                path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite | FileShare.Delete);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw Failure(name, processId, e.Message, e);
        }

        long actual = RandomAccess.GetLength(file);
        if (actual != length)
        {
            file.Dispose();
            throw Failure(name, processId, $"the memory file has {actual} bytes, the contract says {length}", null);
        }

        return new GuestMemory(name, file, length);
    }

    public void Dispose() => _file.Dispose();

    private static bool IsMemory(string descriptor)
    {
        try
        {
            return System.IO.File.ResolveLinkTarget(descriptor, returnFinalTarget: false) is { } target
                && target.FullName.Contains("/memfd:memory-backend-memfd", StringComparison.Ordinal);
        }
        catch (IOException)
        {
            // Closed between the listing and the look.
            return false;
        }
    }

    private static GodwitException Failure(string name, int processId, string why, Exception? inner) =>
        new("memory-file", $"The memory file of RAM block {name} of QEMU process {processId} cannot be used: {why}.",
            "The daemon has to run as root or as QEMU's user, with no fewer capabilities than QEMU: restart the guest "
            + "if a daemon with more had started it. A guest with private memory moves without the file.",
            inner);

    private long Check(PageNumber first, long bytes)
    {
        if (bytes % Page.Size != 0)
        {
            throw new ArgumentException($"A page has {Page.Size} bytes; {bytes} bytes are no whole number of pages.");
        }

        if ((ulong)first.Value > (ulong)(Length / Page.Size) || bytes > Length - (first.Value * Page.Size))
        {
            throw new ArgumentOutOfRangeException(
                nameof(first),
                $"{bytes / Page.Size} pages from page {first.Value} are not all in RAM block {Name}, which has "
                + $"{Length / Page.Size} pages.");
        }

        return first.Value * Page.Size;
    }

    private const int KeepSize = 1;
    private const int PunchHole = 2;

    [LibraryImport("libc", EntryPoint = "fallocate", SetLastError = true)]
    private static partial int Allocate(SafeFileHandle file, int mode, long offset, long length);

    [LibraryImport("libc", EntryPoint = "lseek", SetLastError = true)]
    private static partial long Seek(SafeFileHandle file, long offset, int whence);
}
