using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using Godwit.Daemon.Cluster;
using Godwit.Daemon.Guests;
using Godwit.Daemon.Inventories;
using Godwit.Daemon.Moves;
using Godwit.Daemon.Parcels;
using Godwit.Daemon.Services;
using Godwit.Host.Registry;
using Godwit.Host.Transfers;
using Godwit.Host.Trust;
using Godwit.Migration;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.AspNetCore.Server.Kestrel.Https;
using Microsoft.AspNetCore.Server.Kestrel.Transport.Sockets;
using Microsoft.Extensions.Hosting.Systemd;

namespace Godwit.Daemon;

/// <summary>One running godwitd. The only place that wires its parts.</summary>
public sealed class GodwitDaemon : IAsyncDisposable
{
    // Past the point of no return a move is finished, whatever systemd wishes; it waits for TimeoutStopSec (90 s).
    private static readonly TimeSpan ShutdownTimeout = TimeSpan.FromSeconds(75);
    private readonly WebApplication _application;
    private readonly StateDirectory _state;
    private readonly IRegistry _registry;
    private int _stopped;

    private GodwitDaemon(
        WebApplication application, StateDirectory state, IRegistry registry, DaemonSettings settings)
    {
        _application = application;
        _state = state;
        _registry = registry;
        Settings = settings;
    }

    public DaemonSettings Settings { get; }

    /// <summary>Starts a daemon: it answers, and has found its guests again, when this returns.</summary>
    /// <param name="logging">Takes the place of the configured log output.</param>
    /// <exception cref="GodwitException">
    /// It cannot start: <c>state-unwritable</c>, <c>state-in-use</c>, <c>registry-*</c>, <c>key-*</c>,
    /// <c>certificate-*</c>, <c>address-in-use</c>, <c>address-unavailable</c>.
    /// </exception>
    public static async Task<GodwitDaemon> StartAsync(
        DaemonSettings settings, TimeProvider clock, Action<ILoggingBuilder>? logging = null)
    {
        var state = StateDirectory.Take(settings);
        SqliteRegistry? registry = null;
        WebApplication? application = null;
        try
        {
            registry = SqliteRegistry.Open(settings.RegistryFile);
            var trust = OpenTrust(settings, clock);
            FreeSocket(settings.ControlSocket);
            FreeSocket(settings.ViewerSocket);
            application = Build(settings, clock, registry, trust, logging);
            var services = application.Services;
            await services.GetRequiredService<Membership>().StartAsync(CancellationToken.None);
            StartLanes(services.GetRequiredService<LaneListener>(), settings);
            await services.GetRequiredService<GuestKeeper>().StartAsync(CancellationToken.None);
            services.GetRequiredService<IncomingMoves>().Start();
            await services.GetRequiredService<OutgoingMoves>().StartAsync();
            services.GetRequiredService<ParcelKeeper>().Start();
            services.GetRequiredService<InventoryKeeper>().Start();
            await ListenAsync(application, settings);
            GrantSockets(settings);
            services.GetRequiredService<Membership>().KeepRefreshing();
            // Type=notify: every listener is up, every guest found again, and the socket is open to its group.
            services.GetRequiredService<SystemdNotifier>().Notify(ServiceState.Ready);
            Log.Started(services.GetRequiredService<ILogger<GodwitDaemon>>(), VersionText.Own, settings.HostName,
                settings.ControlSocket, settings.PeerAddress, settings.LanePort);
            return new GodwitDaemon(application, state, registry, settings);
        }
        catch
        {
            if (application is not null)
            {
                await application.DisposeAsync();
            }

            if (registry is not null)
            {
                await registry.DisposeAsync();
            }

            state.Dispose();
            throw;
        }
    }

    /// <summary>Returns when the daemon has been told to stop and has stopped.</summary>
    public async Task WaitForShutdownAsync()
    {
        var stopping = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        await using var registration = _application.Lifetime.ApplicationStopping.Register(stopping.SetResult);
        await stopping.Task;
        await StopAsync();
    }

