using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Inventory;

/// <summary>What a file with holes really takes.</summary>
internal static partial class SparseFile
{
    private const int SeekData = 3;
    private const int SeekHole = 4;

    /// <summary>Bytes of the file that are not holes; 0 if it cannot be opened.</summary>
    public static long AllocatedBytes(string path)
    {
        try
        {
            using SafeFileHandle file = File.OpenHandle(path, share: FileShare.ReadWrite | FileShare.Delete);
            long bytes = 0;
            long at = 0;
            while ((at = Seek(file, at, SeekData)) >= 0)
            {
                long hole = Seek(file, at, SeekHole);
                if (hole <= at)
                {
                    break;
                }

                bytes += hole - at;
                at = hole;
            }

            return bytes;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return 0;
        }
    }

    [LibraryImport("libc", EntryPoint = "lseek", SetLastError = true)]
    private static partial long Seek(SafeFileHandle file, long offset, int whence);
}
