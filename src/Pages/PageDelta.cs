using System.Numerics;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Godwit.Pages;

/// <summary>What changed in a page since a version that the other side holds, as runs of bytes.</summary>
/// <remarks>
/// A delta is a sequence of: bytes to leave as they are, bytes to replace, both as one byte below 128 or two bytes of
/// seven bits, low ones first and the first with its top bit set, then the new bytes. What the last run does not reach
/// stays.
/// </remarks>
public static class PageDelta
{
    /// <summary>The longest delta. One longer would cost as much as the page.</summary>
    public const int BytesMax = Page.Size - 2;

    // Two runs closer than this cost more apart than the unchanged bytes between them.
    private const int GapMin = 3;

    /// <summary>Codes the difference of two versions.</summary>
    /// <param name="to">Where it goes; a small one lets a page that changed much be given up soon.</param>
    /// <returns>
    /// Bytes written: 0 for equal pages, and -1 when the delta does not fit.
    /// </returns>
    public static int Encode(ReadOnlySpan<byte> old, ReadOnlySpan<byte> now, Span<byte> to)
    {
        Check(old.Length);
        Check(now.Length);
        Span<ulong> differs = stackalloc ulong[Page.Size / 64];
        Compare(old, now, differs);
        return Encode(differs, now, to);
    }

    /// <summary>Codes the lines that seem to have changed since <see cref="PageLines.Sum"/>.</summary>
    /// <param name="sums">The old version's: <see cref="PageLines.SumsBytes"/> bytes.</param>
    /// <param name="to">As for the other one, and so is the result.</param>
    public static int EncodeLines(ReadOnlySpan<byte> sums, ReadOnlySpan<byte> now, Span<byte> to)
    {
        Check(now.Length);
        Span<ulong> differs = stackalloc ulong[Page.Size / 64];
        PageLines.Compare(sums, now, differs);
        return Encode(differs, now, to);
    }

    private static int Encode(ReadOnlySpan<ulong> differs, ReadOnlySpan<byte> now, Span<byte> to)
    {
        int at = 0;
        int end = 0;
        for (int begin = Next(differs, 0, set: true); begin < Page.Size;)
        {
            int runEnd = Next(differs, begin, set: false);
            int next = Next(differs, runEnd, set: true);
            while (next < Page.Size && next - runEnd < GapMin)
            {
                runEnd = Next(differs, next, set: false);
                next = Next(differs, runEnd, set: true);
            }

            int count = runEnd - begin;
            if (to.Length - at < count + 4)
            {
                return -1;
            }

            at += WriteNumber(to[at..], begin - end);
            at += WriteNumber(to[at..], count);
            now.Slice(begin, count).CopyTo(to[at..]);
            at += count;
            end = runEnd;
            begin = next;
        }

        return at;
    }

    /// <summary>Makes the new version of a page out of the old one, in place. Any delta is safe.</summary>
    /// <returns>False if the delta is malformed; the page is then neither version.</returns>
    public static bool TryApply(ReadOnlySpan<byte> delta, Span<byte> page)
    {
        Check(page.Length);
        while (!delta.IsEmpty)
        {
            if (!TryReadNumber(ref delta, out int skip) || !TryReadNumber(ref delta, out int count)
                || count == 0 || skip + count > page.Length || count > delta.Length)
            {
                return false;
            }

            delta[..count].CopyTo(page[skip..]);
            delta = delta[count..];
            page = page[(skip + count)..];
        }

        return true;
    }

    // One bit per byte that differs.
    private static void Compare(ReadOnlySpan<byte> old, ReadOnlySpan<byte> now, Span<ulong> differs)
    {
        if (Vector512.IsHardwareAccelerated)
        {
            Compare512(old, now, differs);
        }
        else if (Vector256.IsHardwareAccelerated)
        {
            Compare256(old, now, differs);
        }
        else if (Vector128.IsHardwareAccelerated)
        {
            Compare128(old, now, differs);
        }
        else
        {
            CompareScalar(old, now, differs);
        }
    }