    /// <summary>Ends moves that are not committed, finishes those that are, and leaves the guests running.</summary>
    public async Task StopAsync()
    {
        if (Interlocked.Exchange(ref _stopped, 1) != 0)
        {
            return;
        }

        var services = _application.Services;
        var keeper = services.GetRequiredService<GuestKeeper>();
        Log.Stopping(services.GetRequiredService<ILogger<GodwitDaemon>>(), keeper.Running);
        services.GetRequiredService<SystemdNotifier>().Notify(ServiceState.Stopping);
        using var patience = new CancellationTokenSource(ShutdownTimeout);
        // Moves first: they need the listeners and the peers to end cleanly.
        await Task.WhenAll(
            services.GetRequiredService<OutgoingMoves>().StopAsync(),
            services.GetRequiredService<IncomingMoves>().StopAsync(),
            services.GetRequiredService<ParcelKeeper>().StopAsync()).WaitAsync(patience.Token)
            .ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        await keeper.ReleaseAsync();
        using var listeners = new CancellationTokenSource(TimeSpan.FromSeconds(2));
        await _application.StopAsync(listeners.Token);
    }

    public async ValueTask DisposeAsync()
    {
        await StopAsync();
        await _application.DisposeAsync();
        await _registry.DisposeAsync();
        _state.Dispose();
    }

    private static ClusterTrust OpenTrust(DaemonSettings settings, TimeProvider clock)
    {
        try
        {
            return ClusterTrust.LoadOrCreate(settings.PkiDirectory, settings.HostName, settings.Address, clock);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            throw new GodwitException("state-unwritable",
                $"{settings.PkiDirectory} cannot be used: {exception.Message}",
                "Check its owner, its mode, and free space with 'df'; or set pkiDirectory.", exception);
        }
    }

    private static WebApplication Build(
        DaemonSettings settings, TimeProvider clock, IRegistry registry, ClusterTrust trust,
        Action<ILoggingBuilder>? logging)
    {
        var builder = WebApplication.CreateEmptyBuilder(new WebApplicationOptions());
        ConfigureLogging(builder.Logging, settings, logging);
        // Not AddSystemd: it looks for systemd's name in the parent, takes Ctrl-C away, and overrules logFormat.
        builder.Services.AddSingleton<SystemdNotifier>();
        builder.Services.AddRoutingCore();
        builder.Services.AddSingleton(settings);
        builder.Services.AddSingleton(clock);
        builder.Services.AddSingleton(registry);
        builder.Services.AddSingleton(trust);
        builder.Services.AddSingleton<PeerLinks>();
        builder.Services.AddSingleton<Membership>();
        builder.Services.AddSingleton<QemuFacts>();
        builder.Services.AddSingleton<Machines>();
        builder.Services.AddSingleton<HandOvers>();
        builder.Services.AddSingleton<GuestKeeper>();
        builder.Services.AddSingleton<InventoryKeeper>();
        builder.Services.AddSingleton<ParcelTrust>();
        builder.Services.AddSingleton<Stores>();
        builder.Services.AddSingleton<SleepBook>();
        builder.Services.AddSingleton<ParcelKeeper>();
        builder.Services.AddSingleton<LadderBook>();
        builder.Services.AddSingleton<BandwidthShares>();
        builder.Services.AddSingleton<SwitchoverTurns>();
        builder.Services.AddSingleton<OutgoingMoves>();
        builder.Services.AddSingleton<IncomingMoves>();
        builder.Services.AddSingleton<DisputedGuests>();
        builder.Services.AddSingleton<IncomingChecks>();
        builder.Services.AddSingleton<MoveReports>();
        builder.Services.AddSingleton<HostReports>();
        builder.Services.AddSingleton<Doctor>();
        builder.Services.AddSingleton(services => CreateLanes(settings, trust, services));
        builder.Services.AddSingleton<Gate>();
        builder.Services.AddGrpc(options =>
        {
            options.Interceptors.Add<Gate>();
            options.MaxReceiveMessageSize = 1 << 20;
        });
        builder.Services.AddSingleton<SocketTransportFactory>();
        builder.WebHost.UseKestrelCore().ConfigureKestrel(kestrel => ConfigureKestrel(kestrel, settings, trust));
        builder.Services.Configure<HostOptions>(options => options.ShutdownTimeout = ShutdownTimeout);
        builder.WebHost.UseKestrelHttpsConfiguration();
        builder.Services.AddSingleton<IConnectionListenerFactory, Doors>();
        var application = builder.Build();
        application.UseRouting();
        application.MapGrpcService<ControlService>();
        application.MapGrpcService<PeerService>();
        return application;
    }

