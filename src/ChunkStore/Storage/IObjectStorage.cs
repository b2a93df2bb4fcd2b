namespace Godwit.ChunkStore.Storage;

/// <summary>An object as a listing has it.</summary>
/// <param name="Name">Whole name, folders included.</param>
public readonly record struct StoredObject(string Name, long Bytes);

/// <summary>Where a store's objects lie: a folder, a mounted file system, an object store.</summary>
/// <remarks>
/// Objects are never changed once they are there. Any number of threads and hosts may call at the same time, and a
/// read or listing that begins after a put or delete has returned sees it. Names are lower-case letters, digits,
/// hyphens and dots, with <c>/</c> between folders. Whatever fails is a <see cref="StorageException"/>.
/// </remarks>
public interface IObjectStorage
{
    /// <summary>Stores an object whole, if there is none of this name; durable when it returns.</summary>
    /// <returns>False if there is one already, which stays as it is, and is durable too.</returns>
    bool PutIfAbsent(string name, ReadOnlyMemory<byte> content);

    /// <summary>Reads a whole object; null if there is none.</summary>
    ReadOnlyMemory<byte>? TryReadAll(string name);

    /// <summary>Reads a part of an object.</summary>
    /// <returns>False if there is no such object, or if it ends before the part does.</returns>
    bool TryRead(string name, long offset, Span<byte> part);

    /// <summary>Everything under a folder, in no particular order.</summary>
    /// <param name="folder">Without a slash at its end.</param>
    IReadOnlyList<StoredObject> List(string folder);

    /// <summary>Removes an object; does nothing if there is none.</summary>
    void Delete(string name);
}

/// <summary>Why storage did not do what it was asked.</summary>
public enum StorageFailure
{
    /// <summary>It does not answer, or is not there any more.</summary>
    Unreachable,
    /// <summary>It has no room, or the store's quota has none.</summary>
    Full,
    /// <summary>It refuses this host.</summary>
    Denied,
    /// <summary>It cannot do what a store needs.</summary>
    Unsuited,
    /// <summary>It is not what it was: what was relied on may be gone.</summary>
    Changed,
}

/// <summary>Storage has failed. What was put before is safe; what was being put may or may not be there.</summary>
public sealed class StorageException(StorageFailure failure, string message, Exception? inner = null)
    : IOException(message, inner)
{
    public StorageFailure Failure => failure;
}
