using System.Collections.Concurrent;
using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using Godwit.Api;
using Godwit.Api.V1;
using Godwit.Host.Registry;
using Godwit.Host.Trust;
using Godwit.Migration;
using Grpc.Core;
using Grpc.Net.Client;

namespace Godwit.Daemon.Cluster;

/// <summary>Connections to the other members, made when first needed, over TLS that proves the member's name.</summary>
internal sealed class PeerLinks(ClusterTrust trust) : IDisposable
{
    private static readonly TimeSpan ConnectTimeout = TimeSpan.FromSeconds(3);
    private readonly ConcurrentDictionary<string, Link> _links = new();

    /// <summary>Calls a member.</summary>
    /// <param name="deadline">From now; the peer is taken for unreachable after it.</param>
    /// <exception cref="GodwitException">
    /// The peer's own refusal, or <c>host-unreachable</c> or <c>certificate-*</c>.
    /// </exception>
    public async Task<T> CallAsync<T>(
        HostRecord host, TimeSpan deadline, Func<Peer.PeerClient, CallOptions, AsyncUnaryCall<T>> call,
        CancellationToken cancellationToken)
    {
        var link = LinkTo(host);
        try
        {
            return await call(link.Client,
                new CallOptions(deadline: DateTime.UtcNow + deadline, cancellationToken: cancellationToken));
        }
        catch (RpcException exception) when (!cancellationToken.IsCancellationRequested)
        {
            throw Explain(exception, $"host '{host.Name}' at {host.Address}", link.Refused);
        }
        catch (RpcException exception)
        {
            throw new OperationCanceledException("The call was given up.", exception, cancellationToken);
        }
    }

    /// <summary>Calls a member that answers as it goes on; the call lasts as long as that.</summary>
    /// <exception cref="GodwitException">
    /// The peer's own refusal, or <c>host-unreachable</c> or <c>certificate-*</c>.
    /// </exception>
    public async Task FollowAsync<T>(
        HostRecord host, Func<Peer.PeerClient, CallOptions, AsyncServerStreamingCall<T>> call, Func<T, Task> told,
        CancellationToken cancellationToken)
    {
        var link = LinkTo(host);
        try
        {
            using var answers = call(link.Client, new CallOptions(cancellationToken: cancellationToken));
            await foreach (var answer in answers.ResponseStream.ReadAllAsync(cancellationToken))
            {
                await told(answer);
            }
        }
        catch (RpcException exception) when (!cancellationToken.IsCancellationRequested)
        {
            throw Explain(exception, $"host '{host.Name}' at {host.Address}", link.Refused);
        }
        catch (RpcException exception)
        {
            throw new OperationCanceledException("The call was given up.", exception, cancellationToken);
        }
    }

    /// <summary>Forgets every connection: they were made under another membership.</summary>
    public void Reset()
    {
        foreach (var name in _links.Keys)
        {
            Drop(name);
        }
    }

    /// <summary>Forgets the connections to one host.</summary>
    public void Drop(string name)
    {
        if (_links.TryRemove(name, out var link))
        {
            link.Channel.Dispose();
        }
    }

    /// <summary>What a failed call means to a user.</summary>
    public static GodwitException Explain(RpcException exception, string peer, PeerVerdict? refused)
    {
        if (exception.Trailers.GetValue("godwit-code") is { } code)
        {
            return new GodwitException(code, exception.Status.Detail,
                exception.Trailers.GetValue("godwit-remedy") ?? "", exception);
        }

        if (refused is not null)
        {
            return new GodwitException(refused.Code, $"This host refuses {peer}: {refused.Reason}.",
                ErrorCatalog.Find(refused.Code)?.Remedy ?? "", exception);
        }

        if (exception.StatusCode == StatusCode.Unimplemented)
        {
            return new GodwitException("wire-version",
                $"The godwitd of {peer} does not know a request of this one, which is {VersionText.Own}: "
                + $"{exception.Status.Detail}",
                "Bring both hosts to neighbouring versions of godwitd; 'godwit host list -o wide' shows them.",
                exception);
        }

        var reason = exception.Status.DebugException?.GetBaseException().Message ?? exception.Status.Detail;
        return new GodwitException("host-unreachable", $"There is no answer from {peer}: {reason}.",
            "Check that godwitd runs there ('systemctl status godwitd') and that the address and port are reachable.",
            exception);
    }

    private Link LinkTo(HostRecord host)
    {
        if (_links.TryGetValue(host.Name, out var link) && link.Address == host.Address)
        {
            return link;
        }

        link?.Channel.Dispose();
        link = new Link(host, trust);
        _links[host.Name] = link;
        return link;
    }

    /// <summary>A channel over the given TLS; no proxy, no redirects, a short wait.</summary>
    public static GrpcChannel Open(string address, SslClientAuthenticationOptions tls, Action? connecting = null) =>
        GrpcChannel.ForAddress($"https://{address}", new GrpcChannelOptions
        {
            HttpHandler = new SocketsHttpHandler
            {
                SslOptions = tls,
                // With a connector of ours every call tries anew. gRPC's own one backs off after a failure, and until
                // that time is over it refuses calls to a member that has long been back.
                ConnectCallback = (context, token) =>
                {
                    connecting?.Invoke();
                    return ConnectAsync(context.DnsEndPoint, token);
                },
                ConnectTimeout = ConnectTimeout,
                UseProxy = false,
                AllowAutoRedirect = false,
                // A member that lost its power says no farewell: its connection is found dead before it can be back.
                KeepAlivePingDelay = TimeSpan.FromSeconds(5),
                KeepAlivePingTimeout = TimeSpan.FromSeconds(5),
                KeepAlivePingPolicy = HttpKeepAlivePingPolicy.Always,
                PooledConnectionIdleTimeout = TimeSpan.FromMinutes(2),
            },
            DisposeHttpClient = true,
        });

    private static async ValueTask<Stream> ConnectAsync(DnsEndPoint endpoint, CancellationToken cancellationToken)
    {
        var socket = new Socket(SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
        try
        {
            await socket.ConnectAsync(endpoint, cancellationToken);
            return new NetworkStream(socket, ownsSocket: true);
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    public void Dispose() => Reset();

    private sealed class Link
    {
        public Link(HostRecord host, ClusterTrust trust)
        {
            Address = host.Address;
            Channel = Open(
                host.Address, trust.ClientOptions(host.Name, verdict => Refused = verdict), () => Refused = null);
            Client = new Peer.PeerClient(Channel);
        }

        public string Address { get; }
        public GrpcChannel Channel { get; }
        public Peer.PeerClient Client { get; }

        /// <summary>Why the newest connection was refused for the peer's certificate; null if it was not.</summary>
        public PeerVerdict? Refused { get; private set; }
    }
}
