using Godwit.Api.V1;
using Godwit.Daemon.Tests.Guests;
using Grpc.Core;

namespace Godwit.Daemon.Tests.Moves;

// Inside the namespace, where it wins over the namespace Godwit.Migration.
using Migration = Godwit.Api.V1.Migration;

/// <summary>Two real godwitd in one cluster over mutual TLS on loopback, and a guest that counts on host a.</summary>
internal sealed class MovePair : IAsyncDisposable
{
    /// <summary>
    /// A machine that stands still for a second in the middle of a pause must not turn the guest back: no test that
    /// moves one with this is about how long the pause is.
    /// </summary>
    public const uint PatientDowntimeMs = 5_000;

    private readonly string _directory = Directory.CreateTempSubdirectory("gw-move-").FullName;

    private MovePair()
    {
    }

    /// <summary>Each host is a network namespace of its own, at the end of a cable between the two.</summary>
    private bool IsCabled { get; init; }

    public DaemonProcess A { get; private set; } = null!;
    public DaemonProcess B { get; private set; } = null!;
    public CountingGuest Program { get; } = new("counting");

    /// <summary>As it was created.</summary>
    public Guest Guest { get; private set; } = null!;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    /// <param name="a">What is different about the source.</param>
    /// <param name="b">What is different about the destination.</param>
    /// <param name="prepareA">The same before the source's.</param>
    /// <param name="prepareB">Shell commands before the destination's daemon, in its own mount namespace.</param>
    /// <param name="spec">What is different about the guest.</param>
    /// <param name="isCabled">Each host is a network namespace of its own, at one end of a cable.</param>
    public static async Task<MovePair> StartAsync(
        Func<DaemonSettings, DaemonSettings>? a = null, Func<DaemonSettings, DaemonSettings>? b = null,
        Func<MovePair, string>? prepareA = null, Func<MovePair, string>? prepareB = null,
        Action<GuestSpec>? spec = null, bool isCabled = false)
    {
        var pair = new MovePair { IsCabled = isCabled };
        try
        {
            pair.B = pair.Spawn("b", b, prepareB);
            pair.A = pair.Spawn("a", a, prepareA);
            await Task.WhenAll(pair.A.AnswersAsync(), pair.B.AnswersAsync());
            var token = await pair.A.Control.CreateJoinTokenAsync(
                new CreateJoinTokenRequest { Host = "b" }, cancellationToken: Token);
            await pair.B.Control.JoinClusterAsync(
                new JoinClusterRequest { Token = token.Token }, cancellationToken: Token);
            pair.Guest = await pair.Program.BootAsync(pair.A, spec);
            return pair;
        }
        catch
        {
            await pair.DisposeAsync();
            throw;
        }
    }

    /// <summary>The directory of a host, in which everything of it lies.</summary>
    public string Folder(string host) => Directory.CreateDirectory(Path.Combine(_directory, host)).FullName;

    private DaemonProcess Spawn(
        string name, Func<DaemonSettings, DaemonSettings>? adjust, Func<MovePair, string>? prepare)
    {
        var settings = TestHost.SettingsFor(name, Folder(name));
        var commands = prepare?.Invoke(this);
        if (IsCabled)
        {
            settings = settings with { Address = Cable.AddressOf(name), Listen = Cable.AddressOf(name) };
            commands = $"{Cable.Plug(name, _directory, B?.Id)}\n{commands}";
        }

        return DaemonProcess.Spawn(adjust?.Invoke(settings) ?? settings, Folder(name), commands, IsCabled);
    }

    /// <summary>Starts host b's daemon again, after its end.</summary>
    public async Task RestartBAsync()
    {
        await B.DisposeAsync();
        B = await DaemonProcess.StartAsync(B.Settings, Folder("b"));
    }

    /// <summary>Starts host a's daemon again, after its end.</summary>
    public async Task RestartAAsync()
    {
        await A.DisposeAsync();
        A = await DaemonProcess.StartAsync(A.Settings, Folder("a"));
    }

    public async Task<Migration> StartMoveAsync(DaemonProcess from, string to, MigrationPolicy? policy = null) =>
        await from.Control.StartMigrationAsync(
            new StartMigrationRequest
            {
                Guest = Program.Name, To = to,
                Policy = policy ?? new MigrationPolicy { MaxDowntimeMs = PatientDowntimeMs },
            },
            cancellationToken: Token);

    public async Task<MigrationPlan> PlanAsync(string to) => await A.Control.PlanMigrationAsync(
        new StartMigrationRequest { Guest = Program.Name, To = to, Policy = new MigrationPolicy() },
        cancellationToken: Token);

