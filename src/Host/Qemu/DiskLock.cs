using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Qemu;

/// <summary>Whether a QEMU writes to a disk image, as its locks on the image say.</summary>
/// <remarks>
/// QEMU (block/file-posix.c) holds a shared lock on byte 100 + n of an image for each permission n that it has; writing
/// is number 1. A QEMU whose guest has been handed over has let go of it. Locks reach other hosts where the file system
/// that both have carries them.
/// </remarks>
public static partial class DiskLock
{
    private const long WritePermissionByte = 101;
    private const int GetOpenFileLock = 36;
    private const short WriteLock = 1;
    private const short NoLock = 2;

    /// <summary>True if some QEMU writes to it; false too if that cannot be told.</summary>
    public static bool IsWritten(string path)
    {
        try
        {
            using SafeFileHandle file = File.OpenHandle(path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite);
            var wanted = new FileLock { Type = WriteLock, Start = WritePermissionByte, Length = 1 };
            return ControlFile(file, GetOpenFileLock, ref wanted) == 0 && wanted.Type != NoLock;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    [LibraryImport("libc", EntryPoint = "fcntl")]
    private static partial int ControlFile(SafeFileHandle file, int command, ref FileLock fileLock);

    // struct flock of 64-bit Linux.
    [StructLayout(LayoutKind.Sequential)]
    private struct FileLock
    {
        public short Type;
        public short Whence;
        public long Start;
        public long Length;
        public int ProcessId;
    }
}
