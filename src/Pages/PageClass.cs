using System.Numerics;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Godwit.Pages;

/// <summary>What a page looks like, told in one pass over it.</summary>
public enum PageClass
{
    /// <summary>All zero.</summary>
    Zero,

    /// <summary>The same 8 bytes over and over.</summary>
    Word,

    /// <summary>Words of 8 bytes whose upper halves repeat: pointers, small integers, sparse structures.</summary>
    WordRegular,

    /// <summary>Bytes of a narrow range, or unevenly spread: text, code.</summary>
    ByteRegular,

    /// <summary>Bytes that no coder here makes smaller, as far as can be told: compressed or encrypted.</summary>
    Incompressible,
}

/// <summary>Tells <see cref="PageClass"/>; every vector path gives what the scalar one gives.</summary>
/// <remarks>
/// The pass counts two things: words whose upper half equals that of the word before, and, for each of the eight bits
/// of a byte, how many bytes of every eighth line of 64 have it set. Noise has every bit in half of its bytes and
/// hardly an upper half twice. What looks like noise and is none, a random pattern repeated for one, travels raw.
/// </remarks>
public static class PageClassifier
{
    private const int LineBytes = 64;
    private const int Lines = Page.Size / LineBytes;
    private const int SampleEvery = 8;
    private const int SampleBytes = Page.Size / SampleEvery;
    // 512 bytes of noise have a bit set in 256 of them, give or take 11.3; five times that is no accident.
    private const int BitSpread = 56;
    private const int RepeatsMin = Page.Size / 8 / 4;
    private const int NoiseRepeatsMax = 8;

    /// <summary>Classifies one page.</summary>
    /// <param name="page">4096 bytes.</param>
    public static PageClass Classify(ReadOnlySpan<byte> page)
    {
        if (page.Length != Page.Size)
        {
            throw new ArgumentException($"A page has {Page.Size} bytes, not {page.Length}.", nameof(page));
        }

        Span<int> bits = stackalloc int[8];
        bits.Clear();
        ulong first = MemoryMarshal.Read<ulong>(page);
        bool oneWord = Vector512.IsHardwareAccelerated ? Look512(page, first, bits, out int repeats)
            : Vector256.IsHardwareAccelerated ? Look256(page, first, bits, out repeats)
            : Vector128.IsHardwareAccelerated ? Look128(page, first, bits, out repeats)
            : LookScalar(page, first, bits, out repeats);
        return Judge(oneWord, first, repeats, bits);
    }

    private static PageClass Judge(bool oneWord, ulong first, int repeats, ReadOnlySpan<int> bits)
    {
        if (oneWord)
        {
            return first == 0 ? PageClass.Zero : PageClass.Word;
        }

        if (repeats >= RepeatsMin)
        {
            return PageClass.WordRegular;
        }

        bool even = true;
        foreach (int count in bits)
        {
            even &= Math.Abs(count - (SampleBytes / 2)) <= BitSpread;
        }

        return even && repeats <= NoiseRepeatsMax ? PageClass.Incompressible : PageClass.ByteRegular;
    }

    // Each gives whether every word is the first one, counts words whose upper half is that of the word before in the
    // same line, and the set bits of sampled bytes. Every load lies inside the page: it has 64 lines of 64 bytes, and
    // what is loaded from 8 bytes before a vector begins in the same line.
    internal static bool Look512(ReadOnlySpan<byte> page, ulong first, Span<int> bits, out int repeats)
    {
        ref byte start = ref MemoryMarshal.GetReference(page);
        Vector512<ulong> word = Vector512.Create(first);
        Vector512<ulong> differs = Vector512<ulong>.Zero;
        Vector512<ulong> same = Vector512<ulong>.Zero;
        for (int line = 0; line < Lines; line++)
        {
            nuint at = (nuint)(line * LineBytes);
            Vector512<ulong> words = Vector512.LoadUnsafe(ref start, at).AsUInt64();
            Vector512<ulong> before = Vector512.Shuffle(words, Vector512.Create(0UL, 0, 1, 2, 3, 4, 5, 6));
            differs |= words ^ word;
            same += Halves512(words, before) & Vector512.Create(0UL, 1, 1, 1, 1, 1, 1, 1);

            for (int part = 0; part < LineBytes / 64 && line % SampleEvery == 0; part++)
            {
                Vector512<byte> bytes = Vector512.LoadUnsafe(ref start, at + (nuint)(part * 64));
                for (int bit = 7; bit >= 0; bit--)
                {
                    bits[bit] += BitOperations.PopCount(bytes.ExtractMostSignificantBits());
                    bytes += bytes;
                }
            }
        }

        repeats = (int)Vector512.Sum(same);
        return differs == Vector512<ulong>.Zero;
    }

    // All ones for each word whose upper half is that of the one before.
    private static Vector512<ulong> Halves512(Vector512<ulong> words, Vector512<ulong> before) =>
        Vector512.Equals((words ^ before) >>> 32, Vector512<ulong>.Zero);