    private static void ConfigureLogging(
        ILoggingBuilder builder, DaemonSettings settings, Action<ILoggingBuilder>? logging)
    {
        builder.SetMinimumLevel(Enum.Parse<LogLevel>(settings.LogLevel));
        // The framework tells of each request; ours are in Log.cs.
        builder.AddFilter("Microsoft", LogLevel.Warning);
        // A line for every connection over its limit; Doors says so once, with a count.
        builder.AddFilter("Microsoft.AspNetCore.Server.Kestrel.Connections", LogLevel.Error);
        builder.AddFilter("Grpc", LogLevel.Warning);
        if (logging is not null)
        {
            logging(builder);
            return;
        }

        switch (settings.LogFormat == "text" && IsReadByJournal() ? "systemd" : settings.LogFormat)
        {
            case "json":
                builder.AddJsonConsole(options => options.UseUtcTimestamp = true);
                break;
            case "systemd":
                builder.AddSystemdConsole();
                break;
            default:
                builder.AddSimpleConsole(options =>
                {
                    options.SingleLine = true;
                    options.TimestampFormat = "HH:mm:ss.fff ";
                });
                break;
        }
    }

    /// <summary>
    /// True if the journal reads standard output: it takes the priority from each line's prefix, and keeps the time.
    /// </summary>
    /// <remarks>
    /// The variable alone proves nothing: whatever a service starts inherits it. It names the stream by device and
    /// inode, to be compared with one's own.
    /// </remarks>
    private static bool IsReadByJournal() =>
        Environment.GetEnvironmentVariable("JOURNAL_STREAM")?.Split(':') is [_, var inode]
        && new FileInfo("/proc/self/fd/1").LinkTarget == $"socket:[{inode}]";

    private static void ConfigureKestrel(KestrelServerOptions kestrel, DaemonSettings settings, ClusterTrust trust)
    {
        kestrel.AddServerHeader = false;
        // Of those that are known; strangers are fewer. A member needs one or two, a godwit one.
        kestrel.Limits.MaxConcurrentConnections = 1024;
        kestrel.ListenUnixSocket(settings.ControlSocket, Serve);
        if (settings.ViewerGroup.Length > 0)
        {
            kestrel.ListenUnixSocket(settings.ViewerSocket, Serve);
        }

        kestrel.Listen(IPAddress.Parse(settings.Listen), settings.PeerPort, listen =>
        {
            var logger = listen.ApplicationServices.GetRequiredService<ILogger<GodwitDaemon>>();
            Serve(listen);
            listen.Use(next => connection => RefusePlaintextAsync(connection, next, logger));
            listen.UseHttps(new TlsHandshakeCallbackOptions
            {
                OnConnection = _ =>
                {
                    var options = trust.JoinableServerOptions();
                    options.ApplicationProtocols = [SslApplicationProtocol.Http2];
                    return ValueTask.FromResult(options);
                },
            });
        });
    }

    private static void Serve(ListenOptions listen)
    {
        listen.Protocols = HttpProtocols.Http2;
        listen.Use(next => async connection =>
        {
            using var place = Doors.PlaceOf(connection);
            await next(connection);
        });
    }

    /// <summary>Ends a connection that does not begin with a TLS record, and says so in the log.</summary>
    private static async Task RefusePlaintextAsync(
        ConnectionContext connection, ConnectionDelegate next, ILogger logger)
    {
        const byte HandshakeRecord = 22;
        var place = Doors.PlaceOf(connection);
        var input = connection.Transport.Input;
        try
        {
            var first = await input.ReadAsync(connection.ConnectionClosed);
            var isTls = !first.Buffer.IsEmpty && first.Buffer.FirstSpan[0] == HandshakeRecord;
            var isEmpty = first.Buffer.IsEmpty;
            // Nothing is consumed or examined: TLS reads the same bytes again.
            input.AdvanceTo(first.Buffer.Start);
            if (!isTls)
            {
                if (!isEmpty && place.MayTell())
                {
                    var remote = $"{connection.RemoteEndPoint}";
                    Log.ConnectionRefused(logger, remote, "plaintext-refused", "it did not begin with TLS");
                }

                connection.Abort();
                return;
            }
        }
        catch (Exception exception) when (exception is OperationCanceledException or IOException)
        {
            connection.Abort();
            return;
        }

        try
        {
            await next(connection);
        }
        catch (NotSupportedException exception)
        {
            // What SslStream throws for a greeting that it cannot read. It is the stranger's error, not ours.
            if (place.MayTell())
            {
                var remote = $"{connection.RemoteEndPoint}";
                Log.ConnectionRefused(
                    logger, remote, "plaintext-refused", $"its TLS is malformed: {exception.Message}");
            }

            connection.Abort();
        }
    }

