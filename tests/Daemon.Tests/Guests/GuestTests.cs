using Godwit.Api.V1;
using Grpc.Core;
using static Godwit.Daemon.Tests.Refusals;

namespace Godwit.Daemon.Tests.Guests;

/// <summary>Real guests under a real godwitd: their life, and what is said when their QEMU fails.</summary>
public sealed class GuestTests : IAsyncLifetime
{
    private readonly string _directory = Directory.CreateTempSubdirectory("gw-guest-").FullName;
    private readonly CountingGuest _guest = new("counting");
    private DaemonProcess _daemon = null!;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync() =>
        _daemon = await DaemonProcess.StartAsync(TestHost.SettingsFor("a", _directory), _directory);

    public async ValueTask DisposeAsync()
    {
        await _daemon.DisposeAsync();
        Processes.KillGuests(_directory);
        _guest.Dispose();
        Directory.Delete(_directory, recursive: true);
    }

    private async Task<Guest> ShowAsync() =>
        await _daemon.Control.GetGuestAsync(new GuestRequest { Name = _guest.Name }, cancellationToken: Token);

    private async Task<Guest> StartAsync() =>
        await _daemon.Control.StartGuestAsync(new StartGuestRequest { Name = _guest.Name }, cancellationToken: Token);

    private async Task<Guest> StopAsync(bool force) => await _daemon.Control.StopGuestAsync(
        new StopGuestRequest { Name = _guest.Name, Force = force, TimeoutSeconds = 1 }, cancellationToken: Token);

    private async Task<Guest> CreateAsync(GuestSpec spec) => await _daemon.Control.CreateGuestAsync(
        new CreateGuestRequest { Spec = spec }, cancellationToken: Token);

    private async Task RemoveAsync() =>
        await _daemon.Control.RemoveGuestAsync(new GuestRequest { Name = _guest.Name }, cancellationToken: Token);

    private async Task RestartDaemonAsync(DaemonSettings? settings = null)
    {
        await _daemon.DisposeAsync();
        _daemon = await DaemonProcess.StartAsync(settings ?? _daemon.Settings, _directory);
    }

    [Fact]
    public async Task A_guest_is_created_started_stopped_and_removed()
    {
        var created = await CreateAsync(_guest.Spec());
        Assert.Equal((GuestState.Stopped, 0, "a"), (created.State, created.ProcessId, created.Host));
        Assert.Matches(@"^pc-q35-\d+\.\d+$", created.Spec.Machine);

        var started = await StartAsync();
        Assert.Equal(GuestState.Running, started.State);
        Assert.True(Processes.Runs(started.ProcessId));
        await CountingGuest.CountsOnAsync(_daemon, started);
        await RefusedAsync("guest-state", StartAsync);
        await RefusedAsync("guest-state", RemoveAsync);

        // It knows no power button: asked in vain, it runs on.
        Assert.Contains("within 1 s; it runs on",
            await RefusedAsync("guest-stop-timeout", () => StopAsync(force: false)), StringComparison.Ordinal);
        await CountingGuest.CountsOnAsync(_daemon, started);

        Assert.Equal(GuestState.Stopped, (await StopAsync(force: true)).State);
        Assert.False(Processes.Runs(started.ProcessId));
        CountingGuest.IsUnbroken(CountingGuest.Console(_daemon, started));
        await RemoveAsync();
        Assert.Contains(_guest.Name, await RefusedAsync("guest-unknown", ShowAsync), StringComparison.Ordinal);
        Assert.True(File.Exists(_guest.Disk));
        Assert.Equal("", CountingGuest.Console(_daemon, started));
    }

    [Fact]
    public async Task A_console_serves_one_session_at_a_time()
    {
        await _guest.BootAsync(_daemon);
        using (var first = _daemon.Control.AttachConsole(cancellationToken: Token))
        {
            await first.RequestStream.WriteAsync(new ConsoleInput { Name = _guest.Name }, Token);
            Assert.True(await first.ResponseStream.MoveNext(Token));
            Assert.Contains("another session", await RefusedAsync("console-unavailable", AttachAsync),
                StringComparison.Ordinal);
        }

        await Wait.UntilAsync(async () =>
        {
            try
            {
                return await AttachAsync();
            }
            catch (RpcException exception) when (exception.StatusCode == StatusCode.Aborted)
            {
                return false;
            }
        }, "the console is free again");

        async Task<bool> AttachAsync()
        {
            // QEMU would leave a second session waiting: the deadline makes that a failure.
            using var call = _daemon.Control.AttachConsole(
                deadline: DateTime.UtcNow.AddSeconds(30), cancellationToken: Token);
            await call.RequestStream.WriteAsync(new ConsoleInput { Name = _guest.Name }, Token);
            return await call.ResponseStream.MoveNext(Token);
        }
    }

