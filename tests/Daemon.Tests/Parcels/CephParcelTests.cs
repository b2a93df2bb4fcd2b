using Godwit.Api.V1;
using Godwit.Daemon.Tests.Guests;
using Godwit.Daemon.Tests.Moves;
using Godwit.Tests.Ceph;
using static Godwit.Daemon.Tests.Parcels.ParcelTests;

namespace Godwit.Daemon.Tests.Parcels;

/// <summary>A guest that counts sleeps in Ceph: behind its object gateway, and on its file system.</summary>
[Collection(nameof(CephCluster))]
public sealed class CephParcelTests(CephCluster ceph)
{
    // Ceph's daemons share two processors with everything else here: one that takes seconds for a word is not silent.
    private const int SilenceSeconds = 10;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task A_guest_sleeps_in_a_bucket_and_goes_on_elsewhere()
    {
        var location = $"s3://{await ceph.MakeBucketAsync()}/godwit";
        // Host b finds its keys where AWS's tools do.
        await using var pair = await MovePair.StartAsync(
            prepareB: _ => $"export AWS_SHARED_CREDENTIALS_FILE='{ceph.CredentialsFile}'");
        var spec = new StoreSpec { Name = StoreName, Location = location, Endpoint = ceph.Endpoint };
        var there = await pair.B.Control.CreateStoreAsync(spec, cancellationToken: Token);
        Assert.True(there.IsNew);
        spec.CredentialsFile = ceph.CredentialsFile;
        var here = await pair.A.Control.CreateStoreAsync(spec, cancellationToken: Token);
        Assert.Equal((false, there.Id), (here.IsNew, here.Id));

        await SuspendAsync(pair.A, pair);
        await ResumeAsync(pair.B, pair);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        await Refusals.RefusedAsync("parcel-stale", () => ResumeAsync(pair.A, pair));
        await SuspendAsync(pair.B, pair);
        await pair.A.Control.ResumeGuestAsync(
            new ResumeGuestRequest { Reference = pair.Program.Name, Lazy = true }, cancellationToken: Token);
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        await Wait.UntilAsync(
            async () => await pair.GuestAtAsync(pair.A) is { MigrationId: "" }, "all of its memory is there");
        await pair.B.Control.CollectStoreAsync(new StoreRequest { Name = StoreName }, cancellationToken: Token);
        var sound = await pair.B.Control.VerifyStoreAsync(
            new VerifyStoreRequest { Name = StoreName, Contents = true }, cancellationToken: Token);
        Assert.Empty(sound.Problems);
        Assert.Equal(2u, sound.Parcels);
        IsUnbroken(pair);
    }

    [Fact]
    public async Task A_bucket_without_keys_or_with_something_else_in_it_becomes_no_store()
    {
        var bucket = await ceph.MakeBucketAsync();
        await using var host = await TestHost.StartAsync("a");
        var spec = new StoreSpec
        {
            Name = StoreName, Location = $"s3://{bucket}", Endpoint = ceph.Endpoint,
            CredentialsFile = Path.Combine(host.DirectoryPath, "none"),
        };
        var said = await Refusals.RefusedAsync(
            "store-denied", async () => await host.Control.CreateStoreAsync(spec, cancellationToken: Token));
        Assert.Contains(spec.CredentialsFile, said, StringComparison.Ordinal);
        spec.CredentialsFile = ceph.CredentialsFile;
        using (var other = new Godwit.Host.Storage.S3Storage(
            Godwit.Host.Storage.S3Location.TryParse(spec.Location, spec.Endpoint, "", spec.CredentialsFile)!))
        {
            other.PutIfAbsent("letters/1", new byte[1]);
        }

        said = await Refusals.RefusedAsync(
            "store-invalid", async () => await host.Control.CreateStoreAsync(spec, cancellationToken: Token));
        Assert.Contains("letters/1", said, StringComparison.Ordinal);
    }