    internal static bool Look256(ReadOnlySpan<byte> page, ulong first, Span<int> bits, out int repeats)
    {
        ref byte start = ref MemoryMarshal.GetReference(page);
        Vector256<ulong> word = Vector256.Create(first);
        Vector256<ulong> differs = Vector256<ulong>.Zero;
        Vector256<ulong> same = Vector256<ulong>.Zero;
        for (int line = 0; line < Lines; line++)
        {
            nuint at = (nuint)(line * LineBytes);
            Vector256<ulong> words = Vector256.LoadUnsafe(ref start, at).AsUInt64();
            Vector256<ulong> before = Vector256.Shuffle(words, Vector256.Create(0UL, 0, 1, 2));
            differs |= words ^ word;
            same += Halves256(words, before) & Vector256.Create(0UL, 1, 1, 1);
            for (int part = 1; part < LineBytes / 32; part++)
            {
                words = Vector256.LoadUnsafe(ref start, at + (nuint)(part * 32)).AsUInt64();
                before = Vector256.LoadUnsafe(ref start, at + (nuint)((part * 32) - 8)).AsUInt64();
                differs |= words ^ word;
                same += Halves256(words, before) & Vector256<ulong>.One;
            }

            for (int part = 0; part < LineBytes / 32 && line % SampleEvery == 0; part++)
            {
                Vector256<byte> bytes = Vector256.LoadUnsafe(ref start, at + (nuint)(part * 32));
                for (int bit = 7; bit >= 0; bit--)
                {
                    bits[bit] += BitOperations.PopCount(bytes.ExtractMostSignificantBits());
                    bytes += bytes;
                }
            }
        }

        repeats = (int)Vector256.Sum(same);
        return differs == Vector256<ulong>.Zero;
    }

    // All ones for each word whose upper half is that of the one before.
    private static Vector256<ulong> Halves256(Vector256<ulong> words, Vector256<ulong> before) =>
        Vector256.Equals((words ^ before) >>> 32, Vector256<ulong>.Zero);

    internal static bool Look128(ReadOnlySpan<byte> page, ulong first, Span<int> bits, out int repeats)
    {
        ref byte start = ref MemoryMarshal.GetReference(page);
        Vector128<ulong> word = Vector128.Create(first);
        Vector128<ulong> differs = Vector128<ulong>.Zero;
        Vector128<ulong> same = Vector128<ulong>.Zero;
        for (int line = 0; line < Lines; line++)
        {
            nuint at = (nuint)(line * LineBytes);
            Vector128<ulong> words = Vector128.LoadUnsafe(ref start, at).AsUInt64();
            Vector128<ulong> before = Vector128.Shuffle(words, Vector128.Create(0UL, 0));
            differs |= words ^ word;
            same += Halves128(words, before) & Vector128.Create(0UL, 1);
            for (int part = 1; part < LineBytes / 16; part++)
            {
                words = Vector128.LoadUnsafe(ref start, at + (nuint)(part * 16)).AsUInt64();
                before = Vector128.LoadUnsafe(ref start, at + (nuint)((part * 16) - 8)).AsUInt64();
                differs |= words ^ word;
                same += Halves128(words, before) & Vector128<ulong>.One;
            }

            for (int part = 0; part < LineBytes / 16 && line % SampleEvery == 0; part++)
            {
                Vector128<byte> bytes = Vector128.LoadUnsafe(ref start, at + (nuint)(part * 16));
                for (int bit = 7; bit >= 0; bit--)
                {
                    bits[bit] += BitOperations.PopCount(bytes.ExtractMostSignificantBits());
                    bytes += bytes;
                }
            }
        }

        repeats = (int)Vector128.Sum(same);
        return differs == Vector128<ulong>.Zero;
    }

    // All ones for each word whose upper half is that of the one before.
    private static Vector128<ulong> Halves128(Vector128<ulong> words, Vector128<ulong> before) =>
        Vector128.Equals((words ^ before) >>> 32, Vector128<ulong>.Zero);

    internal static bool LookScalar(ReadOnlySpan<byte> page, ulong first, Span<int> bits, out int repeats)
    {
        ReadOnlySpan<ulong> words = MemoryMarshal.Cast<byte, ulong>(page);
        ulong differs = 0;
        repeats = 0;
        for (int i = 0; i < words.Length; i++)
        {
            differs |= words[i] ^ first;
            repeats += i % 8 != 0 && (words[i] ^ words[i - 1]) >> 32 == 0 ? 1 : 0;
            if (i / 8 % SampleEvery == 0)
            {
                for (int bit = 0; bit < 8; bit++)
                {
                    bits[bit] += BitOperations.PopCount((words[i] >> bit) & 0x0101_0101_0101_0101);
                }
            }
        }

        return differs == 0;
    }
}
