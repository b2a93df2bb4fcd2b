using System.Net.Sockets;
using System.Text.Json;
using Godwit.Api;
using Godwit.Api.V1;
using Grpc.Core;

namespace Godwit.Cli.Tests;

/// <summary>The executable against a daemon: what it asks for, what it prints, how it ends.</summary>
public class DaemonTests
{
    [Fact]
    public async Task No_daemon_names_the_socket_and_the_remedy()
    {
        using var child = Child.Godwit("/nonexistent/godwitd.sock", "vm", "list");
        var (exit, output, error) = await child.EndAsync();
        Assert.Equal((ExitCodes.Failed, ""), (exit, output));
        Assert.StartsWith(
            "error daemon-unreachable: no daemon answers at /nonexistent/godwitd.sock (there is no such socket).\n",
            error, StringComparison.Ordinal);
        Assert.Contains("systemctl status godwitd", error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_daemon_with_a_queue_at_its_door_is_asked_again()
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        string door = daemon.SocketPath + ".full";
        using var full = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        full.Bind(new UnixDomainSocketEndPoint(door));
        full.Listen(0);
        using var first = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        await first.ConnectAsync(new UnixDomainSocketEndPoint(door), TestContext.Current.CancellationToken);
        using var child = Child.Godwit(door, "vm", "list");
        await Task.Delay(TimeSpan.FromSeconds(1), TestContext.Current.CancellationToken);
        File.Move(daemon.SocketPath, door, overwrite: true);
        var (exit, _, error) = await child.EndAsync();
        Assert.Equal((0, ""), (exit, error));
    }

    [Fact]
    public async Task The_environment_names_the_socket_too()
    {
        using var child = new Child(Child.GodwitPath, ["vm", "list"], [("GODWIT_SOCKET", "/nonexistent/other.sock")]);
        Assert.Contains("/nonexistent/other.sock", (await child.EndAsync()).Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("guest-unknown", StatusCode.NotFound, ExitCodes.NotFound)]
    [InlineData("guest-state", StatusCode.FailedPrecondition, ExitCodes.Refused)]
    [InlineData("a-code-of-a-newer-daemon", StatusCode.FailedPrecondition, ExitCodes.Refused)]
    [InlineData("a-code-of-a-newer-daemon", StatusCode.Internal, ExitCodes.Failed)]
    public async Task A_daemons_error_keeps_its_code_message_and_remedy(string code, StatusCode status, int exitCode)
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        daemon.Script.Failure = Script.Refusal(status, code, "no guest 'web9' on this host.", "Try 'godwit vm list'.");
        using var child = Child.Godwit(daemon.SocketPath, "vm", "show", "web9");
        Assert.Equal(
            (exitCode, "", $"error {code}: no guest 'web9' on this host.\nTry 'godwit vm list'.\n"),
            await child.EndAsync());
    }

    // Goal: what a daemon passes on from a peer cannot steer the terminal.
    [Fact]
    public async Task A_daemons_error_reaches_the_terminal_without_control_characters()
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        daemon.Script.Failure = new RpcException(new Status(StatusCode.Unknown, "b says \e[2J\u009b2J\n  and more"));
        using var child = Child.Godwit(daemon.SocketPath, "host", "list");
        string error = (await child.EndAsync()).Error;
        Assert.Contains("b says  [2J 2J\n  and more\n", error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(StatusCode.Unimplemented, "daemon-version", ExitCodes.Refused)]
    [InlineData(StatusCode.PermissionDenied, "daemon-denied", ExitCodes.Authentication)]
    [InlineData(StatusCode.Unknown, "daemon-failed", ExitCodes.Failed)]
    public async Task An_error_without_a_code_gets_one(StatusCode status, string code, int exitCode)
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        daemon.Script.Failure = new RpcException(new Status(status, "what it said"));
        using var child = Child.Godwit(daemon.SocketPath, "host", "list");
        var (exit, output, error) = await child.EndAsync();
        Assert.Equal((exitCode, ""), (exit, output));
        Assert.StartsWith($"error {code}: ", error, StringComparison.Ordinal);
        Assert.Contains("what it said", error, StringComparison.Ordinal);
        Assert.NotNull(ErrorCatalog.Find(code));
    }

