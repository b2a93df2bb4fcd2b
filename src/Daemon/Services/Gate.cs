using System.Security.Cryptography.X509Certificates;
using Godwit.Api;
using Godwit.Host.Trust;
using Godwit.Migration;
using Grpc.Core;
using Grpc.Core.Interceptors;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Connections.Features;
using Microsoft.AspNetCore.Http.Features;

namespace Godwit.Daemon.Services;

/// <summary>
/// Lets each caller reach only what is meant for it, and turns every failure into a code and a remedy.
/// </summary>
/// <remarks>
/// What a caller may do follows from the door it came through. The Unix sockets' file modes say who may open them: the
/// control socket is the operators', the viewers' one lets look and not act. Peer is served over TLS only, to members
/// of the cluster; <c>GetAuthority</c> and <c>Join</c> to anybody, because a joiner has no certificate yet.
/// </remarks>
internal sealed class Gate(ClusterTrust trust, ILogger<Gate> logger) : Interceptor
{
    private static readonly object JudgementKey = new();
    private static readonly object CallerKey = new();
    private const string ControlPrefix = "/godwit.v1.Control/";
    private static readonly HashSet<string> Open = ["/godwit.v1.Peer/GetAuthority", "/godwit.v1.Peer/Join"];

    /// <summary>What changes nothing and opens no console. Whatever is not named here is the operators'.</summary>
    private static readonly HashSet<string> Looking =
    [
        .. new[]
        {
            "GetVersion", "GetGuest", "ListGuests", "PlanMigration", "ListPolicies", "ListMigrations", "GetMigration",
            "WatchMigration", "ListHosts", "GetHost", "Diagnose", "ListInventory", "ListParcels", "ListStores",
            "PredictResume",
        }.Select(method => ControlPrefix + method),
    ];

    /// <summary>Has to be told of each connection before its first call; a call on any other one fails.</summary>
    /// <remarks>Not left to the first call: several come at once, and a connection's items take one writer.</remarks>
    /// <param name="role">By the door it came through.</param>
    /// <param name="place">Given up with its first call that proves the caller to be somebody.</param>
    public static void Announce(ConnectionContext connection, Role role, Strangers.Place place) =>
        connection.Items[JudgementKey] = new Judgement(role, place);

    /// <summary>The member that calls, as its certificate names it.</summary>
    public static string CallerOf(ServerCallContext context) =>
        context.UserState.TryGetValue(CallerKey, out var host) ? (string)host : "";

    /// <summary>Refuses a message in which the caller gives itself another host's name.</summary>
    public static void RequireCaller(ServerCallContext context, string claimed)
    {
        var caller = CallerOf(context);
        if (caller != claimed)
        {
            throw new GodwitException("certificate-host-mismatch",
                $"The message claims to come from host '{claimed}'; the certificate names '{caller}'.",
                "Set hostName back to the name the host joined under, or join it again.");
        }
    }

    public override Task<TResponse> UnaryServerHandler<TRequest, TResponse>(
        TRequest request, ServerCallContext context, UnaryServerMethod<TRequest, TResponse> continuation) =>
        GuardAsync(context, () => continuation(request, context));

    public override Task ServerStreamingServerHandler<TRequest, TResponse>(
        TRequest request, IServerStreamWriter<TResponse> responseStream, ServerCallContext context,
        ServerStreamingServerMethod<TRequest, TResponse> continuation) =>
        GuardAsync(context, async () =>
        {
            await continuation(request, responseStream, context);
            return true;
        });

    public override Task DuplexStreamingServerHandler<TRequest, TResponse>(
        IAsyncStreamReader<TRequest> requestStream, IServerStreamWriter<TResponse> responseStream,
        ServerCallContext context, DuplexStreamingServerMethod<TRequest, TResponse> continuation) =>
        GuardAsync(context, async () =>
        {
            await continuation(requestStream, responseStream, context);
            return true;
        });

    private async Task<T> GuardAsync<T>(ServerCallContext context, Func<Task<T>> call)
    {
        try
        {
            Admit(context);
            return await call();
        }
        catch (GodwitException exception)
        {
            if (JudgementOf(context).Place.MayTell())
            {
                Log.CallRefused(logger, context.Method, exception.Code, exception.Message);
            }

            throw Translate(exception);
        }
        catch (RpcException)
        {
            throw;
        }
        catch (OperationCanceledException) when (context.CancellationToken.IsCancellationRequested)
        {
            throw new RpcException(new Status(StatusCode.Cancelled, "the caller went away"));
        }
        catch (Exception exception)
        {
            Log.CallBroken(logger, context.Method, exception);
            throw Translate(new GodwitException("internal", $"{context.Method} failed: {exception.Message}",
                "Please report it with the daemon's log around this time: journalctl -u godwitd."));
        }
    }

