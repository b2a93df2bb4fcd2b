using Godwit.Api.V1;
using Godwit.Daemon.Tests.Guests;
using Godwit.Daemon.Tests.Moves;
using Grpc.Core;
using static Godwit.Daemon.Tests.Parcels.ParcelTests;

namespace Godwit.Daemon.Tests.Parcels;

/// <summary>What a resume will need is fetched ahead of it.</summary>
public sealed class HoardTests
{
    // The guest's noise takes 3 MiB: seconds at this rate.
    private const ulong SlowBitsPerSecond = 2_000_000;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_resume_fetches_next_to_nothing_of_what_was_hoarded(bool isLazy)
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        var last = await HoardAsync(pair.A, pair, on: "b");
        Assert.True(last.Ended);
        Assert.Equal("b", last.Host);
        Assert.True(last.HoardedBytes > 3 << 20, $"{last}");
        Assert.Equal(last.WantedBytes, last.HoardedBytes);
        Assert.Equal(last.NeededBytes, last.HeldBytes + last.WantedBytes);
        Assert.Equal("counting", (await HoardsOfAsync(pair.B)).Single().Name);

        // It is there: a second one brings nothing.
        var again = await HoardAsync(pair.B, pair);
        Assert.Equal((0u, last.NeededBytes), (again.HoardedBytes, again.HeldBytes));
        Assert.Equal(0u, again.FetchedBytes);

