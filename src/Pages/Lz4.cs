using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Godwit.Pages;

/// <summary>LZ4 blocks through the system's liblz4.so.1 (Debian package liblz4-1).</summary>
/// <remarks>
/// The C library is about twice as fast as the managed one on guest pages, and every Debian host has it because apt
/// itself depends on it; see docs/decisions/dependencies.md.
/// </remarks>
public static partial class Lz4
{
    /// <summary>The largest block LZ4 takes, in bytes.</summary>
    public const int SourceBytesMax = 0x7E000000;

    private const string Library = "liblz4.so.1";

    /// <summary>The library's version, as 10904 for 1.9.4. Fails when it is missing: call it at start-up.</summary>
    /// <exception cref="DllNotFoundException">The library is missing; the message names the package.</exception>
    public static int Version
    {
        get
        {
            try
            {
                return LZ4_versionNumber();
            }
            catch (DllNotFoundException e)
            {
                throw Missing(e);
            }
        }
    }

    /// <summary>The most bytes that coding <paramref name="sourceBytes"/> bytes can take.</summary>
    public static int CodedBytesMax(int sourceBytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(sourceBytes);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(sourceBytes, SourceBytesMax);
        return sourceBytes + (sourceBytes / 255) + 16;
    }

    /// <summary>Codes a block. The source must not change meanwhile: never pass live guest memory.</summary>
    /// <returns>Bytes written, or 0 when the result does not fit the destination.</returns>
    /// <param name="source">What to code.</param>
    /// <param name="destination">Where the result goes; when small, the call gives up early.</param>
    /// <param name="acceleration">1 codes best; larger is faster and codes less.</param>
    public static int Compress(ReadOnlySpan<byte> source, Span<byte> destination, int acceleration = 1)
    {
        if (source.Length > SourceBytesMax)
        {
            throw new ArgumentOutOfRangeException(
                nameof(source), $"LZ4 codes at most {SourceBytesMax} bytes at a time, not {source.Length}.");
        }

        if (source.IsEmpty || destination.IsEmpty)
        {
            return 0;
        }

        try
        {
            unsafe
            {
                // Both spans are pinned for the call and the library is told their exact lengths, beyond which it
                // neither reads nor writes.
                fixed (byte* from = source)
                fixed (byte* to = destination)
                {
                    return LZ4_compress_fast(from, to, source.Length, destination.Length, acceleration);
                }
            }
        }
        catch (DllNotFoundException e)
        {
            throw Missing(e);
        }
    }

    /// <summary>Decodes a block. Any input is safe: a forged one fails or gives wrong bytes, nothing else.</summary>
    /// <returns>Bytes written, or -1 when the block is malformed or its result does not fit the destination.</returns>
    public static int Decompress(ReadOnlySpan<byte> source, Span<byte> destination)
    {
        if (source.IsEmpty || destination.IsEmpty)
        {
            return -1;
        }

        try
        {
            unsafe
            {
                // As above; LZ4_decompress_safe is the variant made for untrusted input and checks every copy against
                // both lengths.
                fixed (byte* from = source)
                fixed (byte* to = destination)
                {
                    int written = LZ4_decompress_safe(from, to, source.Length, destination.Length);
                    return written < 0 ? -1 : written;
                }
            }
        }
        catch (DllNotFoundException e)
        {
            throw Missing(e);
        }
    }

    private static DllNotFoundException Missing(Exception cause) => new(
        $"The shared library {Library} is not installed. Install Debian package liblz4-1 (apt-get install liblz4-1).",
        cause);

    [LibraryImport(Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static partial int LZ4_versionNumber();

    [LibraryImport(Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static unsafe partial int LZ4_compress_fast(
        byte* source, byte* destination, int sourceSize, int destinationCapacity, int acceleration);

    [LibraryImport(Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static unsafe partial int LZ4_decompress_safe(
        byte* source, byte* destination, int compressedSize, int destinationCapacity);
}
