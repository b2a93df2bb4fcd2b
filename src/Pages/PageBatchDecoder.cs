namespace Godwit.Pages;

/// <summary>What a receiver of batches keeps for one lane: buffers and the state of its Zstandard stream.</summary>
/// <remarks>
/// The next batch overwrites what <see cref="PageBatchReader.Parse"/> gave for the one before. One thread at a time.
/// </remarks>
/// <param name="version">The agreed version; batches of another one are refused.</param>
public sealed class PageBatchDecoder(int version) : IDisposable
{
    // One byte more than any block: ZstdDecoder has to see that nothing follows.
    internal readonly byte[] Block = GC.AllocateUninitializedArray<byte>(PageBatch.RawBytesMax + 1);
    internal readonly PageKind[] Kinds = new PageKind[Page.RegionPages];
    private ZstdDecoder? _zstd;

    internal int Version => version;

    // Only for a peer that uses it: the window of a stream is memory.
    internal ZstdDecoder Zstd => _zstd ??= new ZstdDecoder();

    /// <summary>Forgets the lane so far: the next batch begins a new one.</summary>
    public void Reset() => _zstd?.Reset();

    public void Dispose() => _zstd?.Dispose();
}