    internal static void Compare512(ReadOnlySpan<byte> old, ReadOnlySpan<byte> now, Span<ulong> differs)
    {
        ref byte left = ref MemoryMarshal.GetReference(old);
        ref byte right = ref MemoryMarshal.GetReference(now);
        for (int i = 0; i < differs.Length; i++)
        {
            // Both spans have 64 bytes for each of the words.
            nuint at = (nuint)(i * 64);
            differs[i] = ~Vector512.Equals(Vector512.LoadUnsafe(ref left, at), Vector512.LoadUnsafe(ref right, at))
                .ExtractMostSignificantBits();
        }
    }

    internal static void Compare256(ReadOnlySpan<byte> old, ReadOnlySpan<byte> now, Span<ulong> differs)
    {
        ref byte left = ref MemoryMarshal.GetReference(old);
        ref byte right = ref MemoryMarshal.GetReference(now);
        for (int i = 0; i < differs.Length; i++)
        {
            // As above.
            nuint at = (nuint)(i * 64);
            uint low = Vector256.Equals(Vector256.LoadUnsafe(ref left, at), Vector256.LoadUnsafe(ref right, at))
                .ExtractMostSignificantBits();
            uint high = Vector256
                .Equals(Vector256.LoadUnsafe(ref left, at + 32), Vector256.LoadUnsafe(ref right, at + 32))
                .ExtractMostSignificantBits();
            differs[i] = ~(low | ((ulong)high << 32));
        }
    }

    internal static void Compare128(ReadOnlySpan<byte> old, ReadOnlySpan<byte> now, Span<ulong> differs)
    {
        ref byte left = ref MemoryMarshal.GetReference(old);
        ref byte right = ref MemoryMarshal.GetReference(now);
        for (int i = 0; i < differs.Length; i++)
        {
            ulong word = 0;
            for (int part = 3; part >= 0; part--)
            {
                // As above.
                nuint at = (nuint)((i * 64) + (part * 16));
                word = (word << 16) | Vector128
                    .Equals(Vector128.LoadUnsafe(ref left, at), Vector128.LoadUnsafe(ref right, at))
                    .ExtractMostSignificantBits();
            }

            differs[i] = ~word;
        }
    }

    internal static void CompareScalar(ReadOnlySpan<byte> old, ReadOnlySpan<byte> now, Span<ulong> differs)
    {
        differs.Clear();
        for (int i = 0; i < differs.Length * 64; i++)
        {
            differs[i / 64] |= old[i] == now[i] ? 0 : 1UL << (i % 64);
        }
    }

    // The first byte from here on that differs, or that does not.
    private static int Next(ReadOnlySpan<ulong> differs, int from, bool set)
    {
        ulong flip = set ? 0 : ulong.MaxValue;
        for (int i = from / 64; i < differs.Length; i++, from = i * 64)
        {
            ulong word = (differs[i] ^ flip) >> (from % 64);
            if (word != 0)
            {
                return from + BitOperations.TrailingZeroCount(word);
            }
        }

        return Page.Size;
    }

    private static int WriteNumber(Span<byte> to, int number)
    {
        if (number < 128)
        {
            to[0] = (byte)number;
            return 1;
        }

        to[0] = (byte)(number | 0x80);
        to[1] = (byte)(number >> 7);
        return 2;
    }

    private static bool TryReadNumber(ref ReadOnlySpan<byte> from, out int number)
    {
        number = from.IsEmpty ? 0 : from[0];
        if (number < 128)
        {
            bool has = !from.IsEmpty;
            from = has ? from[1..] : from;
            return has;
        }

        if (from.Length < 2 || from[1] is 0 or > 127)
        {
            return false;
        }

        number = (number & 0x7F) | (from[1] << 7);
        from = from[2..];
        return true;
    }

    private static void Check(int length)
    {
        if (length != Page.Size)
        {
            throw new ArgumentException($"A page has {Page.Size} bytes, not {length}.");
        }
    }
}
