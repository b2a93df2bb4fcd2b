using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Qemu;

/// <summary>QEMU's locks on a disk image: whether a QEMU writes to it, and keeping every QEMU from it.</summary>
/// <remarks>
/// QEMU (block/file-posix.c) holds a shared lock on byte 100 + n of an image for each permission n that it has, and on
/// byte 200 + n for each that it lets nobody else have; writing is number 1. A QEMU whose guest has been handed over
/// has let go of it. Locks reach other hosts where the file system that both have carries them.
/// </remarks>
public static partial class DiskLock
{
    private const long WritePermissionByte = 101;
    private const long UnsharedWriteByte = 201;
    private const int GetOpenFileLock = 36;
    private const int SetOpenFileLock = 37;
    private const short ReadLock = 0;
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

    /// <summary>Keeps QEMU from the image for as long as the file stays open, as one that writes to it would.</summary>
    /// <returns>False if some QEMU writes to it, or lets nobody else do so.</returns>
    public static bool TryHold(SafeFileHandle file)
    {
        foreach (long start in (long[])[WritePermissionByte, UnsharedWriteByte])
        {
            var held = new FileLock { Type = ReadLock, Start = start, Length = 1 };
            if (ControlFile(file, SetOpenFileLock, ref held) != 0)
            {
                return false;
            }
        }

        // Both are shared locks: as in QEMU, who has got them looks whether somebody else has too.
        foreach (long start in (long[])[WritePermissionByte, UnsharedWriteByte])
        {
            var other = new FileLock { Type = WriteLock, Start = start, Length = 1 };
            if (ControlFile(file, GetOpenFileLock, ref other) == 0 && other.Type != NoLock)
            {
                return false;
            }
        }

        return true;
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
