using Godwit.Api.V1;
using Godwit.Daemon.Tests.Guests;
using Godwit.Daemon.Tests.Moves;
using static Godwit.Daemon.Tests.Parcels.FillingTests;
using static Godwit.Daemon.Tests.Parcels.ParcelTests;

namespace Godwit.Daemon.Tests.Parcels;

/// <summary>Guests of a host that is gone, and parcels that a guest needs.</summary>
public sealed class TakeOverTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    // Goal: the operator's word brings a guest back, and the old owner never runs it again.
    [Fact]
    public async Task A_guest_of_a_host_that_is_gone_is_taken_over_and_stays_so_when_that_host_comes_back()
    {
        // Its disk is one that both hosts may have open: on hosts of their own nothing else keeps the two apart.
        await using var pair = await StartAsync(spec => spec.Disks[0].ReadOnly = true);
        await SuspendAsync(pair.A, pair);
        var there = await ResumeAsync(pair.B, pair);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        await Refusals.RefusedAsync("parcel-stale", () => ResumeAsync(pair.A, pair));
        var said = await Refusals.RefusedAsync("take-over-refused", () => TakeOverAsync(pair));
        Assert.Contains("Host 'b' answers", said, StringComparison.Ordinal);

        await pair.B.EndAsync(Processes.Killed);
        var taken = await TakeOverAsync(pair);
        Assert.Equal("b", taken.TakenFrom);
        Assert.Equal(GuestState.Running, taken.Guest.State);
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);

        // It was not gone after all: its QEMU has run on.
        Assert.True(Processes.Runs(there.Guest.ProcessId));
        await pair.RestartBAsync();
        await Wait.UntilAsync(
            async () => await pair.GuestAtAsync(pair.B) is { State: GuestState.Elsewhere, Host: "a" },
            "host b has learnt that the guest is host a's");
        Assert.False(Processes.Runs(there.Guest.ProcessId));
        await Refusals.RefusedAsync("guest-state", async () => await pair.B.Control.StartGuestAsync(
            new StartGuestRequest { Name = pair.Program.Name }, cancellationToken: Token));
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        // And it comes to b again as any guest does.
        await SuspendAsync(pair.A, pair);
        await ResumeAsync(pair.B, pair);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
    }

    [Fact]
    public async Task A_guest_that_sleeps_is_nobodys_to_be_taken_from()
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        await Refusals.RefusedAsync("take-over-refused", () => TakeOverAsync(pair));
        await ResumeAsync(pair.A, pair);
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
    }

    // Goal: no host removes the only parcel in which a guest sleeps, or one that a guest still needs, by mistake.
    [Fact]
    public async Task A_parcel_that_a_guest_needs_is_not_forgotten_by_another_host()
    {
        await using var pair = await StartAsync();
        var parcel = await SuspendAsync(pair.A, pair);
        await Refusals.RefusedAsync("guest-asleep", () => ForgetAsync(pair.B, parcel));
        await Refusals.RefusedAsync("guest-asleep", () => ForgetAsync(pair.A, parcel));
        var repair = Damage(pair);
        await ResumeLazilyAsync(pair);
        await Refusals.RefusedAsync("parcel-needed", () => ForgetAsync(pair.A, parcel));
        await Refusals.RefusedAsync("parcel-needed", () => ForgetAsync(pair.B, parcel));
        repair();
        await IsFilledAsync(pair);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        Parcel? gone = null;
        await Wait.UntilAsync(
            async () =>
            {
                try
                {
                    gone = await ForgetAsync(pair.A, parcel);
                    return true;
                }
                catch (Grpc.Core.RpcException)
                {
                    return false;
                }
            },
            "the parcel is needed no more");
        Assert.Equal(parcel.Id, gone!.Id);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        IsUnbroken(pair);
    }

    [Fact]
    public async Task A_parcel_is_forgotten_by_force_or_if_another_store_has_it_too()
    {
        await using var pair = await StartAsync();
        var parcel = await SuspendAsync(pair.A, pair);
        await pair.A.Control.CreateStoreAsync(
            new StoreSpec { Name = "copy", Location = Path.Combine(pair.Folder("a"), "copy") },
            cancellationToken: Token);
        await pair.A.Control.CopyParcelsAsync(
            new CopyParcelsRequest { From = StoreName, To = "copy" }, cancellationToken: Token);
        await ForgetAsync(pair.A, parcel, "copy");
        await Refusals.RefusedAsync("guest-asleep", () => ForgetAsync(pair.A, parcel, StoreName));
        Assert.Equal(parcel.Id, (await ForgetAsync(pair.B, parcel, force: true)).Id);
        await Refusals.RefusedAsync("parcel-unknown", () => ResumeAsync(pair.B, pair));
    }

    private static async Task<ResumeGuestResponse> TakeOverAsync(MovePair pair) =>
        await pair.A.Control.ResumeGuestAsync(
            new ResumeGuestRequest { Reference = pair.Program.Name, TakeOver = true }, cancellationToken: Token);

    private static async Task<Parcel> ForgetAsync(
        DaemonProcess host, Parcel parcel, string store = "", bool force = false) =>
        await host.Control.RemoveParcelAsync(
            new ParcelRequest { Reference = parcel.Id, Store = store, Force = force }, cancellationToken: Token);
}
