using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Qemu;

/// <summary>What can be seen of a disk image from outside QEMU.</summary>
internal static partial class DiskImage
{
    private const uint QcowMagic = 0x514649FB;

    /// <summary>Images followed in a chain of backing files.</summary>
    internal const int ChainMax = 16;

    /// <summary>The format by the image's first bytes: <c>qcow2</c>, or <c>raw</c> when they say nothing.</summary>
    /// <exception cref="IOException">It cannot be read.</exception>
    internal static string DetectFormat(string path)
    {
        using SafeFileHandle file = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        Span<byte> head = stackalloc byte[4];
        return RandomAccess.Read(file, head, 0) == 4 && BinaryPrimitives.ReadUInt32BigEndian(head) == QcowMagic
            ? "qcow2"
            : "raw";
    }

    /// <summary>An image and what it is based on, the image first; those of them that are there.</summary>
    /// <remarks>A chain longer than <see cref="ChainMax"/>, or one in a circle, is cut.</remarks>
    internal static IReadOnlyList<string> Chain(string path)
    {
        List<string> chain = [];
        try
        {
            for (string? next = Path.GetFullPath(path);
                next is not null && File.Exists(next) && chain.Count < ChainMax && !chain.Contains(next);
                next = BackingOf(next))
            {
                chain.Add(next);
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // As far as it can be read.
        }

        return chain;
    }

    /// <summary>Reads a part of an image, as <see cref="RandomAccess"/> does.</summary>
    internal delegate int ReadAt(Span<byte> bytes, long offset);

    private static string? BackingOf(string path)
    {
        using SafeFileHandle file = File.OpenHandle(
            path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
        return BackingOf(path, (bytes, offset) => RandomAccess.Read(file, bytes, offset));
    }

    /// <summary>What an image is based on; null if it is based on no file.</summary>
    /// <param name="path">Where it lies, or will.</param>
    // https://www.qemu.org/docs/master/interop/qcow2.html: offset and length of the backing file's name.
    internal static string? BackingOf(string path, ReadAt read)
    {
        const int nameBytesMax = 1023;
        Span<byte> head = stackalloc byte[20];
        if (read(head, 0) < head.Length || BinaryPrimitives.ReadUInt32BigEndian(head) != QcowMagic)
        {
            return null;
        }

        long offset = BinaryPrimitives.ReadInt64BigEndian(head[8..]);
        uint length = BinaryPrimitives.ReadUInt32BigEndian(head[16..]);
        if (offset <= 0 || length is 0 or > nameBytesMax)
        {
            return null;
        }

        byte[] name = new byte[length];
        string text = read(name, offset) == name.Length
            ? System.Text.Encoding.UTF8.GetString(name) : "";
        // Anything with a protocol, such as nbd:// or json:, is no file of ours.
        return text.Length == 0 || text.Contains(':', StringComparison.Ordinal) || text.Contains('\0')
            ? null
            : Path.GetFullPath(text, Path.GetDirectoryName(path)!);
    }

    /// <summary>Whether the image's file system takes O_DIRECT.</summary>
    internal static bool SupportsDirect(string path)
    {
        int descriptor = Open(path, 0x4000 | 0x80000);   // O_RDONLY | O_DIRECT | O_CLOEXEC
        if (descriptor < 0)
        {
            return false;
        }
        new SafeFileHandle(descriptor, ownsHandle: true).Dispose();
        return true;
    }

    /// <summary>Type of the file system that holds a path, by this process's mount table; empty if unknown.</summary>
    internal static string FileSystemOf(string path)
    {
        string full = Path.GetFullPath(path);
        string type = "";
        int longest = -1;
        foreach (string line in File.ReadLines("/proc/self/mountinfo"))
        {
            // "36 35 98:0 /root /mount/point options ... - type source options"
            string[] fields = line.Split(' ');
            int separator = Array.IndexOf(fields, "-");
            if (fields.Length < 5 || separator < 0 || separator + 1 >= fields.Length)
            {
                continue;
            }
            string mount = fields[4].Replace("\\040", " ", StringComparison.Ordinal).TrimEnd('/');
            // Later lines lie over earlier ones of the same mount point.
            if (mount.Length >= longest && (full == mount || full.StartsWith(mount + "/", StringComparison.Ordinal)))
            {
                longest = mount.Length;
                type = fields[separator + 1];
            }
        }
        return type;
    }

    [LibraryImport("libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Open(string path, int flags);
}
