using Godwit.ChunkStore.Storage;

namespace Godwit.ChunkStore.Tests.Storage;

// The storage that the other tests use keeps the same promises.
public sealed class MemoryStorageTests : StorageConformance
{
    private readonly MemoryStorage _storage = new();

    private protected override IObjectStorage Here => _storage;

    private protected override IObjectStorage There => _storage;
}
