using Godwit.ChunkStore.Packs;
using Godwit.Pages;

namespace Godwit.Host.Storage;

/// <summary>This host's coders for a store's segments.</summary>
public sealed class SegmentCoder : ISegmentCoder
{
    // Twice the speed of level 3 for a hundredth of the size, on pages of guests.
    private const int ZstdLevel = 1;
    private readonly ZstdFrames _zstd = new();

    public int Encode(SegmentCoding coding, ReadOnlySpan<byte> plain, Span<byte> to) =>
        coding == SegmentCoding.Lz4 ? Lz4.Compress(plain, to) : _zstd.Compress(plain, to, ZstdLevel);

    public bool TryDecode(SegmentCoding coding, ReadOnlySpan<byte> coded, Span<byte> plain) =>
        coding == SegmentCoding.Lz4
            ? Lz4.Decompress(coded, plain) == plain.Length : _zstd.TryDecompress(coded, plain);

    public void Dispose() => _zstd.Dispose();
}
