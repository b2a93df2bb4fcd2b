using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Godwit.Pages;

/// <summary>Zstandard through the system's libzstd.so.1 (Debian package libzstd1), 1.4.0 and later.</summary>
/// <remarks>Every Debian host has it, because apt itself depends on it; see docs/decisions/dependencies.md.</remarks>
public static partial class Zstd
{
    /// <summary>The fastest level used: about as fast as LZ4, and no better.</summary>
    public const int LevelMin = -7;

    /// <summary>The best level used; higher ones cost several times as much for a percent.</summary>
    public const int LevelMax = 15;

    /// <summary>
    /// Logarithm of the most bytes a stream may refer back to: what a peer can make a decoder keep per lane.
    /// </summary>
    public const int WindowLogMax = 25;

    internal const string Library = "libzstd.so.1";

    /// <summary>The library's version, as 10504 for 1.5.4. Fails when it is missing: call it at start-up.</summary>
    /// <exception cref="DllNotFoundException">The library is missing; the message names the package.</exception>
    public static int Version
    {
        get
        {
            try
            {
                return (int)ZSTD_versionNumber();
            }
            catch (DllNotFoundException e)
            {
                throw Missing(e);
            }
        }
    }

    internal static T Create<T>(Func<T> create)
        where T : SafeHandle
    {
        try
        {
            T context = create();
            return context.IsInvalid
                ? throw new InsufficientMemoryException("libzstd could not allocate a context.") : context;
        }
        catch (DllNotFoundException e)
        {
            throw Missing(e);
        }
    }

    private static DllNotFoundException Missing(Exception cause) => new(
        $"The shared library {Library} is not installed. Install Debian package libzstd1 (apt-get install libzstd1).",
        cause);

    internal static void Check(nuint result, string what)
    {
        if (ZSTD_isError(result) != 0)
        {
            throw new InvalidOperationException(
                $"{Library} could not {what}: {Marshal.PtrToStringUTF8(ZSTD_getErrorName(result))}.");
        }
    }

    [LibraryImport(Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static partial uint ZSTD_versionNumber();

    [LibraryImport(Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    internal static partial uint ZSTD_isError(nuint code);

    [LibraryImport(Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static partial nint ZSTD_getErrorName(nuint code);
}

/// <summary>The library's view of a buffer: where it is, how long, and how far it has got.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct ZstdBuffer
{
    public byte* Start;
    public nuint Size;
    public nuint Position;
}
