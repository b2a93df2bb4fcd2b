using System.Diagnostics;
using Godwit.ChunkStore.Storage;
using Godwit.Host.Storage;
using Godwit.Tests.Ceph;

namespace Godwit.ChunkStore.Tests.Storage;

/// <summary>A directory of CephFS that two hosts have mounted by FUSE.</summary>
[Collection(nameof(CephCluster))]
public sealed class CephFileSystemTests : StorageConformance, IClassFixture<CephFileSystemTests.Mounts>
{
    private readonly DirectoryStorage _here;
    private readonly DirectoryStorage _there;

    public CephFileSystemTests(Mounts mounts)
    {
        string folder = Guid.NewGuid().ToString();
        _here = new DirectoryStorage(Path.Combine(mounts.Here, folder));
        _there = new DirectoryStorage(Path.Combine(mounts.There, folder));
        _here.Prepare();
    }

    private protected override IObjectStorage Here => _here;

    private protected override IObjectStorage There => _there;

    public sealed class Mounts(CephCluster ceph)
    {
        public string Here { get; } = ceph.Mount().Path;

        public string There { get; } = ceph.Mount().Path;
    }
}
