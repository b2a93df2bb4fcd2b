using System.Net;
using System.Net.Sockets;
using System.Text;
using System.Text.RegularExpressions;
using Godwit.Api;

namespace Godwit.Daemon.Tests;

/// <summary>godwitd as a process: how it starts, what keeps it from starting, how it ends.</summary>
public sealed class StartupTests : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("gw-start-").FullName;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    private string Folder(string name) => Directory.CreateDirectory(Path.Combine(_directory, name)).FullName;

    private DaemonSettings Settings(string name = "a") => TestHost.SettingsFor(name, Folder(name));

    private DaemonProcess Spawn(DaemonSettings settings, string? prepare = null,
        params IEnumerable<(string Name, string Value)> environment) =>
        DaemonProcess.Spawn(settings, Folder(settings.HostName), prepare, environment: environment);

    private Task<DaemonProcess> StartAsync(DaemonSettings settings,
        params IEnumerable<(string Name, string Value)> environment) =>
        DaemonProcess.StartAsync(settings, Folder(settings.HostName), environment: environment);

    [Theory]
    [InlineData("""{ "hostName": "a" """, "cannot be read")]
    [InlineData("""{ "hostNam": "a" }""", "unknown key 'hostNam'")]
    [InlineData("""{ "lanes": 17 }""", "'17'; it is a whole number from 1 to 16")]
    public async Task A_bad_configuration_is_named_by_file_key_and_limit(string json, string expected)
    {
        var file = Path.Combine(_directory, "godwitd.json");
        await File.WriteAllTextAsync(file, json, Token);
        await using var daemon = DaemonProcess.Spawn(Settings(), [DaemonProcess.Program, "--config", file]);
        var error = await daemon.RefusedAsync(ExitCodes.Usage, "config-invalid");
        Assert.Contains(file, error, StringComparison.Ordinal);
        Assert.Contains(expected, error, StringComparison.Ordinal);
        Assert.Empty(daemon.Output);
    }

    [Fact]
    public async Task A_bad_option_and_variable_are_named()
    {
        await using var option = DaemonProcess.Spawn(Settings(), [DaemonProcess.Program, "--colour", "red"]);
        Assert.Contains("--colour",
            await option.RefusedAsync(ExitCodes.Usage, "config-invalid"), StringComparison.Ordinal);
        await using var variable = Spawn(Settings(), environment: ("GODWIT_LOGLEVEL", "loud"));
        Assert.Contains("$GODWIT_LOGLEVEL sets logLevel to 'loud'",
            await variable.RefusedAsync(ExitCodes.Usage, "config-invalid"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_live_daemons_socket_is_left_alone_and_a_dead_ones_replaced()
    {
        await using var first = await StartAsync(Settings());
        var other = Settings("b") with { RuntimeDirectory = first.Settings.RuntimeDirectory };
        await using (var second = Spawn(other))
        {
            var error = await second.RefusedAsync(ExitCodes.Refused, "address-in-use");
            Assert.Contains(first.Settings.ControlSocket, error, StringComparison.Ordinal);
        }

        await first.AnswersAsync();
        Assert.Equal(128 + Processes.Killed, await first.EndAsync(Processes.Killed));
        Assert.True(File.Exists(first.Settings.ControlSocket));
        await using var third = await StartAsync(other);
        Assert.Equal(0, await third.EndAsync(Processes.Terminate));
        Assert.False(File.Exists(first.Settings.ControlSocket));
    }

    [Fact]
    public async Task Two_daemons_on_one_state_directory_are_refused()
    {
        await using var first = await StartAsync(Settings());
        await using var second = Spawn(
            Settings("b") with { StateDirectory = first.Settings.StateDirectory });
        Assert.Contains(first.Settings.StateDirectory,
            await second.RefusedAsync(ExitCodes.Refused, "state-in-use"), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(true, "peerPort")]
    [InlineData(false, "lanePort")]
    public async Task A_port_in_use_is_named_with_the_key_that_changes_it(bool isPeerPort, string key)
    {
        using var taken = new TcpListener(IPAddress.Loopback, 0);
        taken.Start();
        var port = ((IPEndPoint)taken.LocalEndpoint).Port;
        var settings = Settings();
        await using var daemon = Spawn(
            isPeerPort ? settings with { PeerPort = port } : settings with { LanePort = port });
        var error = await daemon.RefusedAsync(ExitCodes.Refused, "address-in-use");
        Assert.Contains($"127.0.0.1:{port}", error, StringComparison.Ordinal);
        Assert.Contains(key, error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task An_address_of_another_machine_is_not_listened_on()
    {
        // TEST-NET-1: no machine has it.
        await using var daemon = Spawn(Settings() with { Listen = "192.0.2.1" });
        Assert.Contains("192.0.2.1", await daemon.RefusedAsync(ExitCodes.Refused, "address-unavailable"),
            StringComparison.Ordinal);
    }

    // Goal: a disk on which nothing can be recorded stops the start, before a guest depends on it.
    // Method: the directory is a file system of its own: read-only, full at once, or full when the lock is there.
    [Theory]
    [InlineData("state", "-o ro,size=1m")]
    [InlineData("state", "-o size=16k")]
    [InlineData("state", "-o size=80k")]
    [InlineData("run", "-o ro,size=1m")]
    [InlineData("pki", "-o size=4k")]
    public async Task A_directory_that_takes_nothing_is_named(string name, string options)
    {
        var settings = Settings();
        var directory = Folder($"a/{name}");
        await using var daemon = Spawn(settings, $"mount -t tmpfs {options} none {directory}");
        var error = await daemon.RefusedAsync(ExitCodes.Refused, "state-unwritable");
        Assert.Contains(directory, error, StringComparison.Ordinal);
        Assert.Contains("df", error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_key_that_others_can_read_stops_the_start()
    {
        var settings = Settings();
        await using (var daemon = await StartAsync(settings))
        {
            Assert.Equal(0, await daemon.EndAsync(Processes.Terminate));
        }

        var key = Path.Combine(settings.PkiDirectory, "host.key");
        File.SetUnixFileMode(key, UnixFileMode.UserRead | UnixFileMode.OtherRead);
        await using var again = Spawn(settings);
        Assert.Contains($"chmod 600 {key}", await again.RefusedAsync(ExitCodes.Authentication, "key-mode"),
            StringComparison.Ordinal);
    }

    [Fact]
    public async Task It_tells_systemd_when_it_serves_and_when_it_stops()
    {
        var path = Path.Combine(_directory, "notify");
        using var systemd = new Socket(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified);
        systemd.Bind(new UnixDomainSocketEndPoint(path));
        await using var daemon = Spawn(Settings(), environment: ("NOTIFY_SOCKET", path));
        Assert.Equal("READY=1", await HearAsync(systemd));
        // Not a moment later: systemd starts at once what was waiting for it.
        using var client = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        await client.ConnectAsync(new UnixDomainSocketEndPoint(daemon.Settings.ControlSocket), Token);
        Processes.Signal(daemon.Id, Processes.Terminate);
        Assert.Equal("STOPPING=1", await HearAsync(systemd));
        Assert.Equal(0, await daemon.EndAsync());
    }

    private static async Task<string> HearAsync(Socket socket)
    {
        var buffer = new byte[256];
        var count = await socket.ReceiveAsync(buffer, Token).AsTask().WaitAsync(TimeSpan.FromSeconds(60), Token);
        return Encoding.UTF8.GetString(buffer, 0, count).Trim();
    }

    [Theory]
    [InlineData(Processes.Terminate)]
    [InlineData(Processes.Interrupt)]
    public async Task A_signal_ends_it_in_order_although_a_client_is_connected(int signal)
    {
        await using var daemon = await StartAsync(Settings());
        Assert.Equal(0, await daemon.EndAsync(signal));
        Assert.Contains("godwitd stops; 0 guests run on", daemon.Output, StringComparison.Ordinal);
        Assert.Empty(daemon.Errors);
    }

    // Goal: the journal gets a priority per line and no second time stamp; everybody else gets the time.
    // Method: the journal is a socket on standard output whose inode the environment names, as systemd does it.
    [Theory]
    [InlineData("0", true)]
    [InlineData("1", false)]
    public async Task The_journal_gets_its_own_format_and_nobody_else_does(string added, bool isJournal)
    {
        using var journal = new TcpListener(IPAddress.Loopback, 0);
        journal.Start();
        var port = ((IPEndPoint)journal.LocalEndpoint).Port;
        var settings = Settings();
        await File.WriteAllTextAsync(Path.Combine(Folder("a"), "godwitd.json"), settings.Describe(), Token);
        await using var daemon = DaemonProcess.Spawn(settings,
        [
            "bash", "-euc",
            $"""
            exec 1<>/dev/tcp/127.0.0.1/{port}
            stream=$(readlink /proc/$$/fd/1); inode=$(echo "$stream" | tr -cd 0-9)
            JOURNAL_STREAM=9:$((inode + {added})) exec "$@"
            """,
            "bash", DaemonProcess.Program, "--config", Folder("a"),
        ]);
        using var stream = await journal.AcceptTcpClientAsync(Token);
        using var reader = new StreamReader(stream.GetStream());
        await daemon.AnswersAsync();
        Assert.Equal(0, await daemon.EndAsync(Processes.Terminate));
        // On a machine that stood still for a second the framework warns of that, with the time in its text.
        var lines = (await reader.ReadToEndAsync(Token)).Split('\n', StringSplitOptions.RemoveEmptyEntries)
            .Where(line => !line.Contains("Microsoft.AspNetCore.", StringComparison.Ordinal)).ToList();
        Assert.Contains(lines, line => line.Contains("serves host a", StringComparison.Ordinal));
        Assert.All(lines, line => Assert.Matches(
            isJournal ? @"^<\d>Godwit\.\S+\[\d+\] " : @"^[\d:.]{12} info: ", line));
        Assert.All(lines, line => Assert.Equal(isJournal, !Regex.IsMatch(line, @"\d\d:\d\d:\d\d")));
    }
}
