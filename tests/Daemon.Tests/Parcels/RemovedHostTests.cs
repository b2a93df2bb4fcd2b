using Godwit.Api.V1;
using Godwit.Daemon.Tests.Guests;
using Godwit.Daemon.Tests.Moves;
using static Godwit.Daemon.Tests.Parcels.ParcelTests;

namespace Godwit.Daemon.Tests.Parcels;

/// <summary>Parcels of a host that was taken out of the cluster.</summary>
public sealed class RemovedHostTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    // Goal: what it signed as a member stays of use; what it signs afterwards, with the same key, is refused.
    [Fact]
    public async Task What_a_host_signed_before_it_was_removed_stays_of_use_and_nothing_later_does()
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        await ResumeAsync(pair.B, pair);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        using var other = new CountingGuest("other");
        var stranger = await other.BootAsync(pair.B);
        await SuspendAsync(pair.B, pair);

        await pair.A.Control.RemoveHostAsync(new HostRequest { Name = "b" }, cancellationToken: Token);
        var late = await pair.B.Control.SuspendGuestAsync(
            new SuspendGuestRequest { Guest = "other", Store = StoreName }, cancellationToken: Token);
        Assert.Equal(stranger.Spec.Uuid, late.GuestUuid);
        var said = await Refusals.RefusedAsync("parcel-refused", () => ResumeAsync(pair.A, pair, late.Id));
        Assert.Contains("was removed from the cluster", said, StringComparison.Ordinal);

        await ResumeAsync(pair.A, pair);
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        IsUnbroken(pair);
    }
}
