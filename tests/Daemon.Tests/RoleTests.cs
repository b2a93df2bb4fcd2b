using System.Diagnostics;
using Godwit.Api.V1;
using Grpc.Core;
using static Godwit.Daemon.Tests.Refusals;

namespace Godwit.Daemon.Tests;

/// <summary>Operators act, viewers look, and hosts do neither at each other.</summary>
public sealed class RoleTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    // Goal: a viewer reaches everything that changes nothing and nothing else, whatever requests are added later.
    // Method: every method of the service by reflection, called over the viewers' socket with an empty request.
    [Fact]
    public async Task A_viewer_looks_at_everything_and_changes_nothing()
    {
        await using var a = await TestHost.StartAsync("a", settings => settings with { ViewerGroup = "root" });
        using var channel = TestHost.OpenSocket(a.Settings.ViewerSocket);
        string[] looking =
        [
            "GetVersion", "GetGuest", "ListGuests", "PlanMigration", "ListPolicies", "ListMigrations", "GetMigration",
            "WatchMigration",
            "ListHosts", "GetHost", "Diagnose", "ListInventory", "ListParcels", "ListStores", "PredictResume",
        ];
        var service = GodwitReflection.Descriptor.Services.Single(one => one.Name == "Control");
        Assert.Superset(looking.ToHashSet(), service.Methods.Select(method => method.Name).ToHashSet());
        foreach (var method in service.Methods)
        {
            var code = await CodeAsync(channel, method);
            Assert.True((code == "viewer-only") != looking.Contains(method.Name), $"{method.Name}: {code}");
        }

        await RefusedAsync("peer-remote-only", async () => await new Peer.PeerClient(channel).HelloAsync(
            new HelloRequest { Host = "a" }, cancellationToken: Token));
        Assert.Contains(a.Log, line => line.StartsWith("200 ", StringComparison.Ordinal)
            && line.Contains("CreateGuest", StringComparison.Ordinal)
            && line.Contains("viewer-only", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Without_a_group_for_them_there_is_no_socket_for_viewers()
    {
        await using var a = await TestHost.StartAsync("a");
        Assert.False(File.Exists(a.Settings.ViewerSocket));
    }

    // Goal: the files' modes keep apart who may act, who may look and who may do neither.
    // Method: the godwit command as a user that is in the viewers' group, and as one that is in none.
    [Fact]
    public async Task The_command_takes_the_door_that_is_open_to_its_user()
    {
        Assert.SkipUnless(Environment.IsPrivilegedProcess, "needs root to be another user");
        var group = File.ReadLines("/etc/group").Select(line => line.Split(':')).First(line => line[0] == "games");
        await using var a = await TestHost.StartAsync("a", settings => settings with { ViewerGroup = group[0] });
        // The test's own directory is its owner's; the daemon's is for the daemon to open.
        File.SetUnixFileMode(a.DirectoryPath, File.GetUnixFileMode(a.DirectoryPath) | UnixFileMode.OtherExecute);
        var viewer = await RunAsync(a, group[2], "host", "list", "-o", "name");
        Assert.Equal((0, "a"), (viewer.Status, viewer.Output.Trim()));
        var acting = await RunAsync(a, group[2], "host", "invite", "b");
        Assert.Equal(Godwit.Api.ErrorCatalog.Find("viewer-only")!.ExitCode, acting.Status);
        Assert.Contains("error viewer-only: ", acting.Output, StringComparison.Ordinal);
        var nobody = await RunAsync(a, "65534", "host", "list");
        Assert.Contains("error daemon-denied: ", nobody.Output, StringComparison.Ordinal);
        Assert.Equal(0, (await RunAsync(a, "0", "host", "invite", "b")).Status);
    }

    private static async Task<string> CodeAsync(
        Grpc.Net.Client.GrpcChannel channel, Google.Protobuf.Reflection.MethodDescriptor method)
    {
        var bytes = Marshallers.Create(value => value, value => value);
        var type = (method.IsClientStreaming, method.IsServerStreaming) switch
        {
            (true, _) => MethodType.DuplexStreaming,
            (_, true) => MethodType.ServerStreaming,
            _ => MethodType.Unary,
        };
        var call = new Method<byte[], byte[]>(type, method.Service.FullName, method.Name, bytes, bytes);
        var invoker = channel.CreateCallInvoker();
        var options = new CallOptions(deadline: DateTime.UtcNow.AddSeconds(60), cancellationToken: Token);
        try
        {
            switch (type)
            {
                case MethodType.Unary:
                    await invoker.AsyncUnaryCall(call, null, options, []);
                    break;
                case MethodType.ServerStreaming:
                    await invoker.AsyncServerStreamingCall(call, null, options, []).ResponseStream.MoveNext(Token);
                    break;
                default:
                    await invoker.AsyncDuplexStreamingCall(call, null, options).ResponseStream.MoveNext(Token);
                    break;
            }

            return "";
        }
        catch (RpcException exception)
        {
            return exception.Trailers.GetValue("godwit-code") ?? $"{exception.Status}";
        }
    }

    private static async Task<(int Status, string Output)> RunAsync(
        TestHost host, string group, params string[] command)
    {
        var program = Path.GetFullPath(Path.Combine(Path.GetDirectoryName(DaemonProcess.Program)!, "..", "..", "Cli",
            Path.GetFileName(Path.GetDirectoryName(DaemonProcess.Program))!, "godwit"));
        // Not where this program lies: another user may not come there.
        var copy = Path.Combine(host.DirectoryPath, "godwit");
        if (!File.Exists(copy))
        {
            // Not by this process: whatever another test starts meanwhile would have the file open for writing for a
            // moment, and what is written to cannot be run.
            using var copying = Process.Start("cp", ["-p", program, copy]);
            await copying.WaitForExitAsync(Token);
            Assert.Equal(0, copying.ExitCode);
        }

        string[] user = group == "0" ? [] : ["--reuid=65534", $"--regid={group}", "--clear-groups"];
        using var process = Process.Start(new ProcessStartInfo("setpriv",
            [.. user, copy, .. command, "--socket", host.Settings.ControlSocket])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        })!;
        var errors = process.StandardError.ReadToEndAsync(Token);
        var output = await process.StandardOutput.ReadToEndAsync(Token);
        await process.WaitForExitAsync(Token);
        return (process.ExitCode, output + await errors);
    }
}
