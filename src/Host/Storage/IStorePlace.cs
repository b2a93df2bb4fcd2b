using Godwit.ChunkStore.Storage;

namespace Godwit.Host.Storage;

/// <summary>Storage of which a host can be told by an operator: a directory, or a part of a bucket.</summary>
public interface IStorePlace : IObjectStorage
{
    /// <summary>Makes ready what a store needs, and sees that the place can do what a store relies on.</summary>
    /// <exception cref="StorageException">It cannot.</exception>
    void Prepare();

    /// <summary>Something that lies there; null if nothing does that would be in a store's way.</summary>
    /// <exception cref="StorageException">It cannot be asked.</exception>
    string? FindStranger();
}
