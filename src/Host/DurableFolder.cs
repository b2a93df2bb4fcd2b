using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host;

/// <summary>Names that have to outlast a loss of power: a file's own flush does not cover its name.</summary>
public static partial class DurableFolder
{
    private const int ReadOnlyCloseOnExec = 0x80000;

    /// <summary>Makes the names in a folder durable.</summary>
    /// <exception cref="IOException">It cannot be; what is there may be gone after a loss of power.</exception>
    public static void Flush(string folder)
    {
        int descriptor = Open(folder, ReadOnlyCloseOnExec);
        if (descriptor < 0)
        {
            throw new IOException(
                $"{folder} cannot be opened: {Marshal.GetLastPInvokeErrorMessage()}", Marshal.GetLastPInvokeError());
        }

        using var handle = new SafeFileHandle(descriptor, ownsHandle: true);
        if (SyncFile(handle) != 0)
        {
            throw new IOException(
                $"{folder} cannot be made durable: {Marshal.GetLastPInvokeErrorMessage()}",
                Marshal.GetLastPInvokeError());
        }
    }

    /// <summary>Gives a file its name, durably; what had the name is replaced.</summary>
    /// <param name="from">In the same folder, and flushed.</param>
    public static void Replace(string from, string to)
    {
        File.Move(from, to, overwrite: true);
        Flush(Path.GetDirectoryName(Path.GetFullPath(to))!);
    }

    [LibraryImport("libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Open(string path, int flags);

    [LibraryImport("libc", EntryPoint = "fsync", SetLastError = true)]
    private static partial int SyncFile(SafeFileHandle file);
}
