using Godwit.Pages;

namespace Godwit.Fuzz.Tests.Targets;

/// <summary>An LZ4 block: what is decoded stays inside the buffer it was given.</summary>
internal static class Lz4Target
{
    private const byte Untouched = 0xA5;
    private static readonly byte[] _room = new byte[PageBatch.RawBytesMax + 64];

    public static bool Fuzz(ReadOnlySpan<byte> bytes)
    {
        // The room ends at a different place for each input: at a page, and off every boundary.
        int length = bytes.IsEmpty ? Page.Size : 1 + (bytes[0] * 1021 % PageBatch.RawBytesMax);
        Span<byte> behind = _room.AsSpan(length, 64);
        behind.Fill(Untouched);
        int written = Lz4.Decompress(bytes, _room.AsSpan(0, length));
        Require.That(written >= -1 && written <= length, $"{written} bytes decoded into {length}");
        Require.That(!behind.ContainsAnyExcept(Untouched), "nothing is written behind the buffer");
        // The reader's bound on what a block may stand for.
        Require.That(written <= 255L * bytes.Length, $"{bytes.Length} bytes stand for {written}");
        return written >= 0;
    }
}