    // Goal: a store that hangs is in nobody's way but of those who want it. Method: the client of a mounted file system
    // is stopped, and a daemon begins that has never opened the store.
    [Fact]
    public async Task A_store_that_hangs_holds_up_no_other_one()
    {
        var (mount, client) = ceph.Mount();
        await using var pair = await MovePair.StartAsync(
            a: settings => settings with { StoreSilenceSeconds = SilenceSeconds });
        await pair.A.Control.CreateStoreAsync(
            new StoreSpec { Name = "far", Location = Path.Combine(mount, "store") }, cancellationToken: Token);
        await pair.A.Control.CreateStoreAsync(
            new StoreSpec { Name = StoreName, Location = StorePath(pair) }, cancellationToken: Token);
        await pair.A.EndAsync(Processes.Killed);
        Processes.Signal(client.Id, Processes.Stopped);
        try
        {
            await pair.RestartAAsync();
            var suspend = pair.A.Control.SuspendGuestAsync(
                new SuspendGuestRequest { Guest = pair.Program.Name, Store = StoreName }, cancellationToken: Token);
            var stats = pair.A.Control.ListStoresAsync(new ListStoresRequest(), cancellationToken: Token);
            var history = pair.A.Control.ListParcelsAsync(new ListParcelsRequest(), cancellationToken: Token);
            await suspend;
            var stores = (await stats).Stores.ToDictionary(store => store.Spec.Name, store => store.Detail);
            Assert.Equal("", stores[StoreName]);
            Assert.Contains($"said nothing for {SilenceSeconds} s", stores["far"], StringComparison.Ordinal);
            Assert.Contains("far", Assert.Single((await history).Problems), StringComparison.Ordinal);
            await ResumeAsync(pair.A, pair);
            await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
            await Refusals.RefusedAsync("store-unreachable", async () => await pair.A.Control.SuspendGuestAsync(
                new SuspendGuestRequest { Guest = pair.Program.Name, Store = "far" }, cancellationToken: Token));
            await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        }
        finally
        {
            Processes.Signal(client.Id, Processes.Continued);
        }

        await Wait.UntilAsync(
            async () => (await pair.A.Control.ListStoresAsync(new ListStoresRequest(), cancellationToken: Token))
                .Stores.All(store => store.Detail.Length == 0),
            "the store that hung is back");
        await pair.A.Control.SuspendGuestAsync(
            new SuspendGuestRequest { Guest = pair.Program.Name, Store = "far" }, cancellationToken: Token);
        await ResumeAsync(pair.A, pair);
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        IsUnbroken(pair);
    }

    // Goal: a put that hangs leaves the guest running. Method: the client of the file system is stopped as soon as
    // something of the guest is being written; its disk has noise for several packs, so that this is long before it
    // sleeps.
    [Fact]
    public async Task A_put_that_hangs_does_not_hold_the_guest()
    {
        var (mount, client) = ceph.Mount();
        var store = Path.Combine(mount, "store");
        await using var pair = await MovePair.StartAsync(
            a: settings => settings with { StoreSilenceSeconds = SilenceSeconds },
            spec: spec => AppendNoise(spec.Disks[0].Path));
        await pair.A.Control.CreateStoreAsync(
            new StoreSpec { Name = StoreName, Location = store }, cancellationToken: Token);
        var suspend = pair.A.Control.SuspendGuestAsync(
            new SuspendGuestRequest { Guest = pair.Program.Name, Store = StoreName }, cancellationToken: Token)
            .ResponseAsync;
        await Wait.UntilAsync(
            () => Directory.Exists(Path.Combine(store, "packs"))
                || Directory.EnumerateFiles(Path.Combine(store, "unfinished")).Any(IsBegun),
            "a pack is being written");
        Processes.Signal(client.Id, Processes.Stopped);
        try
        {
            var said = await Refusals.RefusedAsync("store-silent", () => suspend);
            Assert.Contains("runs on a", said, StringComparison.Ordinal);
            await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        }
        finally
        {
            Processes.Signal(client.Id, Processes.Continued);
        }

        await SuspendAsync(pair.A, pair);
        await ResumeAsync(pair.A, pair);
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        IsUnbroken(pair);
    }

    private static void AppendNoise(string disk)
    {
        using var file = new FileStream(disk, FileMode.Append);
        var noise = new byte[64 << 20];
        Random.Shared.NextBytes(noise);
        file.Write(noise);
    }

    // Also if it has just been put in place.
    private static bool IsBegun(string file)
    {
        try
        {
            return new FileInfo(file).Length > 0;
        }
        catch (FileNotFoundException)
        {
            return true;
        }
    }
}
