using System.Collections.Concurrent;
using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using Godwit.Api.V1;
using Godwit.Host.Trust;
using Grpc.Core;
using Grpc.Net.Client;
using Microsoft.Extensions.Logging;

namespace Godwit.Daemon.Tests;

/// <summary>
/// A real daemon in this process, in a directory of its own, on loopback; everything it logs is kept.
/// </summary>
internal sealed class TestHost : IAsyncDisposable
{
    private static int _ports;
    private readonly List<GrpcChannel> _channels = [];
    private readonly LogRecorder _log = new();
    private readonly TimeProvider _clock;
    private GodwitDaemon? _daemon;

    private TestHost(string name, Func<DaemonSettings, DaemonSettings>? adjust, TimeProvider? clock)
    {
        _clock = clock ?? TimeProvider.System;
        DirectoryPath = Directory.CreateTempSubdirectory($"gw-{name}-").FullName;
        var settings = SettingsFor(name, DirectoryPath);
        Settings = adjust?.Invoke(settings) ?? settings;
        Control = new Control.ControlClient(Track(OpenSocket(Settings.ControlSocket)));
    }

    public DaemonSettings Settings { get; }
    public string DirectoryPath { get; }
    public Control.ControlClient Control { get; }
    public IEnumerable<string> Log => _log.Lines;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public static async Task<TestHost> StartAsync(
        string name, Func<DaemonSettings, DaemonSettings>? adjust = null, TimeProvider? clock = null)
    {
        var host = new TestHost(name, adjust, clock);
        try
        {
            await host.StartAsync();
            return host;
        }
        catch
        {
            await host.DisposeAsync();
            throw;
        }
    }

    public async Task StartAsync() => _daemon = await GodwitDaemon.StartAsync(
        Settings, _clock, logging => logging.AddProvider(_log));

    public async Task StopAsync()
    {
        if (_daemon is { } daemon)
        {
            _daemon = null;
            await daemon.DisposeAsync();
        }
    }

    /// <summary>A peer's client: TLS that takes any server, with the certificate given or none.</summary>
    public Peer.PeerClient PeerClient(SslClientAuthenticationOptions? tls = null) =>
        new(TlsChannel(tls));

    public GrpcChannel TlsChannel(SslClientAuthenticationOptions? tls = null)
    {
        tls ??= new SslClientAuthenticationOptions();
#pragma warning disable CA5359 // The tests look at what the server does with the client.
        tls.RemoteCertificateValidationCallback = (_, _, _, _) => true;
#pragma warning restore CA5359
        return Track(GrpcChannel.ForAddress($"https://{Settings.Listen}:{Settings.PeerPort}", new GrpcChannelOptions
        {
            HttpHandler = new SocketsHttpHandler { SslOptions = tls },
            DisposeHttpClient = true,
        }));
    }

    /// <summary>This host's own credentials, as it would use them towards a peer.</summary>
    public SslClientAuthenticationOptions Credentials() =>
        new ClusterTrust(Settings.PkiDirectory, HostIdentity.Load(Settings.PkiDirectory)!, _clock).ClientOptions("any");

    public async Task<string> TokenForAsync(string host = "", uint seconds = 60) => (await Control.CreateJoinTokenAsync(
        new CreateJoinTokenRequest { Host = host, ValidSeconds = seconds }, cancellationToken: Token)).Token;

    public async Task<HostInfo> JoinAsync(string token, string address = "") => await Control.JoinClusterAsync(
        new JoinClusterRequest { Token = token, Address = address }, cancellationToken: Token);

    /// <summary>Two hosts in one cluster.</summary>
    public static async Task<(TestHost A, TestHost B)> PairAsync(
        Func<DaemonSettings, DaemonSettings>? adjustSecond = null)
    {
        var a = await StartAsync("a");
        var b = await StartAsync("b", adjustSecond);
        await b.JoinAsync(await a.TokenForAsync());
        return (a, b);
    }

    /// <summary>A host on loopback that keeps everything in one directory.</summary>
    public static DaemonSettings SettingsFor(string name, string directory) => new()
    {
        HostName = name,
        Address = "127.0.0.1",
        Listen = "127.0.0.1",
        PeerPort = FreePort(),
        LanePort = FreePort(),
        PkiDirectory = Path.Combine(directory, "pki"),
        StateDirectory = Path.Combine(directory, "state"),
        RuntimeDirectory = Path.Combine(directory, "run"),
        Accelerator = "tcg",
        ReservationSeconds = 20,
    };

    /// <summary>A channel to a daemon's Unix socket, which need not be there yet.</summary>
    public static GrpcChannel OpenSocket(string path) => GrpcChannel.ForAddress("http://localhost", new()
    {
        HttpHandler = new SocketsHttpHandler
        {
            ConnectCallback = async (_, token) =>
            {
                var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                await ConnectAsync(socket, new UnixDomainSocketEndPoint(path), token);
                return new NetworkStream(socket, ownsSocket: true);
            },
        },
        DisposeHttpClient = true,
    });

    /// <summary>Connects. A Unix socket whose queue is full says so at once: it is asked again.</summary>
    public static async Task ConnectAsync(Socket socket, EndPoint door, CancellationToken token)
    {
        while (true)
        {
            try
            {
                await socket.ConnectAsync(door, token);
                return;
            }
            catch (SocketException exception) when (exception.SocketErrorCode == SocketError.WouldBlock)
            {
                await Task.Delay(1, token);
            }
        }
    }

