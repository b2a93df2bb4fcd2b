using System.Net;
using System.Net.Sockets;
using Godwit.Api;
using Godwit.Api.V1;
using Grpc.Core;
using Grpc.Net.Client;

namespace Godwit.Cli.Daemon;

/// <summary>The way to this host's daemon over its Unix socket; nothing is connected before the first call.</summary>
/// <remarks>
/// Every failure leaves as a <see cref="CommandException"/> with a stable code, so that no caller sees gRPC.
/// </remarks>
internal sealed class DaemonClient : IDisposable
{
    public const string DefaultSocketPath = "/run/godwit/godwitd.sock";

    /// <summary>How long a short request may take; moves and consoles have no deadline of ours.</summary>
    private static readonly TimeSpan RequestTime = TimeSpan.FromSeconds(60);

    private const int ConnectAttempts = 100;
    private static readonly TimeSpan ConnectPause = TimeSpan.FromMilliseconds(50);

    private readonly string _socketPath;
    private readonly GrpcChannel _channel;
    private Exception? _connectFailure;

    public DaemonClient(string socketPath)
    {
        _socketPath = socketPath;
        var handler = new SocketsHttpHandler { ConnectCallback = ConnectAsync, UseProxy = false };
        _channel = GrpcChannel.ForAddress(
            "http://localhost",
            new GrpcChannelOptions
            {
                HttpHandler = handler, DisposeHttpClient = true, MaxReceiveMessageSize = 64 << 20,
            });
        Control = new Control.ControlClient(_channel);
    }

    public Control.ControlClient Control { get; }

    public string SocketPath => _socketPath;

    /// <summary>One request and its answer, with a deadline and errors of ours.</summary>
    public async Task<T> AskAsync<T>(
        Func<Control.ControlClient, CallOptions, AsyncUnaryCall<T>> request,
        CancellationToken cancellation,
        TimeSpan? within = null)
    {
        var time = within ?? RequestTime;
        try
        {
            using var call = request(
                Control, new CallOptions(deadline: DateTime.UtcNow + time, cancellationToken: cancellation));
            return await call.ResponseAsync;
        }
        catch (RpcException failure)
        {
            throw Translate(failure, cancellation, time);
        }
    }

    /// <summary>What an RPC's failure means to the person at the terminal.</summary>
    public Exception Translate(RpcException failure, CancellationToken cancellation, TimeSpan? time = null)
    {
        if (cancellation.IsCancellationRequested)
        {
            return new OperationCanceledException("Interrupted.", failure, cancellation);
        }

        string? code = failure.Trailers.GetValue("godwit-code");
        if (code is not null)
        {
            return new CommandException(
                code, failure.Status.Detail, failure.Trailers.GetValue("godwit-remedy") ?? "",
                ExitCodeOf(code, failure));
        }

        return failure.StatusCode switch
        {
            StatusCode.Unavailable when DeniedByFileMode() => new CommandException(
                "daemon-denied", $"this user may not open the daemon's socket {_socketPath}."),
            StatusCode.Unavailable => new CommandException(
                "daemon-unreachable",
                $"no daemon answers at {_socketPath} ({Reason(failure)}).",
                "Look with 'systemctl status godwitd', or name another socket with --socket or GODWIT_SOCKET."),
            StatusCode.DeadlineExceeded => new CommandException(
                "daemon-timeout",
                $"the daemon at {_socketPath} gave no answer within "
                + $"{Units.Duration((time ?? RequestTime).TotalSeconds)}."),
            StatusCode.Unimplemented => new CommandException(
                "daemon-version", $"the daemon at {_socketPath} does not know this request: {failure.Status.Detail}"),
            StatusCode.PermissionDenied or StatusCode.Unauthenticated => new CommandException(
                "daemon-denied", $"the daemon at {_socketPath} refuses this user: {failure.Status.Detail}"),
            _ => new CommandException(
                "daemon-failed", $"the daemon at {_socketPath} failed: {failure.StatusCode}, {failure.Status.Detail}"),
        };
    }

    public void Dispose() => _channel.Dispose();

    // A newer daemon may send a code that this CLI's catalog lacks; its status still tells the kind of failure.
    private static int ExitCodeOf(string code, RpcException failure) =>
        ErrorCatalog.Find(code)?.ExitCode ?? failure.StatusCode switch
        {
            StatusCode.NotFound => ExitCodes.NotFound,
            StatusCode.InvalidArgument => ExitCodes.Usage,
            StatusCode.FailedPrecondition or StatusCode.AlreadyExists or StatusCode.ResourceExhausted =>
                ExitCodes.Refused,
            StatusCode.PermissionDenied or StatusCode.Unauthenticated => ExitCodes.Authentication,
            StatusCode.DeadlineExceeded => ExitCodes.NotConverged,
            _ => ExitCodes.Failed,
        };

    private bool DeniedByFileMode() => _connectFailure is SocketException { SocketErrorCode: SocketError.AccessDenied };

    private string Reason(RpcException failure) => _connectFailure is SocketException socket
        ? socket.SocketErrorCode switch
        {
            // A Unix socket's missing file surfaces under the name of an unreachable address.
            SocketError.AddressNotAvailable => "there is no such socket",
            SocketError.ConnectionRefused => "nothing listens on it",
            SocketError.WouldBlock => "its queue of callers is full",
            _ => socket.Message,
        }
        : failure.Status.Detail.Length > 0 ? failure.Status.Detail : "the connection broke";

    private async ValueTask<Stream> ConnectAsync(SocketsHttpConnectionContext context, CancellationToken cancellation)
    {
        _connectFailure = null;
        try
        {
            return await OpenAsync(_socketPath, cancellation);
        }
        catch (Exception failure)
        {
            _connectFailure = failure;
            if (!DeniedByFileMode())
            {
                throw;
            }
        }

        // No operator; perhaps a viewer, whose socket lies beside.
        var folder = Path.GetDirectoryName(_socketPath) ?? "";
        var stream = await OpenAsync(Path.Combine(folder, "viewer.sock"), cancellation);
        _connectFailure = null;
        return stream;
    }

    private static async Task<NetworkStream> OpenAsync(string path, CancellationToken cancellation)
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            await ConnectAsync(socket, new UnixDomainSocketEndPoint(path), cancellation);
            return new NetworkStream(socket, ownsSocket: true);
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    // A daemon with more callers at its door than the queue holds turns the next one away at once, unlike one that is
    // not there: it is worth another try.
    private static async Task ConnectAsync(Socket socket, EndPoint door, CancellationToken cancellation)
    {
        for (var turnedAway = 1; ; turnedAway++)
        {
            try
            {
                await socket.ConnectAsync(door, cancellation);
                return;
            }
            catch (SocketException exception) when (
                exception.SocketErrorCode == SocketError.WouldBlock && turnedAway < ConnectAttempts)
            {
                await Task.Delay(ConnectPause, cancellation);
            }
        }
    }
}
