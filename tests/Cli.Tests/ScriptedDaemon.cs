using System.Collections.Concurrent;
using System.Threading.Channels;
using Godwit.Api.V1;
using Grpc.Core;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;

namespace Godwit.Cli.Tests;

/// <summary>A real gRPC server on a real Unix socket whose answers a test decides.</summary>
/// <remarks>What a daemon does is tested elsewhere; here it is how the command behaves towards one.</remarks>
internal sealed class ScriptedDaemon : IAsyncDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("godwit-cli-").FullName;
    private WebApplication? _server;

    public string SocketPath => Path.Combine(_folder, "d.sock");

    public Script Script { get; } = new();

    public static async Task<ScriptedDaemon> StartAsync()
    {
        var daemon = new ScriptedDaemon();
        await daemon.ListenAsync();
        return daemon;
    }

    public async Task ListenAsync()
    {
        var builder = WebApplication.CreateSlimBuilder();
        builder.Logging.ClearProviders();
        builder.WebHost.ConfigureKestrel(server => server.ListenUnixSocket(
            SocketPath, endpoint => endpoint.Protocols = HttpProtocols.Http2));
        builder.Services.AddGrpc();
        builder.Services.AddSingleton(Script);
        _server = builder.Build();
        _server.MapGrpcService<ScriptedControl>();
        await _server.StartAsync();
    }

    public async Task StopListeningAsync()
    {
        // A daemon that is killed does not wait for its streams.
        using var now = new CancellationTokenSource(TimeSpan.Zero);
        try
        {
            await _server!.StopAsync(now.Token);
        }
        catch (OperationCanceledException)
        {
        }

        await _server!.DisposeAsync();
        File.Delete(SocketPath);
        _server = null;
    }

    public async ValueTask DisposeAsync()
    {
        Script.Updates.Writer.TryComplete();
        if (_server is not null)
        {
            await StopListeningAsync();
        }

        Directory.Delete(_folder, recursive: true);
    }
}

/// <summary>What the scripted daemon says, and what it heard.</summary>
internal sealed class Script
{
    private int _watchesOver;

    public RpcException? Failure { get; set; }

    public Migration Started { get; set; } = Samples.Migration(MigrationOutcome.Pending, MigrationPhase.Copying);

    public MigrationPlan Plan { get; set; } = Samples.Plan();

    /// <summary>What a watch sends, in order, as the test provides it.</summary>
    public Channel<Migration> Updates { get; } = Channel.CreateUnbounded<Migration>();

    /// <summary>What happens on a cancel request.</summary>
    public Func<Migration>? OnCancel { get; set; }

    public ConcurrentQueue<object> Heard { get; } = new();

    public TaskCompletionSource Watched { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>Watches that have ended: an open one takes the next update, whoever is left to hear it.</summary>
    public int WatchesOver => Volatile.Read(ref _watchesOver);

    public ConcurrentQueue<byte> Keys { get; } = new();

    public void WatchIsOver() => Interlocked.Increment(ref _watchesOver);

    public T Answer<T>(object request, T answer)
    {
        Heard.Enqueue(request);
        return Failure is null ? answer : throw Failure;
    }

    public static RpcException Refusal(StatusCode status, string code, string message, string remedy) => new(
        new Status(status, message), new Metadata { { "godwit-code", code }, { "godwit-remedy", remedy } });
}

internal sealed class ScriptedControl(Script script) : Control.ControlBase
{
    public override Task<Api.V1.VersionInfo> GetVersion(GetVersionRequest request, ServerCallContext context) =>
        Task.FromResult(script.Answer(request, Samples.Host("a", self: true).Version));

    public override Task<Guest> CreateGuest(CreateGuestRequest request, ServerCallContext context) =>
        Task.FromResult(script.Answer(request, new Guest { Spec = request.Spec, Host = "a" }));

