using System.Buffers.Binary;
using System.IO.Hashing;

namespace Godwit.Pages;

/// <summary>Sums of the lines of a page: which lines have changed can be told without their old content.</summary>
/// <remarks>
/// A line is <see cref="LineBytes"/> bytes at a multiple of as many; its sum has 16 bits, so one change in 65,536 goes
/// unseen. Whoever rebuilds a page from what seemed to have changed has to name it before it is used.
/// </remarks>
public static class PageLines
{
    /// <summary>Bytes of a line.</summary>
    public const int LineBytes = 64;

    /// <summary>Bytes of all sums of a page, little-endian in the order of its lines.</summary>
    public const int SumsBytes = Lines * SumBytes;

    private const int Lines = Page.Size / LineBytes;
    private const int SumBytes = sizeof(ushort);
    private static readonly ushort _ofZeros = Hash(new byte[LineBytes]);

    /// <summary>Sums a page; one of zeros has nothing but zeros.</summary>
    /// <param name="page">4096 bytes.</param>
    /// <param name="sums">Takes <see cref="SumsBytes"/> bytes.</param>
    public static void Sum(ReadOnlySpan<byte> page, Span<byte> sums)
    {
        for (int line = 0; line < Lines; line++)
        {
            BinaryPrimitives.WriteUInt16LittleEndian(sums[(line * SumBytes)..], Of(page, line));
        }
    }

    /// <summary>Marks the bytes of the lines that seem to have changed.</summary>
    /// <param name="sums">Those of the old content: <see cref="SumsBytes"/> bytes.</param>
    /// <param name="page">The new content: 4096 bytes.</param>
    /// <param name="differs">64 words, a bit for each byte of the page: a word is a line.</param>
    internal static void Compare(ReadOnlySpan<byte> sums, ReadOnlySpan<byte> page, Span<ulong> differs)
    {
        for (int line = 0; line < Lines; line++)
        {
            bool same = BinaryPrimitives.ReadUInt16LittleEndian(sums[(line * SumBytes)..]) == Of(page, line);
            differs[line] = same ? 0 : ulong.MaxValue;
        }
    }

    private static ushort Of(ReadOnlySpan<byte> page, int line) =>
        (ushort)(Hash(page.Slice(line * LineBytes, LineBytes)) ^ _ofZeros);

    private static ushort Hash(ReadOnlySpan<byte> line) => (ushort)XxHash3.HashToUInt64(line);
}
