namespace Godwit.ChunkStore.Packs;

/// <summary>How a segment is coded.</summary>
public enum SegmentCoding : byte
{
    /// <summary>As it is: coding gains nothing.</summary>
    None = 0,
    Lz4 = 1,
    Zstd = 2,
}

/// <summary>The coders that a host has.</summary>
/// <remarks>One thread at a time.</remarks>
public interface ISegmentCoder : IDisposable
{
    /// <summary>Codes.</summary>
    /// <param name="coding">Never <see cref="SegmentCoding.None"/>.</param>
    /// <param name="plain">What to code; it does not change meanwhile.</param>
    /// <param name="to">Where to; when small, the call may give up.</param>
    /// <returns>Bytes written, or 0 if the result does not fit.</returns>
    int Encode(SegmentCoding coding, ReadOnlySpan<byte> plain, Span<byte> to);

    /// <summary>Decodes bytes that may be anything.</summary>
    /// <returns>True only if they decode to exactly as many bytes as there is room for.</returns>
    bool TryDecode(SegmentCoding coding, ReadOnlySpan<byte> coded, Span<byte> plain);
}
