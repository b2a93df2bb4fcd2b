using Godwit.Api.V1;
using Godwit.Daemon.Tests.Guests;
using Godwit.Daemon.Tests.Moves;
using Grpc.Core;

namespace Godwit.Daemon.Tests.Parcels;

/// <summary>A guest that counts goes into a store and comes out of it, here and elsewhere.</summary>
/// <remarks>Its count on all consoles together has no gap and no number twice: it was never in two places.</remarks>
public sealed class ParcelTests
{
    internal const string StoreName = "office";

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task A_suspended_guest_goes_on_where_it_was_resumed()
    {
        await using var pair = await StartAsync();
        var first = await SuspendAsync(pair.A, pair);
        Assert.Equal(GuestState.Suspended, (await pair.GuestAtAsync(pair.A))!.State);
        Assert.Empty(Processes.IdsIn(pair.Folder("a")));
        await Refusals.RefusedAsync("guest-asleep", async () => await pair.A.Control.StartGuestAsync(
            new StartGuestRequest { Name = pair.Program.Name }, cancellationToken: Token));

        var there = await ResumeAsync(pair.B, pair);
        Assert.Equal((GuestState.Running, "b"), (there.Guest.State, there.Guest.Host));
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        await Refusals.RefusedAsync("parcel-stale", () => ResumeAsync(pair.A, pair));

        // The way back brings what has changed.
        var second = await SuspendAsync(pair.B, pair);
        Assert.Equal(first.Id, second.Parent);
        await ResumeAsync(pair.A, pair);
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        IsUnbroken(pair);
        var history = await pair.A.Control.ListParcelsAsync(new ListParcelsRequest(), cancellationToken: Token);
        Assert.Equal([second.Id, first.Id], history.Parcels.Select(parcel => parcel.Id));
        Assert.Equal(["a", "b"], history.Parcels.Select(parcel => parcel.ResumedOn));
        Assert.Empty(history.Problems);
    }

