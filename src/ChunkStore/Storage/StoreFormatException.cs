namespace Godwit.ChunkStore.Storage;

/// <summary>
/// An object of a store is not what it has to be: damaged, foreign, or of a version that is not known.
/// </summary>
/// <param name="what">The object, by its name.</param>
/// <param name="why">What is wrong with it.</param>
/// <param name="isNewer">It was written by a later version.</param>
public sealed class StoreFormatException(string what, string why, bool isNewer = false)
    : Exception($"{what}: {why}.")
{
    public string What => what;

    public string Why => why;

    public bool IsNewer => isNewer;
}

/// <summary>A chunk cannot be had: it is missing, or every copy of it is damaged.</summary>
public sealed class ChunkLostException(ChunkId id, string why) : Exception($"Chunk {id} cannot be read: {why}.")
{
    public ChunkId Id => id;
}
