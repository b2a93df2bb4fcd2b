namespace Godwit.ChunkStore.Storage;

/// <summary>Chunks that a host has beside its stores, so that they need not be fetched.</summary>
public interface IChunksAtHand
{
    /// <summary>Gives a chunk, a page or a node, if it is there and has its name.</summary>
    /// <param name="to">4096 bytes; anything may be left in them if the result is false.</param>
    /// <param name="length">Bytes of the chunk.</param>
    bool TryRead(ChunkId id, Span<byte> to, out int length);
}
