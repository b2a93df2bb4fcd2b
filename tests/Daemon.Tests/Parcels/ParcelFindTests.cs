using Godwit.Api.V1;
using Godwit.Daemon.Tests.Guests;
using Godwit.Daemon.Tests.Moves;
using static Godwit.Daemon.Tests.Parcels.ParcelTests;

namespace Godwit.Daemon.Tests.Parcels;

/// <summary>The parcel that is meant is found, whatever else lies in the store.</summary>
public sealed class ParcelFindTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task A_parcel_that_cannot_be_read_is_in_nobody_elses_way()
    {
        await using var pair = await StartAsync();
        var parcel = await SuspendAsync(pair.A, pair);
        var parcels = Path.Combine(StorePath(pair), "parcels");
        await PutAsync(Path.Combine(parcels, Guid.NewGuid().ToString(), "aa-strange"));
        await PutAsync(Path.Combine(parcels, pair.Guest.Spec.Uuid, ".nfs0001"));
        await PutAsync(Path.Combine(parcels, pair.Guest.Spec.Uuid, "00-older"));
        await ResumeAsync(pair.B, pair);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        Assert.Equal(2, (await pair.B.Control.ListParcelsAsync(
            new ListParcelsRequest(), cancellationToken: Token)).Problems.Count);

        // One that may be the guest's newest is: what is older would be taken for it.
        var newer = await SuspendAsync(pair.B, pair);
        await PutAsync(Path.Combine(parcels, pair.Guest.Spec.Uuid, "zz-newer"));
        await Refusals.RefusedAsync("parcel-refused", async () => await pair.A.Control.ResumeGuestAsync(
            new ResumeGuestRequest
            {
                Reference = pair.Program.Name, Mode = ResumeMode.Fork, NewName = "twin",
            }, cancellationToken: Token));
        var removed = await pair.A.Control.RemoveParcelAsync(
            new ParcelRequest { Reference = "zz-newer" }, cancellationToken: Token);
        Assert.Equal(("zz-newer", StoreName), (removed.Id, removed.Store));
        await ResumeAsync(pair.A, pair);
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        Assert.NotEqual(parcel.Id, newer.Id);
    }

    [Fact]
    public async Task A_name_means_the_guest_that_the_host_knows_by_it()
    {
        await using var pair = await StartAsync();
        var old = await SuspendAsync(pair.A, pair);
        await pair.A.Control.RemoveGuestAsync(
            new GuestRequest { Name = pair.Program.Name }, cancellationToken: Token);
        using var program = new CountingGuest(pair.Program.Name);
        var guest = await program.BootAsync(pair.A);
        await SuspendAsync(pair.A, pair);
        await Refusals.RefusedAsync("guest-ambiguous", () => ResumeAsync(pair.B, pair));
        var resumed = await ResumeAsync(pair.A, pair);
        Assert.Equal(guest.Spec.Uuid, resumed.Guest.Spec.Uuid);
        await ResumeAsync(pair.B, pair, old.Id);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
    }

    private static Task PutAsync(string path)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        return File.WriteAllTextAsync(path, "nothing that anybody has signed", Token);
    }
}
