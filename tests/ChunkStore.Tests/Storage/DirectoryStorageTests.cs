using Godwit.ChunkStore.Storage;
using Godwit.Host.Storage;

namespace Godwit.ChunkStore.Tests.Storage;

public sealed class DirectoryStorageTests : StorageConformance, IDisposable
{
    private readonly DirectoryInfo _root = Directory.CreateTempSubdirectory("godwit-store-");
    private readonly DirectoryStorage _storage;

    public DirectoryStorageTests()
    {
        _storage = new DirectoryStorage(_root.FullName);
        _storage.Prepare();
    }

    private protected override IObjectStorage Here => _storage;

    private protected override IObjectStorage There => new DirectoryStorage(_root.FullName);

    public void Dispose() => _root.Delete(recursive: true);

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
