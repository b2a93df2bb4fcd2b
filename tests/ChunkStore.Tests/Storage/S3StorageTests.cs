using System.Net;
using System.Net.Sockets;
using Godwit.ChunkStore.Storage;
using Godwit.Host.Storage;
using Godwit.Tests.Ceph;

namespace Godwit.ChunkStore.Tests.Storage;

/// <summary>Against Ceph's object gateway.</summary>
[Collection(nameof(CephCluster))]
public sealed class S3StorageTests(CephCluster ceph) : StorageConformance, IAsyncLifetime
{
    private S3Storage _here = null!;
    private S3Storage _there = null!;
    private S3Location _location = null!;

    private protected override IObjectStorage Here => _here;

    private protected override IObjectStorage There => _there;

    public async ValueTask InitializeAsync()
    {
        string bucket = await ceph.MakeBucketAsync();
        _location = S3Location.TryParse($"s3://{bucket}/a/b", ceph.Endpoint, "", ceph.CredentialsFile)!;
        (_here, _there) = (new S3Storage(_location), new S3Storage(_location));
        _here.Prepare();
    }

    public ValueTask DisposeAsync()
    {
        _here.Dispose();
        _there.Dispose();
        return ValueTask.CompletedTask;
    }

    [Fact]
    public void A_place_that_was_looked_at_is_still_an_empty_one()
    {
        _there.Prepare();
        Assert.Null(_here.FindStranger());
        using var whole = new S3Storage(_location with { Prefix = "" });
        Assert.Equal("a/b/probe", whole.FindStranger());
        Assert.True(_here.PutIfAbsent("letter", new byte[1]));
        Assert.Equal("letter", _there.FindStranger());
    }

    [Fact]
    public void Wrong_keys_are_refused_and_said()
    {
        string file = Path.Combine(ceph.Folder, "wrong-credentials");
        CephCluster.WriteCredentials(file, "AKIAWRONG", "wrong");
        using var storage = new S3Storage(_location with { CredentialsFile = file });
        var denied = Assert.Throws<StorageException>(() => storage.TryReadAll("x"));
        Assert.Equal(StorageFailure.Denied, denied.Failure);
        Assert.Contains("InvalidAccessKeyId", denied.Message, StringComparison.Ordinal);

        // They can be replaced under a running host.
        File.Copy(ceph.CredentialsFile, file, overwrite: true);
        File.SetLastWriteTimeUtc(file, DateTime.UtcNow.AddSeconds(5));
        Assert.Null(storage.TryReadAll("x"));
        File.SetUnixFileMode(file, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.OtherRead);
        File.SetLastWriteTimeUtc(file, DateTime.UtcNow.AddSeconds(10));
        denied = Assert.Throws<StorageException>(() => storage.TryReadAll("x"));
        Assert.Contains("mode 0604", denied.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_bucket_that_is_not_there_is_not_an_empty_one()
    {
        using var storage = new S3Storage(_location with { Bucket = "no-such-bucket" });
        foreach (Action call in (Action[])[
            () => storage.TryReadAll("x"), () => storage.List("packs"), () => storage.PutIfAbsent("x", default),
            () => storage.TryRead("x", 0, new byte[1]), () => storage.Prepare()])
        {
            var failed = Assert.Throws<StorageException>(call);
            Assert.Equal(StorageFailure.Unreachable, failed.Failure);
            Assert.Contains("no bucket no-such-bucket", failed.Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void A_server_that_is_not_there_is_said_to_be()
    {
        using var storage = new S3Storage(_location with { Endpoint = $"http://127.0.0.1:{CephCluster.FreePort()}" });
        var failed = Assert.Throws<StorageException>(() => storage.TryReadAll("x"));
        Assert.Equal(StorageFailure.Unreachable, failed.Failure);
        Assert.Contains("refused", failed.Message, StringComparison.Ordinal);
    }

    // Goal: no call waits for ever.
    [Fact]
    public void A_server_that_says_nothing_is_given_up()
    {
        using var silent = new TcpListener(IPAddress.Loopback, 0);
        silent.Start();
        using var storage = new S3Storage(
            _location with { Endpoint = $"http://{silent.LocalEndpoint}" }, TimeSpan.FromSeconds(1));
        foreach (Action call in (Action[])[
            () => storage.TryReadAll("x"), () => storage.List("packs"), () => storage.PutIfAbsent("x", new byte[9]),
            () => storage.TryRead("x", 0, new byte[1]), () => storage.Delete("x")])
        {
            var failed = Assert.Throws<StorageException>(call);
            Assert.Equal(StorageFailure.Unreachable, failed.Failure);
            Assert.Contains("does not answer", failed.Message, StringComparison.Ordinal);
        }
    }

    // Goal: no store is made where a second put would replace a first. Method: before each put whatever is there is
    // removed, which comes to the same.
    [Fact]
    public void A_server_that_ignores_the_condition_is_refused()
    {
        using var gateway = new FaultyGateway(ceph.Endpoint);
        string start = $"/{_location.Bucket}/{_location.Prefix}";
        gateway.BeforePut = path => _here.Delete(path[start.Length..]);
        using var storage = new S3Storage(_location with { Endpoint = gateway.Endpoint });
        var refused = Assert.Throws<StorageException>(storage.Prepare);
        Assert.Equal(StorageFailure.Unsuited, refused.Failure);
        Assert.Contains("If-None-Match", refused.Message, StringComparison.Ordinal);
    }

    // Goal: a put whose answer is lost on the way is told to have succeeded, and not that of somebody else.
    [Fact]
    public void A_put_whose_answer_was_lost_knows_its_object()
    {
        using var gateway = new FaultyGateway(ceph.Endpoint);
        using var storage = new S3Storage(_location with { Endpoint = gateway.Endpoint });
        gateway.AnswersToLose = 1;
        Assert.True(storage.PutIfAbsent("claims/g/1", new byte[] { 1 }));
        Assert.Equal(0, gateway.AnswersToLose);
        Assert.True(_there.PutIfAbsent("claims/g/2", new byte[] { 2 }));
        gateway.AnswersToLose = 1;
        Assert.False(storage.PutIfAbsent("claims/g/2", new byte[] { 2 }));
        Assert.Equal(0, gateway.AnswersToLose);
        Assert.Equal([1], _there.TryReadAll("claims/g/1")!.Value.ToArray());
    }
}