        var resumed = await pair.B.Control.ResumeGuestAsync(
            new ResumeGuestRequest { Reference = pair.Program.Name, Lazy = isLazy }, cancellationToken: Token);
        Assert.Equal(0u, resumed.FetchedBytes);
        await Wait.UntilAsync(
            async () => await pair.GuestAtAsync(pair.B) is { MigrationId: "" }, "all of its memory is there");
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        IsUnbroken(pair);
        Assert.Empty(await HoardsOfAsync(pair.B));
    }

    [Fact]
    public async Task A_newer_parcel_brings_only_what_has_changed_since()
    {
        await using var pair = await StartAsync();
        await CheckpointAsync(pair);
        var first = await HoardAsync(pair.A, pair, on: "b");
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        await SuspendAsync(pair.A, pair);
        var second = await HoardAsync(pair.A, pair, on: "b");
        Assert.InRange(second.HoardedBytes, 1u, first.HoardedBytes / 4);
        var resumed = await ResumeAsync(pair.B, pair);
        Assert.Equal(0u, resumed.FetchedBytes);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        IsUnbroken(pair);
    }

    // Goal: whatever ends a hoard, what has come by then need not come again.
    [Fact]
    public async Task A_hoard_that_is_cut_goes_on_where_it_was()
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        var cancelled = await UntilHoardedAsync(pair, (call, _) => Task.Run(call.Dispose));
        var packs = Path.Combine(StorePath(pair), "packs");
        var vanished = await UntilHoardedAsync(pair, async (call, progress) =>
        {
            Vanish(packs, packs + "-gone");
            var refusal = await Assert.ThrowsAsync<RpcException>(async () =>
            {
                while (await call.ResponseStream.MoveNext(Token))
                {
                    progress(call.ResponseStream.Current);
                }
            });
            Assert.StartsWith("store-", refusal.Trailers.GetValue("godwit-code"), StringComparison.Ordinal);
            Assert.NotEmpty(refusal.Trailers.GetValue("godwit-remedy")!);
        });
        Assert.True(vanished.HeldBytes >= cancelled.HeldBytes + cancelled.HoardedBytes, $"{cancelled} {vanished}");
        Directory.Move(packs + "-gone", packs);
        var last = await HoardAsync(pair.B, pair);
        Assert.True(last.HeldBytes >= vanished.HeldBytes + vanished.HoardedBytes, $"{vanished} {last}");
        Assert.True(last.HoardedBytes > 0, $"{last}");
        Assert.Equal(0u, (await ResumeAsync(pair.B, pair)).FetchedBytes);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        IsUnbroken(pair);
    }

    [Fact]
    public async Task A_hoard_that_is_damaged_costs_time_and_no_byte()
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        await HoardAsync(pair.B, pair);
        var image = Directory.EnumerateFiles(
            Path.Combine(pair.B.Settings.StateDirectory, "inventory"), "hoard-*.image").Single();
        var bytes = await File.ReadAllBytesAsync(image, Token);
        for (var at = 0; at < bytes.Length; at += 3 * 4096)
        {
            bytes[at + 2] ^= 1;
        }

        await File.WriteAllBytesAsync(image, bytes, Token);
        var resumed = await ResumeAsync(pair.B, pair);
        Assert.True(resumed.FetchedBytes > 0);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        IsUnbroken(pair);
    }

    [Fact]
    public async Task What_cannot_be_hoarded_is_refused()
    {
        await using var pair = await MovePair.StartAsync(b: settings => settings with { InventoryMebibytes = 2 });
        foreach (var host in new[] { pair.A, pair.B })
        {
            await host.Control.CreateStoreAsync(
                new StoreSpec { Name = StoreName, Location = StorePath(pair) }, cancellationToken: Token);
        }

        await Refusals.RefusedAsync("parcel-unknown", () => HoardAsync(pair.A, pair, "nobody"));
        await Refusals.RefusedAsync("parcel-unknown", () => HoardAsync(pair.A, pair, on: "b"));
        await Refusals.RefusedAsync("host-unknown", () => HoardAsync(pair.A, pair, on: "nowhere"));
        await Refusals.RefusedAsync("store-unknown", async () => await FollowAsync(pair.A.Control.HoardGuest(
            new HoardGuestRequest { Reference = pair.Program.Name, Store = "none" }, cancellationToken: Token)));
        await SuspendAsync(pair.A, pair);
        var room = await Refusals.RefusedAsync("hoard-room", () => HoardAsync(pair.A, pair, on: "b"));
        Assert.Contains("'b'", room, StringComparison.Ordinal);
        Assert.Contains("room for 1 MiB", room, StringComparison.Ordinal);
        await ResumeAsync(pair.A, pair);
        await Refusals.RefusedAsync("hoard-awake", () => HoardAsync(pair.A, pair));
        await Refusals.RefusedAsync("hoard-awake", () => HoardAsync(pair.A, pair, on: "b"));
    }

    [Fact]
    public async Task Two_do_not_hoard_for_one_guest_and_a_resume_does_not_wait()
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        await UntilHoardedAsync(pair, async (call, _) =>
        {
            await Refusals.RefusedAsync("hoard-busy", () => HoardAsync(pair.A, pair, on: "b"));
            var resumed = await ResumeAsync(pair.B, pair);
            Assert.True(resumed.RebuiltBytes > 0, $"{resumed}");
            await Refusals.RefusedAsync("hoard-ended", async () =>
            {
                while (await call.ResponseStream.MoveNext(Token))
                {
                }
            });
        });
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        IsUnbroken(pair);
    }

    // What a guest leaves where it falls asleep is of use when it comes back.
    [Fact]
    public async Task A_guest_that_comes_back_to_where_it_slept_fetches_what_has_changed()
    {
        await using var pair = await StartAsync();
        var first = await SuspendAsync(pair.A, pair);
        await Wait.UntilAsync(
            async () => (await InventoryOfAsync(pair.A)).Any(entry => entry.Kind == "memory"), "its memory is kept");
        var there = await ResumeAsync(pair.B, pair);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        await SuspendAsync(pair.B, pair);
        var back = await ResumeAsync(pair.A, pair);
        Assert.InRange(back.FetchedBytes, 1u, there.FetchedBytes / 4);
        Assert.True(first.WrittenBytes > 0);
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        IsUnbroken(pair);
    }

    private static Task<Parcel> CheckpointAsync(MovePair pair) => pair.A.Control.SuspendGuestAsync(
        new SuspendGuestRequest { Guest = pair.Program.Name, KeepRunning = true }, cancellationToken: Token)
        .ResponseAsync;

    private static Task<HoardProgress> HoardAsync(
        DaemonProcess host, MovePair pair, string reference = "", string on = "") =>
        FollowAsync(host.Control.HoardGuest(
            new HoardGuestRequest { Reference = reference.Length > 0 ? reference : pair.Program.Name, On = on },
            cancellationToken: Token));

    private static async Task<HoardProgress> FollowAsync(AsyncServerStreamingCall<HoardProgress> call)
    {
        var last = new HoardProgress();
        using (call)
        {
            await foreach (var progress in call.ResponseStream.ReadAllAsync(Token))
            {
                Assert.True(progress.HoardedBytes >= last.HoardedBytes, $"{last} {progress}");
                last = progress;
            }
        }

        return last;
    }

    // Whoever has a file open finds nothing in it any more either.
    private static void Vanish(string folder, string kept)
    {
        Directory.Move(folder, kept);
        foreach (var file in Directory.EnumerateFiles(kept, "*", SearchOption.AllDirectories))
        {
            File.Copy(file, file + ".copy");
            File.WriteAllBytes(file, []);
            File.Move(file + ".copy", file, overwrite: true);
        }
    }

    /// <summary>Hoards slowly at b, and does something when the first of it has come.</summary>
    private static async Task<HoardProgress> UntilHoardedAsync(
        MovePair pair, Func<AsyncServerStreamingCall<HoardProgress>, Action<HoardProgress>, Task> then)
    {
        using var call = pair.B.Control.HoardGuest(
            new HoardGuestRequest { Reference = pair.Program.Name, BandwidthBitsPerSecond = SlowBitsPerSecond },
            cancellationToken: Token);
        HoardProgress last;
        do
        {
            Assert.True(await call.ResponseStream.MoveNext(Token));
            last = call.ResponseStream.Current;
            Assert.False(last.Ended, "it was faster than its cap allows");
        }
        while (last.HoardedBytes == 0);

        await then(call, progress => last = progress);
        return last;
    }

    private static async Task<IReadOnlyList<InventoryEntry>> InventoryOfAsync(DaemonProcess host) =>
        (await host.Control.ListInventoryAsync(new ListInventoryRequest(), cancellationToken: Token)).Entries;

    private static async Task<IReadOnlyList<InventoryEntry>> HoardsOfAsync(DaemonProcess host) =>
        [.. (await InventoryOfAsync(host)).Where(entry => entry.Kind == "hoard")];
}