    [Fact]
    public async Task A_guest_may_run_before_its_memory_has_arrived()
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        await pair.B.Control.ResumeGuestAsync(
            new ResumeGuestRequest { Reference = pair.Program.Name, Lazy = true }, cancellationToken: Token);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        await Wait.UntilAsync(
            async () => await pair.GuestAtAsync(pair.B) is { MigrationId: "" }, "all of its memory is there");
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        // It is a guest like any other afterwards: it sleeps again, and moves.
        await SuspendAsync(pair.B, pair);
        await ResumeAsync(pair.A, pair);
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        IsUnbroken(pair);
        await Wait.UntilAsync(
            async () => await pair.GuestAtAsync(pair.B) is { State: GuestState.Elsewhere, Host: "a" },
            "host b has heard of it");
        await pair.MoveAsync(pair.A, "b");
    }

    [Fact]
    public async Task A_store_that_vanishes_under_a_guest_that_lacks_memory_makes_it_wait()
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        var packs = Path.Combine(StorePath(pair), "packs");
        var resume = pair.B.Control.ResumeGuestAsync(
            new ResumeGuestRequest { Reference = pair.Program.Name, Lazy = true }, cancellationToken: Token);
        await resume;
        Directory.Move(packs, packs + "-gone");
        await Task.Delay(TimeSpan.FromSeconds(2), Token);
        Directory.Move(packs + "-gone", packs);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        await Wait.UntilAsync(
            async () => await pair.GuestAtAsync(pair.B) is { MigrationId: "" }, "all of its memory is there");
        IsUnbroken(pair);
    }

    [Fact]
    public async Task A_checkpoint_leaves_the_guest_running_and_can_be_gone_back_to_and_forked()
    {
        await using var pair = await StartAsync();
        var checkpoint = await pair.A.Control.SuspendGuestAsync(
            new SuspendGuestRequest { Guest = pair.Program.Name, KeepRunning = true }, cancellationToken: Token);
        Assert.True(checkpoint.PauseMs > 0);
        var before = CountingGuest.Console(pair.A, pair.Guest);
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        IsUnbroken(pair);
        await Refusals.RefusedAsync("parcel-checkpoint", () => ResumeAsync(pair.A, pair, checkpoint.Id));

        var fork = await pair.A.Control.ResumeGuestAsync(new ResumeGuestRequest
        {
            Reference = checkpoint.Id, Mode = ResumeMode.Fork, NewName = "twin",
        }, cancellationToken: Token);
        Assert.Equal("twin", fork.Guest.Spec.Name);
        Assert.NotEqual(pair.Guest.Spec.Uuid, fork.Guest.Spec.Uuid);
        await CountingGuest.CountsOnAsync(pair.A, fork.Guest);
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);

        var back = await pair.A.Control.ResumeGuestAsync(new ResumeGuestRequest
        {
            Reference = checkpoint.Id, Mode = ResumeMode.Rollback,
        }, cancellationToken: Token);
        Assert.Equal(GuestState.Running, back.Guest.State);
        Assert.NotEqual(pair.Guest.ProcessId, back.Guest.ProcessId);
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        // It counts again from where it was at the checkpoint.
        var lines = CountingGuest.Console(pair.A, pair.Guest).Split('\n');
        Assert.True(lines.Distinct().Count() < lines.Length, $"it did not go back: {before}");
    }

    [Fact]
    public async Task Damage_is_found_named_and_repaired_from_another_store()
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        await pair.A.Control.CreateStoreAsync(
            new StoreSpec { Name = "copy", Location = Path.Combine(pair.Folder("a"), "copy") },
            cancellationToken: Token);
        await ResumeAsync(pair.A, pair);
        await pair.A.Control.SuspendGuestAsync(
            new SuspendGuestRequest { Guest = pair.Program.Name, Store = "copy", KeepRunning = true },
            cancellationToken: Token);
        var sound = await pair.A.Control.VerifyStoreAsync(
            new VerifyStoreRequest { Name = StoreName, Contents = true }, cancellationToken: Token);
        Assert.Empty(sound.Problems);
        Assert.True(sound.Chunks > 10);

        var pack = Directory.EnumerateFiles(Path.Combine(StorePath(pair), "packs"), "*", SearchOption.AllDirectories)
            .MaxBy(path => new FileInfo(path).Length)!;
        var bytes = await File.ReadAllBytesAsync(pack, Token);
        bytes[bytes.Length / 2] ^= 4;
        await File.WriteAllBytesAsync(pack, bytes, Token);
        var damaged = await pair.A.Control.VerifyStoreAsync(
            new VerifyStoreRequest { Name = StoreName, Contents = true }, cancellationToken: Token);
        Assert.True(damaged.Lost > 0);
        Assert.NotEmpty(damaged.Problems);
        var repaired = await pair.A.Control.VerifyStoreAsync(
            new VerifyStoreRequest { Name = StoreName, Contents = true, RepairFrom = "copy" },
            cancellationToken: Token);
        Assert.Equal(damaged.Lost, repaired.Repaired + repaired.Lost);
    }

    [Fact]
    public async Task An_encrypted_store_takes_a_guest_to_a_host_that_has_the_key()
    {
        await using var pair = await MovePair.StartAsync();
        var key = Path.Combine(pair.Folder("a"), "store.key");
        var spec = new StoreSpec { Name = StoreName, Location = StorePath(pair), KeyFile = key, Coding = "zstd" };
        await pair.A.Control.CreateStoreAsync(spec, cancellationToken: Token);
        await Refusals.RefusedAsync("store-broken", async () => await pair.B.Control.CreateStoreAsync(
            new StoreSpec { Name = StoreName, Location = StorePath(pair) }, cancellationToken: Token));
        await pair.B.Control.CreateStoreAsync(spec, cancellationToken: Token);
        await SuspendAsync(pair.A, pair);
        await ResumeAsync(pair.B, pair);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        IsUnbroken(pair);
    }

    // Goal: a copy serves where its home is reached, and never makes a second guest where it is not.
    [Fact]
    public async Task A_copied_parcel_is_resumed_only_with_the_word_of_its_home()
    {
        await using var pair = await MovePair.StartAsync();
        var copy = Path.Combine(pair.Folder("a"), "copy");
        await pair.A.Control.CreateStoreAsync(
            new StoreSpec { Name = StoreName, Location = StorePath(pair) }, cancellationToken: Token);
        foreach (var host in new[] { pair.A, pair.B })
        {
            await host.Control.CreateStoreAsync(
                new StoreSpec { Name = "copy", Location = copy }, cancellationToken: Token);
        }

        await pair.A.Control.SuspendGuestAsync(
            new SuspendGuestRequest { Guest = pair.Program.Name, Store = StoreName }, cancellationToken: Token);
        var request = new CopyParcelsRequest { From = StoreName, To = "copy" };
        Assert.Equal(1u, (await pair.A.Control.CopyParcelsAsync(request, cancellationToken: Token)).Parcels);
        Assert.Equal(0u, (await pair.A.Control.CopyParcelsAsync(request, cancellationToken: Token)).Parcels);
        await Refusals.RefusedAsync("parcel-copy", () => ResumeAsync(pair.B, pair));
        await pair.B.Control.CreateStoreAsync(
            new StoreSpec { Name = StoreName, Location = StorePath(pair) }, cancellationToken: Token);
        await pair.B.Control.ResumeGuestAsync(
            new ResumeGuestRequest { Reference = pair.Program.Name, Store = "copy" }, cancellationToken: Token);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        await Refusals.RefusedAsync("parcel-stale", () => ResumeAsync(pair.A, pair));
        IsUnbroken(pair);
    }

    [Fact]
    public async Task What_no_parcel_needs_is_collected()
    {
        await using var pair = await StartAsync();
        var first = await SuspendAsync(pair.A, pair);
        await ResumeAsync(pair.A, pair);
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        await SuspendAsync(pair.A, pair);
        await pair.A.Control.RemoveParcelAsync(new ParcelRequest { Reference = first.Id }, cancellationToken: Token);
        await pair.A.Control.CollectStoreAsync(new StoreRequest { Name = StoreName }, cancellationToken: Token);
        var sound = await pair.A.Control.VerifyStoreAsync(
            new VerifyStoreRequest { Name = StoreName, Contents = true }, cancellationToken: Token);
        Assert.Empty(sound.Problems);
        Assert.Equal(1u, sound.Parcels);
        await ResumeAsync(pair.B, pair);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        IsUnbroken(pair);
    }

    [Fact]
    public async Task A_store_that_vanishes_leaves_the_guest_running()
    {
        await using var pair = await StartAsync();
        Directory.Move(StorePath(pair), StorePath(pair) + "-gone");
        await Refusals.RefusedAsync("store-unreachable", () => SuspendAsync(pair.A, pair));
        await pair.IsUntouchedAsync();
        Directory.Move(StorePath(pair) + "-gone", StorePath(pair));
        await SuspendAsync(pair.A, pair);
        await ResumeAsync(pair.B, pair);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        IsUnbroken(pair);
    }

    [Fact]
    public async Task A_store_over_its_quota_leaves_the_guest_running()
    {
        await using var pair = await MovePair.StartAsync();
        await pair.A.Control.CreateStoreAsync(
            new StoreSpec { Name = StoreName, Location = StorePath(pair), QuotaBytes = 4096 },
            cancellationToken: Token);
        await Refusals.RefusedAsync("store-full", () => SuspendAsync(pair.A, pair));
        await pair.IsUntouchedAsync();
    }

    [Fact]
    public async Task A_parcel_of_another_cluster_is_refused()
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        await using var stranger = await TestHost.StartAsync("c");
        await stranger.Control.CreateStoreAsync(
            new StoreSpec { Name = StoreName, Location = StorePath(pair) }, cancellationToken: Token);
        var message = await Refusals.RefusedAsync("parcel-refused", async () =>
            await stranger.Control.ResumeGuestAsync(
                new ResumeGuestRequest { Reference = pair.Program.Name }, cancellationToken: Token));
        Assert.Contains("not signed by a member", message, StringComparison.Ordinal);
    }

    // Goal: wherever the daemon dies in a suspend, the guest runs or sleeps afterwards, and never both.
    [Theory]
    [InlineData(0)]
    [InlineData(150)]
    [InlineData(400)]
    [InlineData(700)]
    [InlineData(1000)]
    public async Task A_daemon_that_dies_in_a_suspend_leaves_the_guest_running_or_asleep(int milliseconds)
    {
        await using var pair = await StartAsync();
        var suspend = SuspendAsync(pair.A, pair);
        await Task.Delay(milliseconds, Token);
        await pair.A.EndAsync(Processes.Killed);
        await Assert.ThrowsAnyAsync<RpcException>(() => suspend.ContinueWith(
            task => task.IsCompletedSuccessfully
                ? throw new RpcException(new Status(StatusCode.OK, "it was faster")) : task,
            TaskScheduler.Default).Unwrap());
        await pair.RestartAAsync();
        await Wait.UntilAsync(
            async () => await pair.GuestAtAsync(pair.A) is { MigrationId: "" }, "the suspend is settled");
        if ((await pair.GuestAtAsync(pair.A))!.State == GuestState.Suspended)
        {
            await ResumeAsync(pair.B, pair);
            await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        }
        else
        {
            await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
            await SuspendAsync(pair.A, pair);
            await ResumeAsync(pair.B, pair);
            await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        }

        IsUnbroken(pair);
        var sound = await pair.A.Control.VerifyStoreAsync(
            new VerifyStoreRequest { Name = StoreName, Contents = true }, cancellationToken: Token);
        Assert.Empty(sound.Problems);
    }

    // Goal: wherever the daemon dies in a resume, the guest can be resumed again, and has not run twice.
    [Theory]
    [InlineData(50)]
    [InlineData(300)]
    [InlineData(600)]
    public async Task A_daemon_that_dies_in_a_resume_loses_nothing(int milliseconds)
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        var resume = ResumeAsync(pair.B, pair);
        await Task.Delay(milliseconds, Token);
        await pair.B.EndAsync(Processes.Killed);
        await resume.ContinueWith(_ => { }, TaskScheduler.Default);
        await pair.RestartBAsync();
        if (await pair.GuestAtAsync(pair.B) is not { State: GuestState.Running })
        {
            await ResumeAsync(pair.B, pair);
        }

        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        IsUnbroken(pair);
    }

    internal static async Task<MovePair> StartAsync(Action<GuestSpec>? spec = null)
    {
        var pair = await MovePair.StartAsync(spec: spec);
        try
        {
            foreach (var host in new[] { pair.A, pair.B })
            {
                await host.Control.CreateStoreAsync(
                    new StoreSpec { Name = StoreName, Location = StorePath(pair) }, cancellationToken: Token);
            }

            return pair;
        }
        catch
        {
            await pair.DisposeAsync();
            throw;
        }
    }

    internal static string StorePath(MovePair pair) => Path.Combine(Path.GetDirectoryName(pair.Folder("a"))!, "store");

    internal static async Task<Parcel> SuspendAsync(DaemonProcess host, MovePair pair) =>
        await host.Control.SuspendGuestAsync(
            new SuspendGuestRequest { Guest = pair.Program.Name }, cancellationToken: Token);

    internal static async Task<ResumeGuestResponse> ResumeAsync(
        DaemonProcess host, MovePair pair, string reference = "") => await host.Control.ResumeGuestAsync(
        new ResumeGuestRequest { Reference = reference.Length > 0 ? reference : pair.Program.Name },
        cancellationToken: Token);

    internal static void IsUnbroken(MovePair pair) => CountingGuest.IsUnbroken(
        CountingGuest.Console(pair.A, pair.Guest), CountingGuest.Console(pair.B, pair.Guest));
}