    public override Task<Guest> GetGuest(GuestRequest request, ServerCallContext context) =>
        Task.FromResult(script.Answer(request, Samples.Guest(request.Name)));

    public override Task<ListGuestsResponse> ListGuests(ListGuestsRequest request, ServerCallContext context) =>
        Task.FromResult(script.Answer(
            request, new ListGuestsResponse { Guests = { Samples.Guest("web1"), Samples.Guest("db1") } }));

    public override Task<ListHostsResponse> ListHosts(ListHostsRequest request, ServerCallContext context) =>
        Task.FromResult(script.Answer(
            request, new ListHostsResponse { Hosts = { Samples.Host("b", false), Samples.Host("a", true) } }));

    public override Task<Guest> StartGuest(StartGuestRequest request, ServerCallContext context) =>
        Task.FromResult(script.Answer(request, Samples.Guest(request.Name)));

    public override Task<Guest> StopGuest(StopGuestRequest request, ServerCallContext context) =>
        Task.FromResult(script.Answer(request, Samples.Guest(request.Name, GuestState.Stopped)));

    public override Task<Empty> RemoveGuest(GuestRequest request, ServerCallContext context) =>
        Task.FromResult(script.Answer(request, new Empty()));

    public override Task<JoinToken> CreateJoinToken(CreateJoinTokenRequest request, ServerCallContext context) =>
        Task.FromResult(script.Answer(request, new JoinToken { Token = "gw1.secret", ExpiresUnixMs = 1_800_000 }));

    public override Task<HostInfo> JoinCluster(JoinClusterRequest request, ServerCallContext context) =>
        Task.FromResult(script.Answer(request, Samples.Host("b", self: true)));

    public override Task<RemoveHostResponse> RemoveHost(HostRequest request, ServerCallContext context) =>
        Task.FromResult(script.Answer(request, new RemoveHostResponse { NotTold = { "c" } }));

    public override Task<DiagnoseResponse> Diagnose(DiagnoseRequest request, ServerCallContext context) =>
        Task.FromResult(script.Answer(request, new DiagnoseResponse { Findings = { Samples.Findings } }));

    public override Task<Migration> StartMigration(StartMigrationRequest request, ServerCallContext context) =>
        Task.FromResult(script.Answer(request, script.Started));

    public override Task<MigrationPlan> PlanMigration(StartMigrationRequest request, ServerCallContext context) =>
        Task.FromResult(script.Answer(request, script.Plan));

    public override Task<Migration> GetMigration(MigrationRequest request, ServerCallContext context) =>
        Task.FromResult(script.Answer(request, Samples.Migration()));

    public override Task<Migration> CancelMigration(MigrationRequest request, ServerCallContext context) =>
        Task.FromResult(script.Answer(request, script.OnCancel!()));

    public override async Task WatchMigration(
        MigrationRequest request, IServerStreamWriter<Migration> stream, ServerCallContext context)
    {
        script.Answer(request, 0);
        script.Watched.TrySetResult();
        try
        {
            await foreach (var migration in script.Updates.Reader.ReadAllAsync(context.CancellationToken))
            {
                await stream.WriteAsync(migration, context.CancellationToken);
                if (migration.Phase == MigrationPhase.Ended)
                {
                    return;
                }
            }
        }
        finally
        {
            script.WatchIsOver();
        }
    }

    public override async Task AttachConsole(
        IAsyncStreamReader<ConsoleInput> input, IServerStreamWriter<ConsoleOutput> output, ServerCallContext context)
    {
        bool named = false;
        await foreach (var message in input.ReadAllAsync(context.CancellationToken))
        {
            script.Answer(message, 0);
            if (!named)
            {
                named = true;
                await output.WriteAsync(
                    new ConsoleOutput { Data = Google.Protobuf.ByteString.CopyFromUtf8("login: ") },
                    context.CancellationToken);
            }

            foreach (byte key in message.Data)
            {
                script.Keys.Enqueue(key);
            }
        }
    }
}
