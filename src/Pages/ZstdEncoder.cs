using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Godwit.Pages;

/// <summary>One Zstandard stream, coded block by block; each block may refer back to those before it.</summary>
/// <remarks>
/// Pages of one guest resemble each other over megabytes, so what a lane has sent is the best dictionary for what it
/// sends next. Blocks have to be decoded by one <see cref="ZstdDecoder"/>, all of them and in order. One thread at a
/// time. What is coded must not change meanwhile: never pass live guest memory.
/// </remarks>
public sealed partial class ZstdEncoder : IDisposable
{
    private const int ParameterLevel = 100;
    private const int ParameterWindowLog = 101;
    private const int ParameterLongDistance = 160;
    private const int Flush = 1;
    private const int End = 2;
    private const int NoFrame = int.MinValue;
    private const int ResetSession = 1;

    private readonly ZstdEncoderContext _context = ZstdEncoderContext.Create();
    private int _level = NoFrame;
    private int _windowLog;

    /// <summary>The most bytes that coding a block can take.</summary>
    public static int CodedBytesMax(int sourceBytes) => sourceBytes + (sourceBytes / 256) + 128;

    /// <summary>Codes a block and everything a decoder needs to have all of it.</summary>
    /// <param name="source">What to code; at least one byte.</param>
    /// <param name="to">At least <see cref="CodedBytesMax"/> bytes.</param>
    /// <param name="level"><see cref="Zstd.LevelMin"/> to <see cref="Zstd.LevelMax"/>.</param>
    /// <param name="windowLog">
    /// Logarithm of the bytes to refer back to, 18 to <see cref="Zstd.WindowLogMax"/>. Another level or window than the
    /// last block's begins a new frame, which refers to nothing before it.
    /// </param>
    /// <returns>Bytes written.</returns>
    public int Compress(ReadOnlySpan<byte> source, Span<byte> to, int level, int windowLog)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(to.Length, CodedBytesMax(source.Length));
        int at = 0;
        if (level != _level || windowLog != _windowLog)
        {
            // The decoder is told that the last frame is over before it is shown another.
            at = _level == NoFrame ? 0 : Code([], to, End);
            Begin(level, windowLog);
        }

        return at + Code(source, to[at..], Flush);
    }

    private int Code(ReadOnlySpan<byte> source, Span<byte> to, int directive)
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
                nuint left;
                do
                {
                    left = ZSTD_compressStream2(_context, &output, &input, directive);
                    Zstd.Check(left, "code a block");
                }
                while (left != 0 && output.Position < output.Size);

                if (left != 0 || input.Position != input.Size)
                {
                    throw new InvalidOperationException(
                        $"libzstd needs more than {to.Length} bytes to code {source.Length}.");
                }

                return (int)output.Position;
            }
        }
    }

    public void Dispose() => _context.Dispose();

    private void Begin(int level, int windowLog)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(level, Zstd.LevelMin);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(level, Zstd.LevelMax);
        ArgumentOutOfRangeException.ThrowIfLessThan(windowLog, 18);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(windowLog, Zstd.WindowLogMax);
        Zstd.Check(ZSTD_CCtx_reset(_context, ResetSession), "begin a frame");
        Zstd.Check(ZSTD_CCtx_setParameter(_context, ParameterLevel, level), "set the level");
        Zstd.Check(ZSTD_CCtx_setParameter(_context, ParameterWindowLog, windowLog), "set the window");
        // The match finders of the lower levels reach a few hundred kilobytes; finding a page that was sent megabytes
        // ago is the long-distance matcher's work, and the window would be for nothing without it.
        Zstd.Check(
            ZSTD_CCtx_setParameter(_context, ParameterLongDistance, windowLog > 18 ? 1 : 0), "set the matcher");
        (_level, _windowLog) = (level, windowLog);
    }

    [LibraryImport(Zstd.Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static partial nuint ZSTD_CCtx_reset(ZstdEncoderContext context, int directive);

    [LibraryImport(Zstd.Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static partial nuint ZSTD_CCtx_setParameter(ZstdEncoderContext context, int parameter, int value);

    [LibraryImport(Zstd.Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static unsafe partial nuint ZSTD_compressStream2(
        ZstdEncoderContext context, ZstdBuffer* output, ZstdBuffer* input, int directive);
}