    private static LaneListener CreateLanes(DaemonSettings settings, ClusterTrust trust, IServiceProvider services)
    {
        var logger = services.GetRequiredService<ILogger<LaneListener>>();
        return new LaneListener(
            new IPEndPoint(IPAddress.Parse(settings.Listen), settings.LanePort),
            trust.ServerOptions, logger);
    }

    private static void StartLanes(LaneListener lanes, DaemonSettings settings)
    {
        try
        {
            lanes.Start();
        }
        catch (SocketException exception)
        {
            throw Explain(exception, $"{settings.Listen}:{settings.LanePort}", "lanePort");
        }
    }

    private static async Task ListenAsync(WebApplication application, DaemonSettings settings)
    {
        try
        {
            await application.StartAsync();
        }
        catch (Exception exception) when (exception is IOException or SocketException)
        {
            throw Explain(exception, $"{settings.Listen}:{settings.PeerPort}", "peerPort");
        }
    }

    private static GodwitException Explain(Exception exception, string endpoint, string key)
    {
        var socketError = (exception.GetBaseException() as SocketException)?.SocketErrorCode;
        return socketError == SocketError.AddressAlreadyInUse || exception.InnerException is AddressInUseException
            ? new GodwitException("address-in-use", $"{endpoint} is in use by another process.",
                $"Find it with 'ss -ltnp', or set {key} or listen to another one.", exception)
            : new GodwitException("address-unavailable", $"{endpoint} cannot be listened on: {exception.Message}",
                "Set listen to an address of this host, or to 0.0.0.0.", exception);
    }

    private static void FreeSocket(string path)
    {
        const int PathMax = 107;
        if (path.Length > PathMax)
        {
            throw new GodwitException("config-invalid",
                $"The socket's path {path} has {path.Length} characters; the system's limit is {PathMax}.",
                "Choose a shorter runtimeDirectory.");
        }

        if (!File.Exists(path))
        {
            return;
        }

        using var probe = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            probe.Connect(new UnixDomainSocketEndPoint(path));
        }
        catch (SocketException)
        {
            // Left behind by a daemon that was killed: nobody listens.
            File.Delete(path);
            return;
        }

        throw new GodwitException("address-in-use", $"Another process serves {path}.",
            "Stop it, or give this daemon its own --runtime-dir.");
    }

    /// <summary>Lets root and the control group act, the viewers look, and nobody else do either.</summary>
    private static void GrantSockets(DaemonSettings settings)
    {
        const UnixFileMode Mode =
            UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.GroupRead | UnixFileMode.GroupWrite;
        if (settings.ControlGroup.Length > 0)
        {
            GroupAccess.Give(settings.RuntimeDirectory, settings.ControlGroup, "controlGroup");
            GroupAccess.Give(settings.ControlSocket, settings.ControlGroup, "controlGroup");
        }

        File.SetUnixFileMode(settings.ControlSocket, Mode);
        if (settings.ViewerGroup.Length > 0)
        {
            GroupAccess.Give(settings.ViewerSocket, settings.ViewerGroup, "viewerGroup");
            File.SetUnixFileMode(settings.ViewerSocket, Mode);
            // A viewer is of another group than the directory's: it may pass through, to a name that it knows.
            File.SetUnixFileMode(settings.RuntimeDirectory,
                File.GetUnixFileMode(settings.RuntimeDirectory) | UnixFileMode.OtherExecute);
        }
    }
}
