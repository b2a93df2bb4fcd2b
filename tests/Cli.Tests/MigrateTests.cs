using System.Text.Json;
using Godwit.Api;
using Godwit.Api.V1;
using Godwit.Cli.Commands;
using Grpc.Core;

namespace Godwit.Cli.Tests;

/// <summary>The move as the person who asked for it sees it: answers, exit codes, and Ctrl-C as a decision.</summary>
public class MigrateTests
{
    private static Migration Pending(MigrationPhase phase = MigrationPhase.Copying) =>
        Samples.Migration(MigrationOutcome.Pending, phase);

    private static Migration Ended(MigrationOutcome outcome, string code = "", string error = "")
    {
        var migration = Samples.Migration(outcome);
        migration.ErrorCode = code;
        migration.Error = error;
        return migration;
    }

    [Fact]
    public void Outcomes_map_to_documented_exit_codes()
    {
        Assert.Equal(0, MigrationEnd.ExitCode(MigrationOutcome.Completed));
        Assert.Equal(1, MigrationEnd.ExitCode(MigrationOutcome.Failed));
        Assert.Equal(6, MigrationEnd.ExitCode(MigrationOutcome.NotConverged));
        Assert.Equal(7, MigrationEnd.ExitCode(MigrationOutcome.Cancelled));
        Assert.Equal(8, MigrationEnd.ExitCode(MigrationOutcome.Unsettled));
    }

    [Theory]
    [InlineData(MigrationOutcome.Completed, 0, "")]
    [InlineData(MigrationOutcome.Failed, 1, "error migration-failed: ")]
    [InlineData(MigrationOutcome.NotConverged, 6, "error migration-not-converged: ")]
    [InlineData(MigrationOutcome.Cancelled, 7, "error migration-cancelled: ")]
    [InlineData(MigrationOutcome.Unsettled, 8, "error migration-unsettled: ")]
    public async Task A_move_ends_with_its_outcome_and_says_where_the_guest_runs(
        MigrationOutcome outcome, int code, string says)
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        var last = Ended(outcome);
        last.GuestRunsOn = outcome == MigrationOutcome.Unsettled ? "" : last.GuestRunsOn;
        foreach (var update in (Migration[])[Pending(), Pending(MigrationPhase.Switchover), last])
        {
            daemon.Script.Updates.Writer.TryWrite(update);
        }

        using var child = Child.Godwit(daemon.SocketPath, "vm", "migrate", "web1", "--to", "b", "-o", "json");
        var (exit, output, error) = await child.EndAsync();
        Assert.Equal(code, exit);
        using var answer = JsonDocument.Parse(output);
        Assert.Equal("3f2a9c01", answer.RootElement.GetProperty("id").GetString());
        Assert.Contains("copying round 2", error, StringComparison.Ordinal);
        Assert.Contains(says, error, StringComparison.Ordinal);
        if (outcome != MigrationOutcome.Completed)
        {
            Assert.Contains(
                outcome == MigrationOutcome.Unsettled
                    ? "It is not proved whether web1 runs on a or b."
                    : "web1 runs on a.",
                error, StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task The_policy_reaches_the_daemon_in_base_units()
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        daemon.Script.Updates.Writer.TryWrite(Ended(MigrationOutcome.Completed));
        using var child = Child.Godwit(
            daemon.SocketPath, "migrate", "web1", "--to", "b", "--max-downtime", "0.1s", "--bandwidth", "400Mbit",
            "--on-stall", "pause", "--pacing", "adaptive", "--max-rounds", "9", "--timeout", "10m", "--cpu", "1.5",
            "--no-compression", "-q");
        var (exit, output, error) = await child.EndAsync();
        Assert.Equal(("", 0), (error, exit));
        Assert.Contains("87.3 ms of 300 ms allowed", output, StringComparison.Ordinal);
        var request = daemon.Script.Heard.OfType<StartMigrationRequest>().Single();
        Assert.Equal(
            new MigrationPolicy
            {
                MaxDowntimeMs = 100, BandwidthBitsPerSecond = 400_000_000, OnStall = OnStall.Pause,
                Pacing = Pacing.Adaptive, MaxRounds = 9, TimeoutSeconds = 600, Cores = 1.5, NoCompression = true,
            },
            request.Policy);
    }

    [Fact]
    public async Task Several_guests_are_asked_for_one_after_another_whatever_becomes_of_one()
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        daemon.Script.Plan = Samples.Plan(false);
        using var child = Child.Godwit(
            daemon.SocketPath, "vm", "migrate", "web1", "web2", "--to", "b", "--dry-run", "-o", "json");
        var (exit, output, _) = await child.EndAsync();
        Assert.Equal(3, exit);
        Assert.Equal(
            ["web1", "web2"], daemon.Script.Heard.OfType<StartMigrationRequest>().Select(request => request.Guest));
        Assert.Equal(2, output.Split("\n{").Length);
    }

