using Godwit.Api.V1;
using Godwit.Daemon.Tests.Guests;
using Godwit.Host.Registry;
using Godwit.Migration.HandOver;

namespace Godwit.Daemon.Tests.Moves;

/// <summary>Moves while a state directory is full, or fills up: nothing is lost, and space puts it right.</summary>
public sealed class FullDiskTests
{
    // The guest's 3 MiB of noise take about twelve seconds at this rate: time enough to fill a disk.
    private static readonly MigrationPolicy Slow = new()
    {
        BandwidthBitsPerSecond = 2_000_000, MaxDowntimeMs = MovePair.PatientDowntimeMs,
    };

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task A_host_that_could_not_record_the_move_is_named_with_what_it_has_free()
    {
        await using var pair = await MovePair.StartAsync(
            prepareA: pair => SmallState(pair, "a"), prepareB: pair => SmallState(pair, "b"));
        foreach (var host in new[] { pair.A, pair.B })
        {
            var filler = Fill(host);
            var message = await pair.RefusedAsync("disk-full");
            Assert.StartsWith(
                $"{host.Settings.StateDirectory} on host '{host.Settings.HostName}' has 0 MiB free; 4 MiB are needed",
                message);
            File.Delete(filler);
        }
    }

    // Goal: what the journal has recorded holds, and the registry learns of it when it can.
    // Method: the state directory fills up while pages are on their way; the journal's last page has room left.
    [Fact]
    public async Task A_source_whose_registry_cannot_be_written_hands_over_and_catches_up()
    {
        await using var pair = await MovePair.StartAsync(prepareA: pair => SmallState(pair, "a"));
        var move = await pair.StartMoveAsync(pair.A, "b", Slow);
        await MovePair.UntilCopyingAsync(pair.A, move);
        var filler = Fill(pair.A);
        var ended = await MovePair.EndAsync(pair.A, move);
        Assert.Equal((MigrationOutcome.Completed, "b"), (ended.Outcome, ended.GuestRunsOn));
        await pair.A.SaysAsync("could not be recorded");
        File.Delete(filler);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        await pair.MoveAsync(pair.B, "a");
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
    }

    // Goal: a destination that can record nothing while the guest comes neither loses it nor keeps a shadow of it.
    // Method: its state directory fills up while pages are on their way; the move is called off, or goes through.
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_destination_whose_disk_fills_up_during_the_move_is_itself_again_with_space(bool isCancelled)
    {
        await using var pair = await MovePair.StartAsync(prepareB: pair => SmallState(pair, "b"));
        var move = await pair.StartMoveAsync(pair.A, "b", Slow);
        await MovePair.UntilCopyingAsync(pair.A, move);
        var filler = Fill(pair.B);
        if (isCancelled)
        {
            await pair.A.Control.CancelMigrationAsync(new MigrationRequest { Id = move.Id }, cancellationToken: Token);
        }

        var ended = await MovePair.EndAsync(pair.A, move);
        Assert.Equal(isCancelled ? "a" : "b", ended.GuestRunsOn);
        await pair.B.SaysAsync("could not be recorded");
        File.Delete(filler);
        if (isCancelled)
        {
            await pair.MoveAsync(pair.A, "b");
        }

        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        CountingGuest.IsUnbroken(
            CountingGuest.Console(pair.A, pair.Guest) + CountingGuest.Console(pair.B, pair.Guest));
        var stopped = await pair.B.Control.StopGuestAsync(
            new StopGuestRequest { Name = "counting", Force = true }, cancellationToken: Token);
        Assert.Equal((GuestState.Stopped, "b"), (stopped.State, stopped.Host));
    }

    // Goal: whose guest it is stands in the registry before the journal has a newer record than the one that says so: a
    // daemon that started then would end a guest that runs. Found by the simulator.
    [Fact]
    public async Task A_guest_that_could_not_be_recorded_is_before_it_moves_on()
    {
        await using var pair = await MovePair.StartAsync(prepareB: pair => SmallState(pair, "b"));
        var move = await pair.StartMoveAsync(pair.A, "b", Slow);
        await MovePair.UntilCopyingAsync(pair.A, move);
        var filler = Fill(pair.B);
        await MovePair.EndAsync(pair.A, move);
        await pair.B.SaysAsync("could not be recorded");
        File.Delete(filler);
        Assert.Equal((GuestIntent.Incoming, "a"), await RecordedAsync(pair.B));

        // Host a knows what the guest left there: it would be back before it can be called off.
        move = await pair.StartMoveAsync(pair.B, "a", new MigrationPolicy(Slow) { Share = ContentSharing.None });
        Assert.Equal((GuestIntent.Running, "b"), await RecordedAsync(pair.B));
        await pair.B.Control.CancelMigrationAsync(new MigrationRequest { Id = move.Id }, cancellationToken: Token);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
    }

    private static async Task<(GuestIntent Intent, string Host)> RecordedAsync(DaemonProcess daemon)
    {
        // SQLite would follow the link out of the daemon's mounts.
        var folder = Directory.CreateTempSubdirectory("gw-registry-").FullName;
        foreach (var path in Directory.EnumerateFiles(
            $"/proc/{daemon.Id}/root{daemon.Settings.StateDirectory}", "registry.db*"))
        {
            File.Copy(path, Path.Combine(folder, Path.GetFileName(path)));
        }

        await using var registry = SqliteRegistry.Open(Path.Combine(folder, "registry.db"));
        var record = Assert.Single(await registry.ListGuestsAsync(Token));
        return (record.Intent, record.Host);
    }

    private static string SmallState(MovePair pair, string host) =>
        $"mkdir {pair.Folder(host)}/state && mount -t tmpfs -o size=8m none {pair.Folder(host)}/state";

    /// <summary>Fills the state directory that only this daemon sees.</summary>
    /// <returns>The file that fills it.</returns>
    private static string Fill(DaemonProcess daemon)
    {
        var path = $"/proc/{daemon.Id}/root{daemon.Settings.StateDirectory}/filler";
        using var file = File.Create(path, bufferSize: 0);
        try
        {
            while (true)
            {
                file.Write(new byte[4096]);
            }
        }
        catch (IOException)
        {
            return path;
        }
    }
}
