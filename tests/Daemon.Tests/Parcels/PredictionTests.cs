using Godwit.Api.V1;
using Godwit.Daemon.Tests.Guests;
using Godwit.Daemon.Tests.Moves;
using Grpc.Core;
using static Godwit.Daemon.Tests.Parcels.ParcelTests;

namespace Godwit.Daemon.Tests.Parcels;

/// <summary>A host learns where a guest is resumed, and that host has it ready by itself.</summary>
public sealed class PredictionTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Where_a_guest_is_expected_its_memory_is_ready()
    {
        await using var pair = await StartAsync();
        var nothing = await PredictAsync(pair.A, pair);
        Assert.Equal(("", false, "a", 0u), (nothing.Host, nothing.Asleep, nothing.SuspendedOn, nothing.Predicted));
        await SuspendAsync(pair.A, pair);
        await ResumeAsync(pair.B, pair);
        await SuspendAsync(pair.B, pair);
        await ResumeAsync(pair.A, pair);
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);

        // The third sleep begins as the first one did.
        var third = await SuspendAsync(pair.A, pair);
        await Wait.UntilAsync(
            async () => (await pair.B.Control.ListInventoryAsync(new ListInventoryRequest(), cancellationToken: Token))
                .Entries.Any(entry => entry.Kind == "hoard"), "host b has hoarded what it lacks");
        await Wait.UntilAsync(
            () => pair.B.Output.Contains($"Parcel {third.Id}", StringComparison.Ordinal)
                && pair.B.Output.Contains("hoarded for counting", StringComparison.Ordinal), "the hoard has ended");
        foreach (var host in new[] { pair.A, pair.B })
        {
            var expected = await PredictAsync(host, pair);
            Assert.Equal(("b", "a"), (expected.Host, expected.SuspendedOn));
            Assert.InRange(expected.Share, 0.5, 0.6);
            Assert.Equal(["b", "a"], expected.Evidence.Select(one => one.Host));
            Assert.Equal((1u, 1u), (expected.Evidence[0].Resumes, expected.Evidence[0].Alike));
            Assert.Equal(["", "a", "b"], expected.Sleeps.Select(sleep => sleep.ResumedOn));
            Assert.Equal("b", expected.Sleeps[0].PredictedHost);
            Assert.Empty(expected.NotAsked);
        }

        var resumed = await ResumeAsync(pair.B, pair);
        Assert.Equal(0u, resumed.FetchedBytes);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        var judged = await PredictAsync(pair.B, pair);
        Assert.False(judged.Asleep);
        Assert.True(judged.PredictedRight >= 1, $"{judged}");
        Assert.InRange(judged.UsedBytes, 1u, judged.HoardedBytes);
        Assert.True(judged.UsedBytes > judged.HoardedBytes / 2, $"{judged}");
        IsUnbroken(pair);
        await Refusals.RefusedAsync("guest-unknown", async () => await pair.A.Control.PredictResumeAsync(
            new PredictResumeRequest { Guest = "nobody" }, cancellationToken: Token));
    }

    [Fact]
    public async Task What_is_known_outlives_daemons_and_is_said_without_hosts_that_do_not_answer()
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        await ResumeAsync(pair.B, pair);
        await Wait.UntilAsync(
            async () => await pair.GuestAtAsync(pair.A) is { State: GuestState.Elsewhere }, "host a has heard of it");
        await pair.A.EndAsync(Processes.Killed);
        await pair.B.EndAsync(Processes.Killed);
        await pair.RestartAAsync();
        var expected = await PredictAsync(pair.A, pair);
        Assert.Equal(["b"], expected.NotAsked);
        Assert.Equal("b", Assert.Single(expected.Sleeps).ResumedOn);
    }

    [Fact]
    public async Task What_a_host_fetches_of_its_own_accord_is_bounded()
    {
        await using var pair = await MovePair.StartAsync(
            a: settings => settings with { HoardMebibytes = 0 }, b: settings => settings with { HoardMebibytes = 1 });
        foreach (var host in new[] { pair.A, pair.B })
        {
            await host.Control.CreateStoreAsync(
                new StoreSpec { Name = StoreName, Location = StorePath(pair) }, cancellationToken: Token);
        }

        await SuspendAsync(pair.A, pair);
        await Refusals.RefusedAsync("hoard-off", () => HoardByItselfAsync(pair.A, pair));
        var last = await HoardByItselfAsync(pair.B, pair);
        Assert.InRange(last.HoardedBytes, 1u, 1u << 20);
        Assert.True(last.LeftBytes > 1 << 20, $"{last}");
        Assert.Equal(last.NeededBytes, last.HeldBytes + last.WantedBytes + last.LeftBytes);
        await ResumeAsync(pair.B, pair);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        IsUnbroken(pair);
    }

    private static async Task<ResumePrediction> PredictAsync(DaemonProcess host, MovePair pair) =>
        await host.Control.PredictResumeAsync(
            new PredictResumeRequest { Guest = pair.Program.Name }, cancellationToken: Token);

    private static async Task<HoardProgress> HoardByItselfAsync(DaemonProcess host, MovePair pair)
    {
        using var call = host.Control.HoardGuest(
            new HoardGuestRequest { Reference = pair.Program.Name, ByItself = true }, cancellationToken: Token);
        var last = new HoardProgress();
        await foreach (var progress in call.ResponseStream.ReadAllAsync(Token))
        {
            last = progress;
        }

        Assert.True(last.Ended);
        return last;
    }
}
