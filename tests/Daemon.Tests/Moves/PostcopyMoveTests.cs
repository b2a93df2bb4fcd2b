using System.Net.Sockets;
using Godwit.Api.V1;
using Godwit.Daemon.Tests.Guests;
using Godwit.Host.Transfers;

namespace Godwit.Daemon.Tests.Moves;

// Inside the namespace, where it wins over the namespace Godwit.Migration.
using Migration = Godwit.Api.V1.Migration;

/// <summary>A guest that runs at the destination and lacks memory, and daemons that end meanwhile.</summary>
public sealed class PostcopyMoveTests
{
    // The guest's 3 MiB of noise take about twelve seconds at this rate: time enough to end a daemon.
    private static readonly MigrationPolicy Slow = new()
    {
        Method = MigrationMethod.Postcopy, BandwidthBitsPerSecond = 2_000_000, MaxDowntimeMs = 10_000,
    };

    private const int Terminate = 15;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    private static async Task<Migration> UntilFetchingAsync(MovePair pair)
    {
        var move = await pair.StartMoveAsync(pair.A, "b", Slow);
        await Wait.UntilAsync(
            async () =>
            {
                move = await MovePair.ReportAsync(pair.A, move.Id);
                Assert.True(move.Phase < MigrationPhase.Ended, $"{move.ErrorCode}: {move.Error}");
                return move.Progress.Verdict == "fetching" && move.DowntimeMs > 0;
            },
            "the guest runs at the destination and fetches its memory");
        return move;
    }

    [Fact]
    public async Task A_guest_that_fetches_memory_can_be_stopped_by_force()
    {
        await using var pair = await MovePair.StartAsync();
        var move = await UntilFetchingAsync(pair);
        await pair.B.Control.StopGuestAsync(
            new StopGuestRequest { Name = pair.Program.Name, Force = true }, cancellationToken: Token);
        move = await MovePair.SettledAsync(pair.A, move);
        Assert.NotEqual(MigrationOutcome.Completed, move.Outcome);
        await Wait.UntilAsync(
            async () => (await pair.GuestAtAsync(pair.B))?.State is GuestState.Stopped or GuestState.Failed,
            "host b has noted the guest's end");
        // It had left, and its copy must not come back to life.
        Assert.False(Processes.Runs(pair.Guest.ProcessId));
        Assert.Equal(GuestState.Elsewhere, (await pair.GuestAtAsync(pair.A))?.State);
    }

    // The state is one that the next daemon can take up: nobody has to wait for memory that may take hours.
    [Theory]
    [InlineData("a")]
    [InlineData("b")]
    public async Task A_daemon_that_is_stopped_does_not_wait_for_the_guests_memory(string host)
    {
        await using var pair = await MovePair.StartAsync();
        var move = await UntilFetchingAsync(pair);
        Assert.Equal(0, await (host == "a" ? pair.A : pair.B).EndAsync(Terminate));
        if (host == "b")
        {
            Assert.NotEqual(MigrationOutcome.Completed, (await MovePair.ReportAsync(pair.A, move.Id)).Outcome);
            await pair.RestartBAsync();
        }
        else
        {
            Assert.True((await pair.GuestAtAsync(pair.B))?.MigrationId.Length > 0, "it had all memory already");
            await pair.RestartAAsync();
        }

        move = await MovePair.SettledAsync(pair.A, move);
        Assert.True(move.Outcome == MigrationOutcome.Completed, $"{move.ErrorCode}: {move.Error}\n{pair.B.Output}");
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        CountingGuest.IsUnbroken(
            CountingGuest.Console(pair.A, pair.Guest) + CountingGuest.Console(pair.B, pair.Guest));
    }

    // By a fault of its own, or an operator's: it has to be noticed also by a daemon that came later.
    [Fact]
    public async Task A_guest_whose_qemu_gives_up_its_stream_after_a_restart_is_said_to_be_lost()
    {
        await using var pair = await MovePair.StartAsync();
        var move = await UntilFetchingAsync(pair);
        await pair.B.EndAsync(Terminate);
        await pair.RestartBAsync();
        Guest there = null!;
        await Wait.UntilAsync(
            async () => (there = (await pair.GuestAtAsync(pair.B))!).ProcessId > 0, "its QEMU is found again");
        // Its own end would be closed the same way.
        using (var stream = HeldStream.Load(
            Path.Combine(pair.B.Settings.RuntimeDirectory, "guests", there.Spec.Uuid))!.Fetch((int)there.ProcessId))
        {
            stream.Shutdown(SocketShutdown.Both);
        }

        move = await MovePair.SettledAsync(pair.A, move);
        Assert.NotEqual(MigrationOutcome.Completed, move.Outcome);
        await Wait.UntilAsync(
            async () => (await pair.GuestAtAsync(pair.B))?.State == GuestState.Failed, "host b says that it failed");
        Assert.False(Processes.Runs((int)there.ProcessId));
        Assert.Equal(GuestState.Elsewhere, (await pair.GuestAtAsync(pair.A))?.State);
    }
}