    [Theory]
    [InlineData(Processes.Terminate)]
    [InlineData(Processes.Killed)]
    public async Task A_daemon_that_comes_back_finds_its_running_guest(int signal)
    {
        var guest = await _guest.BootAsync(_daemon);
        Assert.Equal(signal == Processes.Terminate ? 0 : 128 + signal, await _daemon.EndAsync(signal));
        await RestartDaemonAsync();
        var found = await ShowAsync();
        Assert.Equal((GuestState.Running, guest.ProcessId, ""), (found.State, found.ProcessId, found.Detail));
        await CountingGuest.CountsOnAsync(_daemon, guest);
        // It is held as firmly as one that this daemon started.
        await StopAsync(force: true);
        Assert.False(Processes.Runs(guest.ProcessId));
        CountingGuest.IsUnbroken(CountingGuest.Console(_daemon, guest));
    }

    [Fact]
    public async Task A_killed_QEMU_shows_as_failed_and_can_be_started_again()
    {
        var guest = await _guest.BootAsync(_daemon);
        Processes.Signal(guest.ProcessId, Processes.Killed);
        await Wait.UntilAsync(async () => (await ShowAsync()).State == GuestState.Failed, "the guest is failed");
        var failed = await ShowAsync();
        Assert.Contains($"process {guest.ProcessId}) ended by itself", failed.Detail, StringComparison.Ordinal);
        Assert.Contains("qemu.log", failed.Detail, StringComparison.Ordinal);
        Assert.Equal(0, failed.ProcessId);
        await _daemon.SaysAsync("Guest counting is lost");

        var again = await StartAsync();
        Assert.Equal((GuestState.Running, ""), (again.State, again.Detail));
    }

    [Fact]
    public async Task A_QEMU_that_ended_while_the_daemon_was_away_shows_as_failed()
    {
        var guest = await _guest.BootAsync(_daemon);
        await _daemon.EndAsync(Processes.Killed);
        Processes.Signal(guest.ProcessId, Processes.Killed);
        await Wait.UntilAsync(() => !Processes.Runs(guest.ProcessId), "QEMU is gone");
        await RestartDaemonAsync();
        var failed = await ShowAsync();
        Assert.Equal((GuestState.Failed, 0), (failed.State, failed.ProcessId));
        Assert.Contains("ended while godwitd was not running", failed.Detail, StringComparison.Ordinal);
    }

    // Goal: what QEMU says reaches the operator, and nothing is left running.
    // Method: a qcow2 image of a version that no QEMU knows passes every check before the start.
    [Fact]
    public async Task A_QEMU_that_does_not_start_is_quoted_and_leaves_nothing()
    {
        var image = Path.Combine(_guest.Folder, "disk.qcow2");
        await File.WriteAllBytesAsync(image, [.. "QFI"u8, 0xfb, 0, 0, 0, 99, .. new byte[4096]], Token);
        var spec = _guest.Spec();
        spec.Disks[0] = new Disk { Path = image, Format = "qcow2" };
        var created = await CreateAsync(spec);
        var message = await RefusedAsync("qemu-start", StartAsync);
        Assert.Contains("Unsupported qcow2 version 99", message, StringComparison.OrdinalIgnoreCase);
        Assert.Equal((GuestState.Stopped, 0), ((await ShowAsync()).State, (await ShowAsync()).ProcessId));
        var runtime = Path.Combine(_daemon.Settings.RuntimeDirectory, "guests", created.Spec.Uuid);
        Assert.Empty(Directory.EnumerateFiles(runtime, "*.sock"));
        Assert.Empty(Directory.EnumerateFiles(runtime, "*.pid"));
    }

    [Fact]
    public async Task A_host_without_QEMU_serves_and_says_what_to_install()
    {
        await _daemon.EndAsync(Processes.Terminate);
        await RestartDaemonAsync(_daemon.Settings with { Qemu = "/nowhere/qemu" });
        await _daemon.SaysAsync("/nowhere/qemu");
        Assert.Contains("/nowhere/qemu", await RefusedAsync("qemu-missing", () => CreateAsync(_guest.Spec())),
            StringComparison.Ordinal);
        var found = await _daemon.Control.DiagnoseAsync(new DiagnoseRequest(), cancellationToken: Token);
        Assert.Contains(found.Findings, finding => finding.Code == "qemu-missing");
        Assert.DoesNotContain(found.Findings, finding => finding.Subject == "kvm");
    }

    [Fact]
    public async Task What_could_not_move_later_is_refused_with_every_reason_at_once()
    {
        var spec = _guest.Spec();
        spec.CpuModel = "host";
        spec.Disks[0].Path = "/nowhere/disk.raw";
        spec.Interfaces.Add(new NetworkInterface { Bridge = "nobr" });
        var message = await RefusedAsync("contract-invalid", () => CreateAsync(spec));
        foreach (var code in new[] { "cpu-not-movable", "disk-missing", "bridge-unknown" })
        {
            Assert.Contains($"\n  {code}: ", message, StringComparison.Ordinal);
        }

        await RefusedAsync("guest-unknown", ShowAsync);
    }
}
