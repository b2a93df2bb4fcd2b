using Godwit.ChunkStore.Storage;

namespace Godwit.ChunkStore.Tests.Storage;

/// <summary>Storage in memory that can stop before any change, as a machine does that loses its power.</summary>
internal sealed class MemoryStorage : IObjectStorage
{
    private readonly Lock _lock = new();
    private readonly SortedDictionary<string, byte[]> _objects = new(StringComparer.Ordinal);

    /// <summary>Changes that are made before every further one fails.</summary>
    public int ChangesLeft { get; set; } = int.MaxValue;

    public int Changes { get; private set; }

    /// <summary>Told what is about to be removed.</summary>
    public Action<string>? Deleting { get; set; }

    /// <summary>What no listing shows.</summary>
    public Func<string, bool> Hides { get; set; } = _ => false;

    /// <summary>What is said not to be there when it is read.</summary>
    public Func<string, bool> Misses { get; set; } = _ => false;

    /// <summary>Whether listings are in the other order.</summary>
    public bool ListsBackwards { get; set; }

    public IReadOnlyDictionary<string, byte[]> Objects => _objects;

    public MemoryStorage Copy()
    {
        var copy = new MemoryStorage();
        foreach ((string name, byte[] content) in _objects)
        {
            copy._objects[name] = content.ToArray();
        }

        return copy;
    }

    public bool PutIfAbsent(string name, ReadOnlyMemory<byte> content, Func<bool> isWanted) => isWanted()
        ? PutIfAbsent(name, content) : throw new StorageException(StorageFailure.Unreachable, $"{name} is unwanted");

    public bool PutIfAbsent(string name, ReadOnlyMemory<byte> content)
    {
        lock (_lock)
        {
            if (_objects.ContainsKey(name))
            {
                return false;
            }

            Change();
            _objects[name] = content.ToArray();
            return true;
        }
    }

    public ReadOnlyMemory<byte>? TryReadAll(string name) =>
        TryGet(name) is { } content && !Misses(name) ? (ReadOnlyMemory<byte>?)content : null;

    public bool TryRead(string name, long offset, Span<byte> part)
    {
        if (TryGet(name) is not { } content || offset + part.Length > content.Length)
        {
            return false;
        }

        content.AsSpan((int)offset, part.Length).CopyTo(part);
        return true;
    }

    public IReadOnlyList<StoredObject> List(string folder) =>
        [.. (ListsBackwards ? _objects.Reverse() : _objects)
            .Where(one => one.Key.StartsWith(folder + "/", StringComparison.Ordinal) && !Hides(one.Key))
            .Select(one => new StoredObject(one.Key, one.Value.Length))];

    public void Delete(string name)
    {
        Deleting?.Invoke(name);
        if (_objects.ContainsKey(name))
        {
            Change();
            _objects.Remove(name);
        }
    }

    private byte[]? TryGet(string name)
    {
        lock (_lock)
        {
            return _objects.GetValueOrDefault(name);
        }
    }

    private void Change()
    {
        if (ChangesLeft-- <= 0)
        {
            throw new StorageException(StorageFailure.Unreachable, "the power is off");
        }

        Changes++;
    }
}
