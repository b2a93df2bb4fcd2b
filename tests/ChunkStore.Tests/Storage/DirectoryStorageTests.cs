using Godwit.ChunkStore.Storage;
using Godwit.Host.Storage;

namespace Godwit.ChunkStore.Tests.Storage;

public sealed class DirectoryStorageTests : IDisposable
{
    private readonly DirectoryInfo _root = Directory.CreateTempSubdirectory("godwit-store-");
    private readonly DirectoryStorage _storage;

    public DirectoryStorageTests()
    {
        _storage = new DirectoryStorage(_root.FullName);
        _storage.Prepare();
        Assert.True(Store.Create(_storage, "aaaaaaaa-0000-0000-0000-000000000000", null));
    }

    public void Dispose() => _root.Delete(recursive: true);

    [Fact]
    public void An_object_is_put_once_and_read()
    {
        Assert.True(_storage.PutIfAbsent("parcels/g/p", new byte[] { 1, 2 }));
        Assert.False(_storage.PutIfAbsent("parcels/g/p", new byte[] { 3 }));
        Assert.Equal([1, 2], _storage.TryReadAll("parcels/g/p")!.Value.ToArray());
        Assert.Null(_storage.TryReadAll("parcels/g/q"));
        Assert.Null(_storage.TryReadAll("parcels/h/q"));
        Assert.Equal(new StoredObject("parcels/g/p", 2), Assert.Single(_storage.List("parcels")));
        Assert.Empty(_storage.List("packs"));
        Assert.Empty(_storage.List("unfinished"));
    }

    // Goal: "not there" is said only of what is not there. A link to itself is an error that root cannot get around.
    [Fact]
    public void What_cannot_be_read_is_not_taken_for_absent()
    {
        string path = Path.Combine(_root.FullName, "parcels");
        File.CreateSymbolicLink(path, path);
        Assert.Throws<StorageException>(() => _storage.TryReadAll("parcels"));
        Assert.Throws<StorageException>(() => _storage.List("parcels"));
    }

    [Fact]
    public void What_an_interrupted_write_left_goes_when_it_is_old()
    {
        string left = Path.Combine(_root.FullName, "unfinished", "left");
        string fresh = Path.Combine(_root.FullName, "unfinished", "fresh");
        File.WriteAllText(left, "x");
        File.WriteAllText(fresh, "x");
        File.SetLastWriteTimeUtc(left, DateTime.UtcNow.AddDays(-2));
        _storage.Prepare();
        Assert.False(File.Exists(left));
        Assert.True(File.Exists(fresh));
    }
}
