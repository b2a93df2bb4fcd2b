using Godwit.Api.V1;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.Daemon.Parcels;
using Godwit.Daemon.Tests.Guests;
using Godwit.Daemon.Tests.Moves;
using Godwit.Host.Registry;
using Godwit.Host.Storage;
using static Godwit.Daemon.Tests.Parcels.ParcelTests;

namespace Godwit.Daemon.Tests.Parcels;

/// <summary>A guest has one owner, and is never left without a way to run again.</summary>
public sealed class ParcelOwnerTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task A_guest_that_went_on_is_taken_back_only_where_it_runs()
    {
        await using var pair = await StartAsync();
        var checkpoint = await CheckpointAsync(pair.A, pair);
        var message = await Refusals.RefusedAsync("guest-state", () => RollBackAsync(pair.B, checkpoint.Id));
        Assert.Contains("'a'", message, StringComparison.Ordinal);
        await pair.IsUntouchedAsync();
        Assert.Empty(ClaimsOf(pair));

        // Asleep it belongs to whoever is first.
        await SuspendAsync(pair.A, pair);
        await RollBackAsync(pair.B, checkpoint.Id);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        await Refusals.RefusedAsync("parcel-stale", () => ResumeAsync(pair.A, pair));
    }

    [Fact]
    public async Task Of_two_resumes_at_once_one_is_refused_and_takes_nothing_away()
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        Task<ResumeGuestResponse>[] both = [ResumeAsync(pair.B, pair), ResumeAsync(pair.B, pair)];
        await Task.WhenAll(both).ContinueWith(_ => { }, TaskScheduler.Default);
        var loser = Assert.Single(both, one => !one.IsCompletedSuccessfully);
        await Refusals.RefusedAsync("guest-state", () => loser);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        await Refusals.RefusedAsync("parcel-stale", () => ResumeAsync(pair.A, pair));
        IsUnbroken(pair);
    }

    [Fact]
    public async Task A_host_that_the_guest_has_left_does_not_resume_it_by_its_old_claim()
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        await ResumeAsync(pair.A, pair);
        await pair.MoveAsync(pair.A, "b");
        await pair.A.Control.RemoveGuestAsync(
            new GuestRequest { Name = pair.Program.Name }, cancellationToken: Token);
        await Refusals.RefusedAsync("parcel-stale", () => ResumeAsync(pair.A, pair));
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
    }

    // Goal: the word that a guest may have run is put before it does, and stays if the claim is of an earlier attempt:
    // it must not keep its own host out. Method: a claim as a daemon leaves it that was killed behind it.
    [Fact]
    public async Task A_resume_that_fails_by_an_older_claim_of_its_host_can_be_tried_again()
    {
        await using var pair = await StartAsync();
        var parcel = await SuspendAsync(pair.A, pair);
        var store = Store.Open(new DirectoryStorage(StorePath(pair)), null, static () => new SegmentCoder());
        Assert.Null(ParcelShelf.TryClaim(
            store, pair.Guest.Spec.Uuid, 2, new ParcelClaim(parcel.Id, "b", 0), Stores.Random));
        var repair = FillingTests.Damage(pair);
        var why = await Refusals.RefusedAsync("store-broken", () => ResumeAsync(pair.B, pair));
        Assert.EndsWith("only this host can wake it.", why, StringComparison.Ordinal);
        Assert.True(ParcelShelf.MayHaveRun(store, pair.Guest.Spec.Uuid, 2));
        repair();
        await Refusals.RefusedAsync("parcel-stale", () => ResumeAsync(pair.A, pair));
        await ResumeAsync(pair.B, pair);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        IsUnbroken(pair);
    }

    // Goal: a resume that fails leaves no word of itself.
    [Fact]
    public async Task A_resume_that_fails_leaves_the_guest_to_anybody()
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        var repair = FillingTests.Damage(pair);
        var why = await Refusals.RefusedAsync("store-broken", () => ResumeAsync(pair.B, pair));
        Assert.EndsWith("as before.", why, StringComparison.Ordinal);
        Assert.Empty(ClaimsOf(pair));
        Assert.Null(await pair.GuestAtAsync(pair.B));
        repair();
        await ResumeAsync(pair.A, pair);
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        IsUnbroken(pair);
    }

    [Fact]
    public async Task A_rollback_that_is_refused_leaves_the_guest_running_and_its_parcels_of_use()
    {
        var image = "";
        await using var pair = await StartAsync(spec =>
        {
            image = Path.Combine(Path.GetDirectoryName(spec.Disks[0].Path)!, "base.raw");
            File.WriteAllBytes(image, new byte[1 << 20]);
            spec.Disks.Add(new Disk { Path = image, ReadOnly = true });
        });
        var checkpoint = await CheckpointAsync(pair.A, pair);
        await ChangeAsync(image, 1);
        await Refusals.RefusedAsync("parcel-base-different", () => RollBackAsync(pair.A, checkpoint.Id));
        await pair.IsUntouchedAsync();
        Assert.Empty(ClaimsOf(pair));
        await ChangeAsync(image, 0);

        await SuspendAsync(pair.A, pair);
        await ResumeAsync(pair.B, pair);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        IsUnbroken(pair);
    }

    // Goal: a guest's name means its newest parcel, also where nobody heard that it went on elsewhere.
    [Fact]
    public async Task A_host_that_was_away_resumes_what_its_guest_has_become()
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        await pair.A.EndAsync(Processes.Killed);
        await ResumeAsync(pair.B, pair);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        await SuspendAsync(pair.B, pair);
        await pair.RestartAAsync();
        await ResumeAsync(pair.A, pair);
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        IsUnbroken(pair);
    }

    // Goal: from disks of two instants no guest is ever started.
    [Fact]
    public async Task A_rollback_that_fails_in_the_middle_leaves_the_guest_asleep_in_its_parcel()
    {
        await using var pair = await StartAsync();
        var checkpoint = await CheckpointAsync(pair.A, pair);
        var packs = Path.Combine(StorePath(pair), "packs");
        Directory.Move(packs, packs + "-gone");
        await Refusals.RefusedAsync("store-broken", () => RollBackAsync(pair.A, checkpoint.Id));
        Directory.Move(packs + "-gone", packs);
        Assert.Equal(GuestState.Suspended, (await pair.GuestAtAsync(pair.A))!.State);
        await Refusals.RefusedAsync("guest-asleep", async () => await pair.A.Control.StartGuestAsync(
            new StartGuestRequest { Name = pair.Program.Name }, cancellationToken: Token));
        await Refusals.RefusedAsync("guest-state", () => RollBackAsync(pair.B, checkpoint.Id));

        await ResumeAsync(pair.A, pair, checkpoint.Id);
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        await SuspendAsync(pair.A, pair);
        await ResumeAsync(pair.B, pair);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
    }

    [Fact]
    public async Task A_guest_that_QEMU_does_not_let_run_sleeps_and_can_be_resumed()
    {
        // By it a QEMU says that nobody else may read the image, which QEMU looks for when the guest is to run.
        const long UnsharedReadByte = 200;
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        await using (var file = new FileStream(pair.Program.Disk, FileMode.Open, FileAccess.ReadWrite,
            FileShare.ReadWrite))
        {
            file.Lock(UnsharedReadByte, 1);
            var why = await Refusals.RefusedAsync("parcel-load", () => ResumeAsync(pair.B, pair));
            Assert.EndsWith("only this host can wake it.", why, StringComparison.Ordinal);
        }

        var guest = await pair.GuestAtAsync(pair.B);
        Assert.Equal((GuestState.Suspended, ""), (guest!.State, guest.MigrationId));
        await Refusals.RefusedAsync("parcel-stale", () => ResumeAsync(pair.A, pair));
        await ResumeAsync(pair.B, pair);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        IsUnbroken(pair);
    }

    // Goal: a QEMU that answers nobody does not write to the disks that the guest is put back to.
    [Fact]
    public async Task A_silent_QEMU_that_lacks_memory_is_ended_by_the_next_daemon()
    {
        await using var pair = await StartAsync();
        var parcel = await SuspendAsync(pair.A, pair);
        var qemu = (await ResumeAsync(pair.B, pair)).Guest.ProcessId;
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        await pair.B.EndAsync(Processes.Killed);
        Processes.Signal(qemu, Processes.Stopped);

        // As if some of its memory had still been to come.
        await using (var registry = SqliteRegistry.Open(pair.B.Settings.RegistryFile))
        {
            var record = Assert.Single(await registry.ListGuestsAsync(Token));
            Assert.True(await registry.TryUpdateGuestAsync(
                record with { Parcel = record.Parcel! with { Stage = ParcelStage.Filling } }, record.Epoch, Token));
        }

        await pair.RestartBAsync();
        Assert.Equal(GuestState.Failed, (await pair.GuestAtAsync(pair.B))!.State);
        Assert.False(Processes.Runs(qemu));
        await pair.B.Control.ResumeGuestAsync(
            new ResumeGuestRequest { Reference = parcel.Id, Mode = ResumeMode.Rollback }, cancellationToken: Token);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
    }

    [Fact]
    public async Task A_guest_that_sleeps_in_another_store_is_taken_back_only_if_nobody_has_resumed_it()
    {
        await using var pair = await StartAsync();
        foreach (var host in new[] { pair.A, pair.B })
        {
            await host.Control.CreateStoreAsync(
                new StoreSpec { Name = "second", Location = StorePath(pair) + "-second" }, cancellationToken: Token);
        }

        var first = await pair.A.Control.SuspendGuestAsync(
            new SuspendGuestRequest { Guest = pair.Program.Name, Store = StoreName, KeepRunning = true },
            cancellationToken: Token);
        await pair.A.Control.SuspendGuestAsync(
            new SuspendGuestRequest { Guest = pair.Program.Name, Store = "second" }, cancellationToken: Token);
        // Host a is not told.
        await pair.A.EndAsync(Processes.Killed);
        await ResumeAsync(pair.B, pair);
        await pair.RestartAAsync();
        Assert.Equal(GuestState.Suspended, (await pair.GuestAtAsync(pair.A))!.State);
        await Refusals.RefusedAsync("guest-state", () => RollBackAsync(pair.A, first.Id));
        Assert.Equal(GuestState.Elsewhere, (await pair.GuestAtAsync(pair.A))!.State);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);

        // Nor may anybody resume it from there who is later than a rollback.
        await pair.B.Control.SuspendGuestAsync(
            new SuspendGuestRequest { Guest = pair.Program.Name, Store = "second" }, cancellationToken: Token);
        await RollBackAsync(pair.B, first.Id);
        await Refusals.RefusedAsync("parcel-stale", () => ResumeAsync(pair.A, pair));
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
    }

    private static async Task<Parcel> CheckpointAsync(DaemonProcess host, MovePair pair) =>
        await host.Control.SuspendGuestAsync(
            new SuspendGuestRequest { Guest = pair.Program.Name, KeepRunning = true }, cancellationToken: Token);

    private static async Task<ResumeGuestResponse> RollBackAsync(DaemonProcess host, string reference) =>
        await host.Control.ResumeGuestAsync(
            new ResumeGuestRequest { Reference = reference, Mode = ResumeMode.Rollback }, cancellationToken: Token);

    private static List<string> ClaimsOf(MovePair pair)
    {
        var folder = Path.Combine(StorePath(pair), "claims");
        return Directory.Exists(folder)
            ? [.. Directory.EnumerateFiles(folder, "*", SearchOption.AllDirectories)] : [];
    }

    private static async Task ChangeAsync(string image, byte first)
    {
        await using var file = File.OpenWrite(image);
        file.WriteByte(first);
    }
}