    private void Admit(ServerCallContext context)
    {
        var judgement = JudgementOf(context);
        if (context.Method.StartsWith(ControlPrefix, StringComparison.Ordinal))
        {
            if (judgement.Role == Role.Host)
            {
                throw Refused(context, "control-local-only", "Control is served on the host's own Unix socket only",
                    "Log in on the host and run godwit there.");
            }

            judgement.Place.Dispose();
            if (judgement.Role == Role.Viewer && !Looking.Contains(context.Method))
            {
                throw Refused(context, "viewer-only", "this user may look at everything and change nothing",
                    "Ask an operator of this host: root, or a member of the group that controlGroup names.");
            }

            return;
        }

        if (judgement.Role != Role.Host)
        {
            throw Refused(context, "peer-remote-only", "Peer is served over mutual TLS only",
                "Hosts talk to each other; operators use Control.");
        }

        if (Open.Contains(context.Method))
        {
            return;
        }

        var verdict = judgement.Of(context.GetHttpContext().Connection.ClientCertificate, trust);
        if (!verdict.Accepted)
        {
            throw Refused(context, verdict.Code, verdict.Reason,
                ErrorCatalog.Find(verdict.Code)?.Remedy ?? "Join the host with a new token.");
        }

        judgement.Place.Dispose();
        context.UserState[CallerKey] = verdict.Host;
    }

    private static Judgement JudgementOf(ServerCallContext context) =>
        (Judgement)context.GetHttpContext().Features.GetRequiredFeature<IConnectionItemsFeature>().Items[JudgementKey]!;

    /// <summary>What is thought of a connection, until something changes about whom this host trusts.</summary>
    private sealed class Judgement(Role role, Strangers.Place place)
    {
        private readonly Lock _lock = new();
        private PeerVerdict? _verdict;
        private int _changes;

        public Role Role => role;

        public Strangers.Place Place => place;

        public PeerVerdict Of(X509Certificate2? certificate, ClusterTrust trust)
        {
            lock (_lock)
            {
                // Read before the verdict: a change in between makes it be given once more.
                var changes = trust.Changes;
                if (_verdict is null || _changes != changes)
                {
                    _verdict = trust.Verify(certificate);
                    _changes = changes;
                }

                return _verdict;
            }
        }
    }

    private GodwitException Refused(ServerCallContext context, string code, string reason, string remedy)
    {
        if (JudgementOf(context).Place.MayTell())
        {
            Log.PeerRefused(logger, context.Peer, context.Method, code, reason);
        }

        return new GodwitException(code, $"{char.ToUpperInvariant(reason[0])}{reason[1..]}.", remedy);
    }

    /// <summary>The wire form of a failure: a gRPC status, and its code and remedy in the trailers.</summary>
    public static RpcException Translate(GodwitException exception)
    {
        var status = (ErrorCatalog.Find(exception.Code)?.ExitCode ?? ExitCodes.Failed) switch
        {
            ExitCodes.Usage => StatusCode.InvalidArgument,
            ExitCodes.Refused => StatusCode.FailedPrecondition,
            ExitCodes.NotFound => StatusCode.NotFound,
            ExitCodes.Authentication => StatusCode.Unauthenticated,
            ExitCodes.NotConverged => StatusCode.DeadlineExceeded,
            ExitCodes.Cancelled => StatusCode.Cancelled,
            _ => StatusCode.Aborted,
        };
        return new RpcException(new Status(status, exception.Message), new Metadata
        {
            { "godwit-code", exception.Code },
            { "godwit-remedy", Printable(exception.Remedy) },
        });
    }

    // Trailers are ASCII headers; a path in a remedy may hold anything.
    private static string Printable(string text) =>
        string.Create(text.Length, text, (span, source) =>
        {
            for (var index = 0; index < span.Length; index++)
            {
                span[index] = source[index] is >= ' ' and <= '~' ? source[index] : source[index] == '\n' ? ' ' : '?';
            }
        });
}
