using Godwit.Api.V1;
using Godwit.Daemon.Tests.Guests;

namespace Godwit.Daemon.Tests.Moves;

// Inside the namespace, where it wins over the namespace Godwit.Migration.
using Migration = Godwit.Api.V1.Migration;

/// <summary>What becomes of a guest whose commit is on the source's disk and on its way to the destination.</summary>
/// <remarks>
/// Two relays between the hosts keep what the source sends once it has recorded the commit, and what the destination
/// sends once it has recorded its arrival: there is time to strike. Afterwards the guest runs on exactly one host, and
/// its count on both consoles together has no gap: neither copy ran what the other one had run.
/// </remarks>
public sealed class HandOverTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task A_source_daemon_that_dies_after_the_commit_lets_the_guest_go()
    {
        await using var committed = await Committed.StartAsync();
        var pair = committed.Pair;
        await committed.SentAsync();
        await pair.A.EndAsync(Processes.Killed);
        committed.Deliver();
        // Its QEMU must not take the end of its stream for a reason to go on.
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        committed.Thaw();
        await pair.RestartAAsync();
        await committed.EndsOnAsync("b");
        var ended = await MovePair.SettledAsync(pair.A, committed.Move);
        Assert.Equal((MigrationOutcome.Completed, "b"), (ended.Outcome, ended.GuestRunsOn));
        await pair.MoveAsync(pair.B, "a");
    }

    // Seen in the fault matrix: the question overtook the commit, was answered by giving up, and nobody had the guest.
    [Fact]
    public async Task A_source_QEMU_that_dies_behind_the_commit_does_not_take_the_guest_along()
    {
        await using var committed = await Committed.StartAsync();
        var pair = committed.Pair;
        await committed.SentAsync();
        Processes.Signal(pair.Guest.ProcessId, Processes.Killed);
        await Wait.UntilAsync(() => !Processes.Runs(pair.Guest.ProcessId), "the source's QEMU is gone");
        await committed.AskAsync();
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        committed.Thaw();
        await committed.EndsOnAsync("b");
        var ended = await MovePair.SettledAsync(pair.A, committed.Move);
        Assert.Equal((MigrationOutcome.Completed, "b"), (ended.Outcome, ended.GuestRunsOn));
        await pair.MoveAsync(pair.B, "a");
    }

    [Fact]
    public async Task A_destination_daemon_that_dies_before_the_commit_arrives_gives_the_guest_back()
    {
        await using var committed = await Committed.StartAsync();
        var pair = committed.Pair;
        await committed.SentAsync();
        await pair.B.EndAsync(Processes.Killed);
        committed.Thaw();
        await pair.RestartBAsync();
        var ended = await MovePair.SettledAsync(pair.A, committed.Move);
        Assert.Equal((MigrationOutcome.Failed, "handover-refused", "a"),
            (ended.Outcome, ended.ErrorCode, ended.GuestRunsOn));
        await committed.EndsOnAsync("a");
        await pair.MoveAsync(pair.A, "b");
    }

    [Fact]
    public async Task Both_daemons_may_die_with_the_commit_on_its_way()
    {
        await using var committed = await Committed.StartAsync();
        var pair = committed.Pair;
        committed.Freeze();
        await pair.A.EndAsync(Processes.Killed);
        await pair.B.EndAsync(Processes.Killed);
        await pair.RestartBAsync();
        committed.Thaw();
        await pair.RestartAAsync();
        await committed.EndsOnAsync("a");
        var ended = await MovePair.SettledAsync(pair.A, committed.Move);
        Assert.Equal((MigrationOutcome.Failed, "handover-refused", "a"),
            (ended.Outcome, ended.ErrorCode, ended.GuestRunsOn));
    }

    [Fact]
    public async Task Both_daemons_may_die_when_the_guest_has_arrived()
    {
        await using var committed = await Committed.StartAsync();
        var pair = committed.Pair;
        await committed.ArrivesAsync();
        await pair.B.EndAsync(Processes.Killed);
        await pair.A.EndAsync(Processes.Killed);
        committed.Thaw();
        await pair.RestartAAsync();
        await pair.RestartBAsync();
        await committed.EndsOnAsync("b");
    }

    [Fact]
    public async Task A_guest_that_dies_on_arrival_is_the_destinations_to_start_again()
    {
        await using var committed = await Committed.StartAsync();
        var pair = committed.Pair;
        await committed.ArrivesAsync();
        var arrived = Processes.IdIn(pair.B.Settings.RuntimeDirectory);
        await pair.B.EndAsync(Processes.Killed);
        Processes.Signal(arrived, Processes.Killed);
        await Wait.UntilAsync(() => !Processes.Runs(arrived), "its QEMU is gone");
        committed.Thaw();
        await pair.RestartBAsync();
        var ended = await MovePair.SettledAsync(pair.A, committed.Move);
        Assert.Equal((MigrationOutcome.Failed, "guest-lost", ""),
            (ended.Outcome, ended.ErrorCode, ended.GuestRunsOn));
        await Wait.UntilAsync(
            async () => await pair.GuestAtAsync(pair.B) is { State: GuestState.Failed, Host: "b" },
            "b knows that it died there");
        await Wait.UntilAsync(
            async () => await pair.GuestAtAsync(pair.A) is { State: GuestState.Elsewhere, Host: "b" }, "a gave it up");
        Assert.False(Processes.Runs(pair.Guest.ProcessId));
        await StartAsync(pair.B);
        await Wait.UntilAsync(
            async () => await pair.GuestAtAsync(pair.B) is { State: GuestState.Running }, "it runs again");
    }

    // Goal: nothing is guessed when the destination does not answer; an operator decides, and what comes back is void.
    [Fact]
    public async Task A_destination_that_never_answers_is_overruled_by_an_operator()
    {
        await using var committed = await Committed.StartAsync();
        var pair = committed.Pair;
        committed.Freeze();
        Processes.Signal(pair.B.Id, Processes.Stopped);
        await Refusals.RefusedAsync("migration-settled", () => DecideAsync(pair, committed.Move.Id, "a"));
        var ended = await MovePair.EndAsync(pair.A, committed.Move);
        Assert.Equal((MigrationOutcome.Unsettled, "migration-unsettled", ""),
            (ended.Outcome, ended.ErrorCode, ended.GuestRunsOn));
        Assert.Contains($"godwit migration settle {committed.Move.Id}", ended.Error, StringComparison.Ordinal);
        Assert.Equal("paused", await committed.SourceStateAsync());
        await Refusals.RefusedAsync("host-unknown", () => DecideAsync(pair, committed.Move.Id, "c"));

        // A restart changes nothing about it.
        await pair.A.EndAsync(Processes.Killed);
        await pair.RestartAAsync();
        await Wait.UntilAsync(
            async () => (await MovePair.ReportAsync(pair.A, committed.Move.Id)).Outcome == MigrationOutcome.Unsettled,
            "it is unsettled again");

        var decided = await DecideAsync(pair, committed.Move.Id, "a", resumeCopy: true);
        Assert.Equal(("migration-overruled", "a"), (decided.ErrorCode, decided.GuestRunsOn));
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);

        Processes.Signal(pair.B.Id, Processes.Continued);
        committed.Thaw();
        await committed.EndsOnAsync("a");
        await pair.MoveAsync(pair.A, "b");
    }

    // The destination has run the guest, so its disks may be ahead of the copy's memory.
    [Fact]
    public async Task A_guest_that_an_operator_takes_back_is_started_anew()
    {
        await using var committed = await Committed.StartAsync();
        var pair = committed.Pair;
        await committed.ArrivesAsync();
        committed.Freeze();
        var arrived = Processes.IdIn(pair.B.Settings.RuntimeDirectory);
        await pair.B.EndAsync(Processes.Killed);
        Processes.Signal(arrived, Processes.Killed);
        await Wait.UntilAsync(() => !Processes.Runs(arrived), "its QEMU is gone");
        await Wait.UntilAsync(
            async () => (await MovePair.ReportAsync(pair.A, committed.Move.Id)).Outcome is not MigrationOutcome.Pending,
            "it is unsettled");
        Assert.Equal(
            MigrationOutcome.Unsettled, (await MovePair.ReportAsync(pair.A, committed.Move.Id)).Outcome);

        var decided = await DecideAsync(pair, committed.Move.Id, "a");
        Assert.Equal(("migration-overruled", "a"), (decided.ErrorCode, decided.GuestRunsOn));
        var guest = await pair.GuestAtAsync(pair.A);
        Assert.Equal(GuestState.Running, guest!.State);
        Assert.NotEqual(pair.Guest.ProcessId, guest.ProcessId);
        Assert.False(Processes.Runs(pair.Guest.ProcessId));

        // The fence is the next daemon's to bring.
        await pair.A.EndAsync(Processes.Killed);
        await pair.RestartAAsync();

        // Until a's fence comes through, b takes the guest that died there for its own; it asks before it starts it.
        await pair.RestartBAsync();
        Assert.Equal(GuestState.Failed, (await pair.GuestAtAsync(pair.B))!.State);
        await Refusals.RefusedAsync("guest-disputed", () => StartAsync(pair.B));

        committed.Thaw();
        await Wait.UntilAsync(
            async () => await pair.GuestAtAsync(pair.B) is { State: GuestState.Elsewhere, Host: "a" },
            "b knows that it is a's");
    }

    // The source is gone for good, and nobody can ask it any more.
    [Fact]
    public async Task A_guest_whose_source_is_gone_is_started_only_by_force()
    {
        await using var committed = await Committed.StartAsync();
        var pair = committed.Pair;
        await committed.ArrivesAsync();
        await pair.A.EndAsync(Processes.Killed);
        Processes.Signal(pair.Guest.ProcessId, Processes.Killed);
        var arrived = Processes.IdIn(pair.B.Settings.RuntimeDirectory);
        await pair.B.EndAsync(Processes.Killed);
        Processes.Signal(arrived, Processes.Killed);
        await Wait.UntilAsync(() => !Processes.Runs(arrived), "its QEMU is gone");
        await pair.RestartBAsync();
        await Refusals.RefusedAsync("guest-disputed", () => StartAsync(pair.B));
        Assert.Equal(GuestState.Running, (await StartAsync(pair.B, force: true)).State);
    }

    // An answer comes all the same, and says what has become of the guest.
    [Fact]
    public async Task A_guest_that_cannot_be_started_anew_is_said_to_run_nowhere()
    {
        await using var committed = await Committed.StartAsync();
        var pair = committed.Pair;
        committed.Freeze();
        Processes.Signal(pair.B.Id, Processes.Stopped);
        Assert.Equal(MigrationOutcome.Unsettled, (await MovePair.EndAsync(pair.A, committed.Move)).Outcome);
        File.Delete(pair.Program.Disk);
        var decided = await DecideAsync(pair, committed.Move.Id, "a");
        Assert.Equal((MigrationOutcome.Failed, "guest-lost", ""),
            (decided.Outcome, decided.ErrorCode, decided.GuestRunsOn));
        Processes.Signal(pair.B.Id, Processes.Continued);
    }

    private static async Task<Guest> StartAsync(DaemonProcess host, bool force = false) =>
        await host.Control.StartGuestAsync(
            new StartGuestRequest { Name = "counting", Force = force }, cancellationToken: Token);

    private static async Task<Migration> DecideAsync(
        MovePair pair, string id, string host, bool resumeCopy = false) =>
        await pair.A.Control.DecideMigrationAsync(
            new DecideMigrationRequest { Id = id, GuestRunsOn = host, ResumeCopy = resumeCopy },
            cancellationToken: Token);

    /// <summary>A move whose commit the source has recorded; the destination does not get it before it is delivered.
    /// </summary>
    private sealed class Committed : IAsyncDisposable
    {
        private Relay _peers = null!;
        private Relay _lanes = null!;

        public MovePair Pair { get; private init; } = null!;
        public Migration Move { get; private set; } = null!;

        public static async Task<Committed> StartAsync()
        {
            var committed = new Committed
            {
                Pair = await MovePair.StartAsync(b: settings => settings with { Address = "127.0.0.2" }),
            };
            try
            {
                committed.Hold();
                committed.Move = await committed.Pair.StartMoveAsync(
                    committed.Pair.A, "b", new MigrationPolicy { MaxDowntimeMs = 5_000 });
                await RecordedAsync(committed.Pair.A);
                return committed;
            }
            catch
            {
                await committed.DisposeAsync();
                throw;
            }
        }

        public void Freeze()
        {
            _peers.Freeze();
            _lanes.Freeze();
        }

        /// <summary>New cables, without a memory of the old ones: everything passes.</summary>
        public void Thaw()
        {
            _peers?.Dispose();
            _lanes?.Dispose();
            _peers = new Relay("127.0.0.2", Pair.B.Settings.PeerPort);
            _lanes = new Relay("127.0.0.2", Pair.B.Settings.LanePort);
        }

        // Also a question how the move has ended: the destination would take it for the commit.
        private void Hold()
        {
            bool Keeps() => HasRecorded(Pair.A);
            bool KeepsBack() => HasRecorded(Pair.B);
            _peers = new Relay("127.0.0.2", Pair.B.Settings.PeerPort, keeps: Keeps, keepsBack: KeepsBack);
            _lanes = new Relay("127.0.0.2", Pair.B.Settings.LanePort, keeps: Keeps, keepsBack: KeepsBack);
        }

        /// <summary>Waits until the commit has left the source's daemon, which may then die.</summary>
        public async Task SentAsync()
        {
            await Wait.UntilAsync(
                async () => (await MovePair.ReportAsync(Pair.A, Move.Id)).Phase >= MigrationPhase.Committed,
                "the source knows that it has recorded the commit");
            // All that it has to say comes in order: behind what was on its way before, the commit, and then this.
            var before = _lanes.Kept;
            await Wait.UntilAsync(() => _lanes.Kept >= before + 2 || _lanes.IsLeft, "the commit is on its way");
        }

        /// <summary>What is on its way to the destination comes there.</summary>
        public void Deliver() => _lanes.Release();

        /// <summary>The source's question comes there, and what it has sent on the lanes does not.</summary>
        public async Task AskAsync()
        {
            _peers.Release();
            await RecordedAsync(Pair.B);
        }

        /// <summary>The commit arrives and is recorded; the source hears nothing of it.</summary>
        public async Task ArrivesAsync()
        {
            Deliver();
            await RecordedAsync(Pair.B);
        }

        private static Task RecordedAsync(DaemonProcess host) =>
            Wait.UntilAsync(() => HasRecorded(host), $"{host.Settings.HostName} records");

        // The host's journal has its first record.
        private static bool HasRecorded(DaemonProcess host)
        {
            const int HeaderBytes = 24;
            return new FileInfo(host.Settings.HandOverJournal) is { Exists: true, Length: > HeaderBytes };
        }

        public async Task<string> SourceStateAsync()
        {
            var guest = await Pair.GuestAtAsync(Pair.A);
            Assert.Equal(Pair.Guest.ProcessId, guest!.ProcessId);
            var before = CountingGuest.Console(Pair.A, Pair.Guest);
            await Task.Delay(300, Token);
            return before == CountingGuest.Console(Pair.A, Pair.Guest) ? "paused" : "running";
        }

        /// <summary>The guest runs there and nowhere else, with an unbroken count.</summary>
        public async Task EndsOnAsync(string host)
        {
            var (here, there) = host == "a" ? (Pair.A, Pair.B) : (Pair.B, Pair.A);
            await Wait.UntilAsync(
                async () => await Pair.GuestAtAsync(here) is { State: GuestState.Running, MigrationId: "" } guest
                    && guest.Host == host,
                $"it runs on {host}");
            await CountingGuest.CountsOnAsync(here, Pair.Guest);
            await Wait.UntilAsync(
                async () => await Pair.GuestAtAsync(there) is null or { State: GuestState.Elsewhere },
                "the other host knows that it does not run there");
            Assert.DoesNotContain(Processes.IdsIn(there.Settings.RuntimeDirectory), Processes.Runs);
            CountingGuest.IsUnbroken(
                CountingGuest.Console(Pair.A, Pair.Guest) + CountingGuest.Console(Pair.B, Pair.Guest));
        }

        public async ValueTask DisposeAsync()
        {
            _peers?.Dispose();
            _lanes?.Dispose();
            await Pair.DisposeAsync();
        }
    }
}
