using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Godwit.Pages;

/// <summary>Zstandard frames that stand alone: each is decoded without those before it.</summary>
/// <remarks>One thread at a time. What is coded must not change meanwhile: never pass live guest memory.</remarks>
public sealed partial class ZstdFrames : IDisposable
{
    private const string Library = "libzstd.so.1";
    private readonly EncoderContext _encoder;
    private readonly DecoderContext _decoder;

    /// <exception cref="DllNotFoundException">The library is missing; the message names the package.</exception>
    public ZstdFrames()
    {
        try
        {
            (_encoder, _decoder) = (ZSTD_createCCtx(), ZSTD_createDCtx());
        }
        catch (DllNotFoundException e)
        {
            throw Zstd.Missing(e);
        }

        if (_encoder.IsInvalid || _decoder.IsInvalid)
        {
            throw new InsufficientMemoryException("libzstd could not allocate a context.");
        }
    }

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

    [LibraryImport(Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static partial EncoderContext ZSTD_createCCtx();

    [LibraryImport(Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static partial nuint ZSTD_freeCCtx(nint context);

    [LibraryImport(Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static partial DecoderContext ZSTD_createDCtx();

    [LibraryImport(Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static partial nuint ZSTD_freeDCtx(nint context);

    [LibraryImport(Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static unsafe partial nuint ZSTD_compressCCtx(
        EncoderContext context, byte* to, nuint capacity, byte* from, nuint size, int level);

    [LibraryImport(Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static unsafe partial nuint ZSTD_decompressDCtx(
        DecoderContext context, byte* to, nuint capacity, byte* from, nuint size);

    private sealed class EncoderContext() : SafeHandle(0, ownsHandle: true)
    {
        public override bool IsInvalid => handle == 0;

        protected override bool ReleaseHandle()
        {
            _ = ZSTD_freeCCtx(handle);
            return true;
        }
    }

    private sealed class DecoderContext() : SafeHandle(0, ownsHandle: true)
    {
        public override bool IsInvalid => handle == 0;

        protected override bool ReleaseHandle()
        {
            _ = ZSTD_freeDCtx(handle);
            return true;
        }
    }
}