    [Fact]
    public async Task A_detached_move_prints_its_id_and_nothing_else()
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        using var child = Child.Godwit(daemon.SocketPath, "vm", "migrate", "web1", "--to", "b", "--detach");
        Assert.Equal((0, "3f2a9c01\n", ""), await child.EndAsync());
        Assert.Empty(daemon.Script.Heard.OfType<MigrationRequest>());
    }

    [Theory]
    [InlineData(true, 0)]
    [InlineData(false, 3)]
    public async Task A_dry_run_starts_nothing_and_refuses_with_3(bool possible, int code)
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        daemon.Script.Plan = Samples.Plan(possible);
        using var child = Child.Godwit(daemon.SocketPath, "vm", "migrate", "web1", "--to", "b", "--dry-run");
        var (exit, output, _) = await child.EndAsync();
        Assert.Equal(code, exit);
        Assert.Contains(possible ? "60.0 ms to 140 ms" : "bridge-missing: host b", output, StringComparison.Ordinal);
        Assert.Single(daemon.Script.Heard);
    }

    // Goal: without a terminal Ctrl-C (or a service manager's SIGTERM) cancels, waits for the end and says where the
    // guest runs; nothing is left in an unknown state.
    [Theory]
    [InlineData(Child.Interrupt)]
    [InlineData(Child.Terminate)]
    public async Task An_interruption_cancels_waits_and_ends_with_130(int signal)
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        daemon.Script.OnCancel = () =>
        {
            daemon.Script.Updates.Writer.TryWrite(
                Ended(MigrationOutcome.Cancelled, "migration-cancelled", "cancelled. web1 runs on a, as before."));
            return Pending();
        };
        daemon.Script.Updates.Writer.TryWrite(Pending());
        using var child = Child.Godwit(daemon.SocketPath, "vm", "migrate", "web1", "--to", "b");
        await Wait.UntilAsync(() => daemon.Script.Watched.Task.IsCompleted);
        child.Signal(signal);
        var (exit, _, error) = await child.EndAsync();
        Assert.Equal(130, exit);
        Assert.Contains(
            "error migration-cancelled: cancelled. web1 runs on a, as before.\n", error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_cancel_that_comes_too_late_says_so()
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        daemon.Script.OnCancel = () =>
        {
            daemon.Script.Updates.Writer.TryWrite(Ended(MigrationOutcome.Completed));
            throw Script.Refusal(StatusCode.FailedPrecondition, "migration-committed", "past the commit.", "Wait.");
        };
        using var child = Child.Godwit(daemon.SocketPath, "vm", "migrate", "web1", "--to", "b");
        await Wait.UntilAsync(() => daemon.Script.Watched.Task.IsCompleted);
        child.Signal(Child.Interrupt);
        var (exit, _, error) = await child.EndAsync();
        Assert.Equal(130, exit);
        Assert.Contains("not cancelled: past the commit.", error, StringComparison.Ordinal);
        Assert.Contains("had completed before it could be cancelled. web1 runs on b.", error, StringComparison.Ordinal);
    }

    // Goal: a person decides. Method: a pseudo-terminal by script(1), Ctrl-C typed into it, then the answer.
    [Theory]
    [InlineData("d", false)]
    [InlineData("c", true)]
    public async Task On_a_terminal_an_interruption_asks(string answer, bool cancels)
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        daemon.Script.OnCancel = () =>
        {
            daemon.Script.Updates.Writer.TryWrite(Ended(MigrationOutcome.Cancelled));
            return Pending();
        };
        daemon.Script.Updates.Writer.TryWrite(Pending());
        using var child = Pty.Run($"{Child.GodwitPath} --socket {daemon.SocketPath} vm migrate web1 --to b");
        await Wait.UntilAsync(() => daemon.Script.Watched.Task.IsCompleted);
        await child.Input.WriteAsync('\x03');
        await child.Input.FlushAsync(TestContext.Current.CancellationToken);
        await Wait.UntilAsync(() => child.OutputSoFar.Contains("[d]etach", StringComparison.Ordinal));
        await child.Input.WriteAsync($"{answer}\n");
        await child.Input.FlushAsync(TestContext.Current.CancellationToken);
        var (exit, output, _) = await child.EndAsync();
        Assert.Equal(130, exit);
        Assert.Contains("[d]etach", output, StringComparison.Ordinal);
        Assert.Equal(cancels ? 2 : 1, daemon.Script.Heard.OfType<MigrationRequest>().Count());
        Assert.Contains(
            cancels ? "error migration-cancelled: " : "Migration 3f2a9c01 goes on without this command.",
            output, StringComparison.Ordinal);
    }

    // Goal: a daemon that restarts in the middle of a move does not end the command that waits for the move.
    [Fact]
    public async Task A_restart_of_the_daemon_is_waited_out()
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        daemon.Script.Updates.Writer.TryWrite(Pending(MigrationPhase.Switchover));
        using var child = Child.Godwit(daemon.SocketPath, "vm", "migrate", "web1", "--to", "b");
        // Of what the watch says, and not of the answer to the request: it has heard the daemon then.
        await Wait.UntilAsync(() => child.ErrorSoFar.Contains("switchover", StringComparison.Ordinal));

        await daemon.StopListeningAsync();
        await Wait.UntilAsync(() => daemon.Script.WatchesOver > 0);
        await Task.Delay(600, TestContext.Current.CancellationToken);
        daemon.Script.Updates.Writer.TryWrite(Ended(MigrationOutcome.Completed));
        await daemon.ListenAsync();
        var (exit, output, error) = await child.EndAsync();
        Assert.True(exit == 0, error);
        Assert.Contains("completed", output, StringComparison.Ordinal);
        Assert.True(daemon.Script.Heard.OfType<MigrationRequest>().Count() >= 2);
    }

    [Fact]
    public async Task Watching_as_json_prints_one_object_a_line()
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        Migration[] updates = [Pending(), Pending(MigrationPhase.Switchover), Ended(MigrationOutcome.Failed)];
        foreach (var update in updates)
        {
            daemon.Script.Updates.Writer.TryWrite(update);
        }

        using var child = Child.Godwit(daemon.SocketPath, "migration", "watch", "web1", "-o", "json");
        var (exit, output, error) = await child.EndAsync();
        Assert.Equal(1, exit);
        string[] lines = output.TrimEnd('\n').Split('\n');
        Assert.Equal(3, lines.Length);
        string?[] phases =
            [.. lines.Select(line => JsonDocument.Parse(line).RootElement.GetProperty("phase").GetString())];
        Assert.Equal(["copying", "switchover", "ended"], phases);
        Assert.StartsWith("error migration-failed: ", error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Cancelling_waits_for_the_end()
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        daemon.Script.OnCancel = () => Pending();
        daemon.Script.Updates.Writer.TryWrite(Pending());
        daemon.Script.Updates.Writer.TryWrite(Ended(MigrationOutcome.Cancelled));
        using var child = Child.Godwit(daemon.SocketPath, "migration", "cancel", "web1", "-o", "json");
        var (exit, output, error) = await child.EndAsync();
        Assert.Equal(("", 0), (error, exit));
        Assert.Equal("cancelled", JsonDocument.Parse(output).RootElement.GetProperty("outcome").GetString());
    }
}
