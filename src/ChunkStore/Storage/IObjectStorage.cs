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

    /// <summary>The same, unless it is not wanted any more when all is ready for it to appear.</summary>
    /// <param name="isWanted">Asked once, as late as possible; false ends it without a trace.</param>
    /// <exception cref="StorageException">It was not wanted any more; or as for the other one.</exception>
    bool PutIfAbsent(string name, ReadOnlyMemory<byte> content, Func<bool> isWanted);

    /// <summary>Reads a whole object; null if there is none.</summary>
    ReadOnlyMemory<byte>? TryReadAll(string name);

    /// <summary>Reads a part of an object.</summary>
    /// <returns>False if there is no such object, or if it ends before the part does.</returns>
    bool TryRead(string name, long offset, Span<byte> part);

    /// <summary>Opens it for one thread that reads parts again and again.</summary>
    IPartReader OpenParts() => new PartByPart(this);

    /// <summary>Everything under a folder, in no particular order.</summary>
    /// <param name="folder">Without a slash at its end.</param>
    IReadOnlyList<StoredObject> List(string folder);

    /// <summary>Removes an object; does nothing if there is none.</summary>
    void Delete(string name);
}

/// <summary>A part of an object that is wanted.</summary>
/// <param name="name">Of the object.</param>
/// <param name="into">As long as the part.</param>
public sealed class ObjectPart(string name, long offset, Memory<byte> into)
{
    public string Name => name;

    public long Offset => offset;

    public Memory<byte> Into => into;

    /// <summary>Once it was read: false if there is no such object, or if it ends before the part does.</summary>
    public bool IsThere { get; set; }
}

/// <summary>Reads parts of objects.</summary>
/// <remarks>
/// One thread at a time. It may keep objects open: of one that is deleted meanwhile parts may still come.
/// </remarks>
public interface IPartReader : IDisposable
{
    /// <summary>Reads all of the parts, in any order, several at a time where each would wait for its answer.</summary>
    /// <exception cref="StorageException">One could not be read; none is known to be there.</exception>
    void Read(IReadOnlyList<ObjectPart> parts);
}

/// <summary>One part after the other.</summary>
internal sealed class PartByPart(IObjectStorage storage) : IPartReader
{
    public void Read(IReadOnlyList<ObjectPart> parts)
    {
        foreach (ObjectPart part in parts)
        {
            part.IsThere = storage.TryRead(part.Name, part.Offset, part.Into.Span);
        }
    }

    public void Dispose()
    {
    }
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