    /// <summary>Waits until pages are on their way; the move must not end before.</summary>
    public static Task UntilCopyingAsync(DaemonProcess from, Migration move) =>
        Wait.UntilAsync(
            async () =>
            {
                var now = await ReportAsync(from, move.Id);
                Assert.True(now.Phase <= MigrationPhase.Copying, $"it went too fast: {now}");
                return now.Phase == MigrationPhase.Copying && now.WireBytes > 0;
            },
            "it copies");

    /// <summary>Follows the move to its end.</summary>
    public static async Task<Migration> EndAsync(DaemonProcess from, Migration move)
    {
        using var watch = from.Control.WatchMigration(new MigrationRequest { Id = move.Id }, cancellationToken: Token);
        var last = move;
        await foreach (var next in watch.ResponseStream.ReadAllAsync(Token))
        {
            Assert.True(next.Phase >= last.Phase, $"the phase went back from {last.Phase} to {next.Phase}");
            last = next;
        }

        Assert.Equal(MigrationPhase.Ended, last.Phase);
        return last;
    }

    /// <summary>Waits until the move has ended and it is known where the guest runs, however long that takes.</summary>
    public static async Task<Migration> SettledAsync(DaemonProcess from, Migration move)
    {
        await Wait.UntilAsync(
            async () =>
            {
                move = await ReportAsync(from, move.Id);
                return move.Phase == MigrationPhase.Ended && move.Outcome != MigrationOutcome.Unsettled;
            },
            "the move has ended");
        return move;
    }

    /// <summary>Moves the guest; it arrives.</summary>
    public async Task<Migration> MoveAsync(DaemonProcess from, string to)
    {
        var ended = await EndAsync(from, await StartMoveAsync(from, to));
        Assert.True(ended.Outcome == MigrationOutcome.Completed, $"{ended.ErrorCode}: {ended.Error}\n{from.Output}");
        return ended;
    }

    public static async Task<Migration> ReportAsync(DaemonProcess host, string id) =>
        await host.Control.GetMigrationAsync(new MigrationRequest { Id = id }, cancellationToken: Token);

    /// <summary>The guest as a host knows it; null if it does not.</summary>
    public async Task<Guest?> GuestAtAsync(DaemonProcess host) =>
        (await host.Control.ListGuestsAsync(new ListGuestsRequest(), cancellationToken: Token)).Guests
            .SingleOrDefault(guest => guest.Spec.Name == Program.Name);

    /// <summary>
    /// The guest runs on host a in the same QEMU as ever, has lost nothing, and host b has nothing of it.
    /// </summary>
    public async Task IsUntouchedAsync()
    {
        var guest = await GuestAtAsync(A);
        Assert.NotNull(guest);
        Assert.Equal((GuestState.Running, "a", Guest.ProcessId, ""),
            (guest.State, guest.Host, guest.ProcessId, guest.MigrationId));
        await CountingGuest.CountsOnAsync(A, Guest);
        CountingGuest.IsUnbroken(CountingGuest.Console(A, Guest));
        await Wait.UntilAsync(async () => await GuestAtAsync(B) is null, "host b has forgotten the guest");
        var folder = Path.Combine(B.Settings.RuntimeDirectory, "guests");
        Assert.Empty(Directory.Exists(folder) ? Directory.EnumerateFileSystemEntries(folder) : []);
    }

    /// <summary>The move is refused before anything begins; a dry run says the same, and no report is left.</summary>
    /// <returns>What is said.</returns>
    public async Task<string> RefusedAsync(string code)
    {
        var message = await Refusals.RefusedAsync(code, () => StartMoveAsync(A, "b"));
        var plan = await PlanAsync("b");
        Assert.False(plan.Possible);
        Assert.Contains(plan.Refusals, refusal => message.Contains(refusal.Message, StringComparison.Ordinal));
        Assert.All(plan.Refusals, refusal => Assert.NotEmpty(refusal.Remedy));
        Assert.All(plan.Refusals, refusal => Assert.NotNull(Api.ErrorCatalog.Find(refusal.Code)));
        Assert.Empty((await A.Control.ListMigrationsAsync(
            new ListMigrationsRequest(), cancellationToken: Token)).Migrations);
        await IsUntouchedAsync();
        return message;
    }

    public async ValueTask DisposeAsync()
    {
        foreach (var daemon in new[] { A, B })
        {
            if (daemon is not null)
            {
                await daemon.DisposeAsync();
            }
        }

        Processes.KillGuests(_directory);
        Program.Dispose();
        Directory.Delete(_directory, recursive: true);
    }
}
