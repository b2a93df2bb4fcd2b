using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Godwit.Pages;

/// <summary>Zstandard frames that stand alone: each is decoded without those before it.</summary>
/// <remarks>One thread at a time. What is coded must not change meanwhile: never pass live guest memory.</remarks>
public sealed partial class ZstdFrames : IDisposable
{
    private readonly ZstdEncoderContext _encoder = ZstdEncoderContext.Create();
    private readonly ZstdDecoderContext _decoder = ZstdDecoderContext.Create();

    /// <summary>Codes a frame.</summary>
    /// <param name="level"><see cref="Zstd.LevelMin"/> to <see cref="Zstd.LevelMax"/>.</param>
    /// <returns>Bytes written, or 0 when the result does not fit.</returns>
    public int Compress(ReadOnlySpan<byte> source, Span<byte> to, int level)
    {
        unsafe
        {
            // Both spans are pinned for the call and the library is told their exact lengths, beyond which it neither
            // reads nor writes.
            fixed (byte* from = source)
            fixed (byte* into = to)
            {
                nuint result = ZSTD_compressCCtx(
                    _encoder, into, (nuint)to.Length, from, (nuint)source.Length, level);
                return Zstd.ZSTD_isError(result) != 0 ? 0 : (int)result;
            }
        }
    }

    /// <summary>Decodes a frame. Any input is safe: a forged one fails or gives wrong bytes, nothing else.</summary>
    /// <returns>True if it decodes to exactly as many bytes as there is room for.</returns>
    public bool TryDecompress(ReadOnlySpan<byte> source, Span<byte> to)
    {
        unsafe
        {
            // As above; the decoder is the variant made for untrusted input and checks every copy against both lengths.
            fixed (byte* from = source)
            fixed (byte* into = to)
            {
                nuint result = ZSTD_decompressDCtx(_decoder, into, (nuint)to.Length, from, (nuint)source.Length);
                return Zstd.ZSTD_isError(result) == 0 && result == (nuint)to.Length;
            }
        }
    }

    public void Dispose()
    {
        _encoder.Dispose();
        _decoder.Dispose();
    }

    [LibraryImport(Zstd.Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static unsafe partial nuint ZSTD_compressCCtx(
        ZstdEncoderContext context, byte* to, nuint capacity, byte* from, nuint size, int level);

    [LibraryImport(Zstd.Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static unsafe partial nuint ZSTD_decompressDCtx(
        ZstdDecoderContext context, byte* to, nuint capacity, byte* from, nuint size);
}