    [Fact]
    public async Task Creating_sends_the_whole_guest()
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        using var child = Child.Godwit(
            daemon.SocketPath, "vm", "create", "web1", "--disk", "/srv/a.qcow2", "--disk", "/srv/b,format=raw,readonly",
            "--kernel", "/boot/k", "--initrd", "/boot/i", "--append", "console=ttyS0", "--memory", "1.5GiB", "--cpus",
            "3", "--bridge", "br7", "--mac", "52:54:00:AB:CD:EF", "--ip", "10.0.0.21", "--ip", "FD00::21", "--machine",
            "pc-q35-10.0", "--cpu-model", "qemu64", "--video", "--private-memory", "--start", "-o", "name");
        Assert.Equal((0, "web1\n", ""), await child.EndAsync());
        Assert.Equal(
            new CreateGuestRequest
            {
                Start = true,
                Spec = new GuestSpec
                {
                    Name = "web1", MemoryBytes = 3ul << 29, Cpus = 3, Machine = "pc-q35-10.0", CpuModel = "qemu64",
                    KernelPath = "/boot/k", InitramfsPath = "/boot/i", KernelCommandLine = "console=ttyS0",
                    Video = true, MemoryBacking = MemoryBacking.Private,
                    Disks =
                    {
                        new Disk { Path = "/srv/a.qcow2", Format = "qcow2" },
                        new Disk { Path = "/srv/b", Format = "raw", ReadOnly = true },
                    },
                    Interfaces =
                    {
                        new NetworkInterface
                        {
                            Bridge = "br7", Mac = "52:54:00:ab:cd:ef", Addresses = { "10.0.0.21", "fd00::21" },
                        },
                    },
                },
            },
            daemon.Script.Heard.Single());
    }

    [Fact]
    public async Task Paths_are_made_absolute_and_defaults_filled_in()
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        using var child = Child.Godwit(daemon.SocketPath, "vm", "create", "web1", "--disk", "a.img");
        Assert.Equal(0, (await child.EndAsync()).Code);
        var spec = ((CreateGuestRequest)daemon.Script.Heard.Single()).Spec;
        Assert.Equal(Path.GetFullPath("a.img"), spec.Disks[0].Path);
        Assert.Equal((512ul << 20, 1u, "br0"), (spec.MemoryBytes, spec.Cpus, spec.Interfaces[0].Bridge));
    }

    [Theory]
    [InlineData("vm start web1", "web1 started; it is running on a\n")]
    [InlineData("vm stop web1 --timeout 90s", "web1 stopped; it is stopped on a\n")]
    [InlineData("vm rm web1", "web1 removed\n")]
    [InlineData("vm list -o name", "db1\nweb1\n")]
    [InlineData("host list -o name", "a\nb\n")]
    [InlineData("host invite b -q", "gw1.secret\n")]
    [InlineData("host join gw1.secret", "b joined the cluster as b.example:7443\n")]
    public async Task Verbs_answer_on_standard_output_alone(string line, string answer)
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        using var child = Child.Godwit(daemon.SocketPath, line.Split(' '));
        Assert.Equal((0, answer, ""), await child.EndAsync());
        if (daemon.Script.Heard.TryPeek(out object? heard) && heard is StopGuestRequest stop)
        {
            Assert.Equal(90u, stop.TimeoutSeconds);
        }
    }

    [Fact]
    public async Task A_token_can_come_from_standard_input()
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        using var child = Child.Godwit(daemon.SocketPath, "host", "join", "-");
        await child.Input.WriteLineAsync("gw1.piped");
        child.Input.Close();
        Assert.Equal(0, (await child.EndAsync()).Code);
        Assert.Equal("gw1.piped", daemon.Script.Heard.OfType<JoinClusterRequest>().Single().Token);
    }

    // Goal: whoever removes a host is told who still trusts it, and a script is not disturbed by that.
    [Fact]
    public async Task Removing_a_host_names_the_members_that_were_not_reached()
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        using var child = Child.Godwit(daemon.SocketPath, "host", "remove", "b");
        var (exit, output, error) = await child.EndAsync();
        Assert.Equal((0, "b removed; its certificates are refused from now on\n"), (exit, output));
        Assert.Contains("c was not reached: it trusts b until", error, StringComparison.Ordinal);
        Assert.Equal(new HostRequest { Name = "b" }, daemon.Script.Heard.Single());
        using var quiet = Child.Godwit(daemon.SocketPath, "host", "remove", "b", "-o", "json", "-q");
        (exit, output, error) = await quiet.EndAsync();
        Assert.Equal((0, ""), (exit, error));
        Assert.Equal("c", JsonDocument.Parse(output).RootElement.GetProperty("notTold")[0].GetString());
    }

    [Fact]
    public async Task Doctor_ends_with_1_if_anything_is_wrong_and_finds_a_missing_daemon()
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        using var found = Child.Godwit(daemon.SocketPath, "doctor");
        var (exit, output, _) = await found.EndAsync();
        Assert.Equal(1, exit);
        Assert.Contains("4 checks, 1 error, 1 warning", output, StringComparison.Ordinal);
        using var alone = Child.Godwit("/nonexistent/godwitd.sock", "doctor", "-o", "json");
        (exit, output, _) = await alone.EndAsync();
        Assert.Equal(1, exit);
        Assert.Equal(
            "daemon-unreachable", JsonDocument.Parse(output).RootElement[0].GetProperty("code").GetString());
        using var table = Child.Godwit("/nonexistent/godwitd.sock", "doctor");
        Assert.EndsWith("1 check, 1 error, 0 warnings\n", (await table.EndAsync()).Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Version_answers_with_and_without_a_daemon()
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        using var with = Child.Godwit(daemon.SocketPath, "version", "-o", "json");
        var answer = JsonDocument.Parse((await with.EndAsync()).Output).RootElement;
        Assert.Equal("10.0.2", answer.GetProperty("daemon").GetProperty("qemuVersion").GetString());
        using var without = Child.Godwit("/nonexistent/godwitd.sock", "version");
        var (exit, output, _) = await without.EndAsync();
        Assert.Equal(0, exit);
        Assert.Contains("not reached", output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task The_lab_gets_its_arguments_as_they_are_and_its_exit_code_is_ours()
    {
        string lab = Path.Combine(Directory.CreateTempSubdirectory("godwit-lab-").FullName, "godwit-lab");
        await File.WriteAllTextAsync(
            lab, "#!/bin/sh\nprintf '%s|' \"$@\"\nexit 42\n", TestContext.Current.CancellationToken);
        File.SetUnixFileMode(lab, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        using var child = new Child(
            Child.GodwitPath, ["lab", "run", "demo", "-o", "json", "--help"],
            [("GODWIT_BIN", Path.GetDirectoryName(lab)!)]);
        Assert.Equal((42, "run|demo|-o|json|--help|", ""), await child.EndAsync());
        Directory.Delete(Path.GetDirectoryName(lab)!, recursive: true);
        using var missing = new Child(Child.GodwitPath, ["lab", "up"], [("GODWIT_BIN", Path.GetDirectoryName(lab)!)]);
        var (exit, _, error) = await missing.EndAsync();
        Assert.Equal(1, exit);
        Assert.StartsWith($"error lab-missing: the program godwit-lab is not installed; looked at {lab}", error,
            StringComparison.Ordinal);
    }

    // Goal: every key reaches the guest, Ctrl-C included; Ctrl-] detaches; the terminal is then as it was.
    [Fact]
    public async Task The_console_is_raw_and_gives_the_terminal_back()
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        using var child = Pty.Run(
            $"stty -a; {Child.GodwitPath} --socket {daemon.SocketPath} vm console web1; echo code=$?; stty -a");
        // It says so as soon as the terminal is raw: a Ctrl-C before that would end it.
        await Wait.UntilAsync(() => child.OutputSoFar.Contains("Ctrl-] detaches", StringComparison.Ordinal)
            && child.OutputSoFar.Contains("login: ", StringComparison.Ordinal));
        await child.Input.WriteAsync("ls\r\x03\x04");
        await child.Input.FlushAsync(TestContext.Current.CancellationToken);
        await Wait.UntilAsync(() => daemon.Script.Keys.Count >= 5);

        await child.Input.WriteAsync('\x1d');
        await child.Input.FlushAsync(TestContext.Current.CancellationToken);
        string output = (await child.EndAsync()).Output.Replace("\r", "", StringComparison.Ordinal);
        Assert.Equal("ls\r\x03\x04"u8.ToArray(), daemon.Script.Keys);
        Assert.Contains("login: ", output, StringComparison.Ordinal);
        Assert.Contains("detached from web1", output, StringComparison.Ordinal);
        Assert.Contains("code=0", output, StringComparison.Ordinal);
        string[] settings = [.. output.Split('\n').Where(line => line.Contains("isig", StringComparison.Ordinal))];
        Assert.Equal(2, settings.Length);
        Assert.Equal(settings[0], settings[1]);
    }

    [Fact]
    public async Task What_is_piped_into_a_console_arrives()
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        using var child = Child.Godwit(daemon.SocketPath, "vm", "console", "web1");
        await child.Input.WriteAsync("poweroff\n");
        child.Input.Close();
        Assert.Equal((0, "login: ", ""), await child.EndAsync());
        Assert.Equal("poweroff\n"u8.ToArray(), daemon.Script.Keys);
    }
}
