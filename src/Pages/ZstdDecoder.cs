using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Godwit.Pages;

/// <summary>Decodes the blocks of one <see cref="ZstdEncoder"/>, all of them and in order.</summary>
/// <remarks>
/// Any input is safe: a forged block fails or gives wrong bytes, nothing else. The memory it can cost is the window,
/// at most 2^<see cref="Zstd.WindowLogMax"/> bytes. One thread at a time.
/// </remarks>
public sealed partial class ZstdDecoder : IDisposable
{
    private const int ParameterWindowLogMax = 100;
    private const int ResetSession = 1;

    private readonly ZstdDecoderContext _context = ZstdDecoderContext.Create();

    /// <exception cref="DllNotFoundException">The library is missing; the message names the package.</exception>
    public ZstdDecoder() =>
        Zstd.Check(ZSTD_DCtx_setParameter(_context, ParameterWindowLogMax, Zstd.WindowLogMax), "set the window");

    /// <summary>Decodes the next block.</summary>
    /// <param name="source">One block, whole.</param>
    /// <param name="to">One byte more than was coded: the byte that tells a block which holds more.</param>
    /// <returns>False when the block is malformed or does not leave just that byte; the stream is lost then.</returns>
    public bool TryDecompress(ReadOnlySpan<byte> source, Span<byte> to)
    {
        unsafe
        {
            // Both spans are pinned for the call and the library is told their exact lengths, beyond which it neither
            // reads nor writes.
            fixed (byte* from = source)
            fixed (byte* into = to)
            {
                var input = new ZstdBuffer { Start = from, Size = (nuint)source.Length };
                var output = new ZstdBuffer { Start = into, Size = (nuint)to.Length };
                while (input.Position < input.Size)
                {
                    (nuint read, nuint written) = (input.Position, output.Position);
                    nuint result = ZSTD_decompressStream(_context, &output, &input);
                    // No progress: there is more in the block than has room.
                    if (Zstd.ZSTD_isError(result) != 0 || (read == input.Position && written == output.Position))
                    {
                        return false;
                    }
                }

                return output.Position == output.Size - 1;
            }
        }
    }

    /// <summary>Forgets the stream so far: the next block begins one.</summary>
    public void Reset() => Zstd.Check(ZSTD_DCtx_reset(_context, ResetSession), "begin a stream");

    public void Dispose() => _context.Dispose();

    [LibraryImport(Zstd.Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static partial nuint ZSTD_DCtx_setParameter(ZstdDecoderContext context, int parameter, int value);

    [LibraryImport(Zstd.Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static partial nuint ZSTD_DCtx_reset(ZstdDecoderContext context, int directive);

    [LibraryImport(Zstd.Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static unsafe partial nuint ZSTD_decompressStream(
        ZstdDecoderContext context, ZstdBuffer* output, ZstdBuffer* input);
}
