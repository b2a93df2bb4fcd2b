using Godwit.Api.V1;
using Godwit.ChunkStore.Packs;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.Daemon.Parcels;
using Godwit.Daemon.Tests.Guests;
using Godwit.Daemon.Tests.Moves;
using Godwit.Host.Parcels;
using Godwit.Host.Storage;
using Godwit.Host.Trust;
using static Godwit.Daemon.Tests.Parcels.ParcelTests;

namespace Godwit.Daemon.Tests.Parcels;

/// <summary>A resume writes to no file but the guest's own disks.</summary>
public sealed class ParcelDiskTests
{
    // By it QEMU says that it writes to an image.
    private const long WriteLockByte = 101;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task A_disk_that_is_another_guests_or_another_image_is_left_alone()
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        var spec = pair.Program.Spec();
        spec.Name = "other";
        await pair.B.Control.CreateGuestAsync(new CreateGuestRequest { Spec = spec }, cancellationToken: Token);
        var message = await Refusals.RefusedAsync("parcel-disk", () => ResumeAsync(pair.B, pair));
        Assert.Contains("'other'", message, StringComparison.Ordinal);
        await pair.B.Control.RemoveGuestAsync(new GuestRequest { Name = "other" }, cancellationToken: Token);

        // Of a guest that this host does not know.
        var disk = await File.ReadAllBytesAsync(pair.Program.Disk, Token);
        var other = disk.ToArray();
        other[^1] ^= 1;
        await File.WriteAllBytesAsync(pair.Program.Disk, other, Token);
        await Refusals.RefusedAsync("parcel-disk", () => ResumeAsync(pair.B, pair));
        Assert.Equal(other, await File.ReadAllBytesAsync(pair.Program.Disk, Token));

        // It is the guest's own where the guest slept, and that is where it is brought up to date.
        await ResumeAsync(pair.A, pair);
        Assert.Equal(disk, await File.ReadAllBytesAsync(pair.Program.Disk, Token));
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        IsUnbroken(pair);
    }

    [Fact]
    public async Task A_disk_that_a_QEMU_writes_to_is_left_alone()
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        await using (var file = new FileStream(pair.Program.Disk, FileMode.Open, FileAccess.ReadWrite,
            FileShare.ReadWrite))
        {
            file.Lock(WriteLockByte, 1);
            await Refusals.RefusedAsync("parcel-disk", () => ResumeAsync(pair.A, pair));
        }

        await ResumeAsync(pair.B, pair);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        IsUnbroken(pair);
    }

    [Fact]
    public async Task A_disk_that_is_not_there_is_made_for_root_only()
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        File.Delete(pair.Program.Disk);
        await ResumeAsync(pair.B, pair);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(pair.Program.Disk));
    }

    // Goal: a member that was broken into makes no file on the host that resumes its parcel.
    [Theory]
    [InlineData("parcel-refused", false)]
    [InlineData("parcel-disk", true)]
    public async Task A_parcel_brings_no_file_but_its_guests_images(string code, bool isItsDisk)
    {
        await using var pair = await StartAsync();
        var parcel = await SuspendAsync(pair.A, pair);
        var target = isItsDisk ? "/usr/godwit-hostile" : Path.Combine(pair.Folder("b"), "hostile");
        Forge(pair, parcel.Id, target, isItsDisk);
        await Refusals.RefusedAsync(code, () => ResumeAsync(pair.B, pair, "zz-hostile"));
        Assert.False(File.Exists(target));
        await ResumeAsync(pair.B, pair, parcel.Id);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
    }

    private static void Forge(MovePair pair, string parcel, string target, bool isItsDisk)
    {
        var pki = pair.A.Settings.PkiDirectory;
        var trust = new ParcelTrust(new ClusterTrust(pki, HostIdentity.Load(pki)!, TimeProvider.System));
        var store = Store.Open(new DirectoryStorage(StorePath(pair)), null, static () => new SegmentCoder());
        var manifest = ParcelShelf.Find(store, pair.Guest.Spec.Uuid, parcel, trust)!;
        var contract = ContractJson.Read(manifest);
        var image = manifest.Disks[0] with { Name = target };
        manifest = manifest with
        {
            Id = "zz-hostile",
            Contract = isItsDisk
                ? ContractJson.Write(contract with { Disks = [contract.Disks[0] with { Path = target }] })
                : manifest.Contract,
            Disks = isItsDisk ? [image] : [manifest.Disks[0], image],
        };
        Assert.True(ParcelShelf.Put(store, manifest, trust, Stores.Random));
    }
}
