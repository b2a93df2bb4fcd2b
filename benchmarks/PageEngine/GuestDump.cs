using System.Globalization;
using Godwit.Pages;

namespace Godwit.PageEngine;

/// <summary>A guest's memory as it was at one moment, or at two.</summary>
/// <param name="Pages">The pages that are not zero, in order.</param>
/// <param name="Total">All pages.</param>
/// <param name="Changed">Pages that differed at the second look: old and new, one after the other.</param>
internal sealed record GuestDump(byte[] Pages, int Total, byte[] Changed)
{
    internal int Count => Pages.Length / Page.Size;

    /// <param name="from">A file, or the process of a QEMU whose guest has shared memory.</param>
    /// <param name="later">Seconds between two looks at a running guest; 0 for one look.</param>
    internal static GuestDump Take(string from, double later)
    {
        string path = int.TryParse(from, CultureInfo.InvariantCulture, out int process) ? MemoryOf(process) : from;
        byte[] first = Read(path);
        byte[] second = first;
        if (later > 0)
        {
            Thread.Sleep(TimeSpan.FromSeconds(later));
            second = Read(path);
        }

        using var pages = new MemoryStream();
        using var changed = new MemoryStream();
        for (int at = 0; at < first.Length; at += Page.Size)
        {
            ReadOnlySpan<byte> old = first.AsSpan(at, Page.Size);
            ReadOnlySpan<byte> now = second.AsSpan(at, Page.Size);
            if (!ZeroTest.IsZero(old))
            {
                pages.Write(old);
            }

            if (!old.SequenceEqual(now))
            {
                changed.Write(old);
                changed.Write(now);
            }
        }

        return new GuestDump(pages.ToArray(), first.Length / Page.Size, changed.ToArray());
    }

    private static byte[] Read(string path)
    {
        using FileStream file = new(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
        byte[] bytes = new byte[file.Length / Page.Size * Page.Size];
        file.ReadExactly(bytes);
        return bytes;
    }

    private static string MemoryOf(int process) => Directory
        .EnumerateFileSystemEntries($"/proc/{process}/fd")
        .First(path => File.ResolveLinkTarget(path, false)?.FullName.Contains(
            "memfd:memory-backend-memfd", StringComparison.Ordinal) == true);
}