    /// <summary>A port below those that the kernel gives to connections: one could take it before it is used.</summary>
    public static int FreePort()
    {
        const int First = 10_000;
        const int Count = 20_000;
        while (true)
        {
            // Other test programs begin elsewhere.
            var port = First + (((Environment.ProcessId * 200) + Interlocked.Increment(ref _ports)) % Count);
            using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
            try
            {
                socket.Bind(new IPEndPoint(IPAddress.Loopback, port));
                return port;
            }
            catch (SocketException)
            {
                // Taken: the next one.
            }
        }
    }

    private GrpcChannel Track(GrpcChannel channel)
    {
        _channels.Add(channel);
        return channel;
    }

    public async ValueTask DisposeAsync()
    {
        _channels.ForEach(channel => channel.Dispose());
        await StopAsync();
        Processes.KillGuests(DirectoryPath);
        Directory.Delete(DirectoryPath, recursive: true);
    }

    private sealed class LogRecorder : ILoggerProvider
    {
        public ConcurrentQueue<string> Lines { get; } = new();

        public ILogger CreateLogger(string categoryName) => new Recorder(Lines);

        public void Dispose()
        {
        }

        private sealed class Recorder(ConcurrentQueue<string> lines) : ILogger
        {
            public IDisposable? BeginScope<TState>(TState state) where TState : notnull => null;

            public bool IsEnabled(LogLevel logLevel) => true;

            public void Log<TState>(
                LogLevel logLevel, EventId eventId, TState state, Exception? exception,
                Func<TState, Exception?, string> formatter) =>
                lines.Enqueue(
                    $"{eventId.Id} {formatter(state, exception)}{(exception is null ? "" : $" {exception}")}");
        }
    }
}

internal static class Refusals
{
    /// <summary>The call is refused with this code, which the catalog knows, and a remedy.</summary>
    public static async Task<string> RefusedAsync(string code, Func<Task> call)
    {
        var exception = await Assert.ThrowsAsync<RpcException>(call);
        var given = exception.Trailers.GetValue("godwit-code");
        Assert.True(code == given,
            $"{given ?? "no code"} instead of {code}: {exception.Status} {exception.Status.DebugException}");
        Assert.NotNull(Godwit.Api.ErrorCatalog.Find(code));
        Assert.False(string.IsNullOrEmpty(exception.Trailers.GetValue("godwit-remedy")));
        return exception.Status.Detail;
    }
}

internal static class Wait
{
    /// <summary>Waits until it is so; a deadline far beyond any machine's slowness tells a hang from a delay.</summary>
    public static async Task UntilAsync(Func<Task<bool>> isSo, string what)
    {
        for (var attempt = 0; attempt < 2400; attempt++)
        {
            if (await isSo())
            {
                return;
            }

            await Task.Delay(50, TestContext.Current.CancellationToken);
        }

        Assert.Fail($"Never came true: {what}");
    }

    public static Task UntilAsync(Func<bool> isSo, string what) => UntilAsync(() => Task.FromResult(isSo()), what);
}

internal static partial class Processes
{
    public const int Interrupt = 2;
    public const int Killed = 9;
    public const int Terminate = 15;
    public const int Continued = 18;
    public const int Stopped = 19;

    public static void Signal(int id, int signal) => Assert.True(Send(id, signal) == 0, $"no process {id} to signal");

    /// <summary>False also for one that has ended and that nobody has buried yet.</summary>
    public static bool Runs(int id)
    {
        try
        {
            // The state is the first field behind the name, which stands in parentheses and may hold anything.
            return File.ReadAllText($"/proc/{id}/stat").Split(") ")[^1][0] is not ('Z' or 'X');
        }
        catch (IOException)
        {
            return false;
        }
    }

    /// <summary>Of the QEMUs in a daemon's runtime directory.</summary>
    public static List<int> IdsIn(string directory)
    {
        var ids = new List<int>();
        foreach (var file in Directory.GetFiles(directory, "qemu.pid", SearchOption.AllDirectories))
        {
            try
            {
                if (int.TryParse(File.ReadAllText(file), out var id))
                {
                    ids.Add(id);
                }
            }
            catch (IOException)
            {
                // A QEMU that ends takes its file with it.
            }
        }

        return ids;
    }

    /// <summary>The only one.</summary>
    public static int IdIn(string directory) => IdsIn(directory).Single();

    /// <summary>Guests outlive their daemon, but not the test.</summary>
    public static void KillGuests(string directory)
    {
        foreach (var id in IdsIn(directory))
        {
            Kill(id, directory);
        }
    }

    [System.Runtime.InteropServices.LibraryImport("libc", EntryPoint = "kill")]
    private static partial int Send(int id, int signal);

    /// <summary>Kills a process if its command line names the directory: a number may have changed hands.</summary>
    public static void Kill(int id, string directory)
    {
        try
        {
            if (File.ReadAllText($"/proc/{id}/cmdline").Contains(directory, StringComparison.Ordinal))
            {
                using var process = System.Diagnostics.Process.GetProcessById(id);
                process.Kill();
                process.WaitForExit(10_000);
            }
        }
        catch (Exception exception) when (exception is IOException or ArgumentException or InvalidOperationException)
        {
            // It has ended.
        }
    }
}
