using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Godwit.Pages;

/// <summary>Finds out whether memory is all zero, at the speed of memory.</summary>
public static class ZeroTest
{
    /// <summary>Whether every byte is zero; true for an empty span.</summary>
    public static bool IsZero(ReadOnlySpan<byte> bytes)
    {
        // Most pages that are not zero show it in their first bytes: leave before any vector is set up.
        if (bytes.Length >= 8 && MemoryMarshal.Read<ulong>(bytes) != 0)
        {
            return false;
        }

        if (Vector512.IsHardwareAccelerated && bytes.Length >= 4 * Vector512<byte>.Count)
        {
            return IsZero512(bytes);
        }

        if (Vector256.IsHardwareAccelerated && bytes.Length >= 4 * Vector256<byte>.Count)
        {
            return IsZero256(bytes);
        }

        if (Vector128.IsHardwareAccelerated && bytes.Length >= 4 * Vector128<byte>.Count)
        {
            return IsZero128(bytes);
        }

        return IsZeroScalar(bytes);
    }

    /// <summary>The twin the vector paths are tested against.</summary>
    internal static bool IsZeroScalar(ReadOnlySpan<byte> bytes)
    {
        while (bytes.Length >= 8)
        {
            if (MemoryMarshal.Read<ulong>(bytes) != 0)
            {
                return false;
            }

            bytes = bytes[8..];
        }

        foreach (byte value in bytes)
        {
            if (value != 0)
            {
                return false;
            }
        }

        return true;
    }

    // The loops take four vectors a step: one branch per step keeps the loads, not the tests, the bottleneck. The last
    // step is anchored at the end of the span and may overlap the one before; callers guarantee at least one step.
    // Each LoadUnsafe stays inside the span because offset is at most length minus four vectors.
    internal static bool IsZero512(ReadOnlySpan<byte> bytes)
    {
        ref byte start = ref MemoryMarshal.GetReference(bytes);
        nuint last = (nuint)(bytes.Length - (4 * Vector512<byte>.Count));
        for (nuint offset = 0; ; offset = Math.Min(offset + (nuint)(4 * Vector512<byte>.Count), last))
        {
            ref byte at = ref Unsafe.AddByteOffset(ref start, offset);
            Vector512<byte> any = Vector512.LoadUnsafe(ref at) | Vector512.LoadUnsafe(ref at, 64)
                | Vector512.LoadUnsafe(ref at, 128) | Vector512.LoadUnsafe(ref at, 192);
            if (any != Vector512<byte>.Zero)
            {
                return false;
            }

            if (offset == last)
            {
                return true;
            }
        }
    }

    internal static bool IsZero256(ReadOnlySpan<byte> bytes)
    {
        ref byte start = ref MemoryMarshal.GetReference(bytes);
        nuint last = (nuint)(bytes.Length - (4 * Vector256<byte>.Count));
        for (nuint offset = 0; ; offset = Math.Min(offset + (nuint)(4 * Vector256<byte>.Count), last))
        {
            ref byte at = ref Unsafe.AddByteOffset(ref start, offset);
            Vector256<byte> any = Vector256.LoadUnsafe(ref at) | Vector256.LoadUnsafe(ref at, 32)
                | Vector256.LoadUnsafe(ref at, 64) | Vector256.LoadUnsafe(ref at, 96);
            if (any != Vector256<byte>.Zero)
            {
                return false;
            }

            if (offset == last)
            {
                return true;
            }
        }
    }

    internal static bool IsZero128(ReadOnlySpan<byte> bytes)
    {
        ref byte start = ref MemoryMarshal.GetReference(bytes);
        nuint last = (nuint)(bytes.Length - (4 * Vector128<byte>.Count));
        for (nuint offset = 0; ; offset = Math.Min(offset + (nuint)(4 * Vector128<byte>.Count), last))
        {
            ref byte at = ref Unsafe.AddByteOffset(ref start, offset);
            Vector128<byte> any = Vector128.LoadUnsafe(ref at) | Vector128.LoadUnsafe(ref at, 16)
                | Vector128.LoadUnsafe(ref at, 32) | Vector128.LoadUnsafe(ref at, 48);
            if (any != Vector128<byte>.Zero)
            {
                return false;
            }

            if (offset == last)
            {
                return true;
            }
        }
    }
}
