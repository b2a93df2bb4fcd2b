using System.Net;
using System.Net.Sockets;
using Godwit.Host.Trust;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Server.Kestrel.Transport.Sockets;

namespace Godwit.Daemon.Services;

/// <summary>
/// The sockets that gRPC is served on. Whoever comes through one is a stranger until a call proves more.
/// </summary>
/// <remarks>
/// Strangers are counted as they are accepted and not as they are served: on a busy host thousands could wait between
/// the two, each with a file handle.
/// </remarks>
internal sealed class Doors(SocketTransportFactory sockets, DaemonSettings settings, ILogger<Doors> logger)
    : IConnectionListenerFactory
{
    private const int StrangersMax = 256;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);
    private static readonly object PlaceKey = new();

    public async ValueTask<IConnectionListener> BindAsync(EndPoint endpoint, CancellationToken cancellationToken) =>
        new Door(await sockets.BindAsync(endpoint, cancellationToken), RoleAt(endpoint), logger);

    /// <summary>The connection's place among the strangers.</summary>
    public static Strangers.Place PlaceOf(ConnectionContext connection) =>
        (Strangers.Place)connection.Items[PlaceKey]!;

    private Role RoleAt(EndPoint endpoint) => endpoint is not UnixDomainSocketEndPoint path ? Role.Host
        : path.ToString() == settings.ControlSocket ? Role.Operator
        : Role.Viewer;

    private sealed class Door(IConnectionListener listener, Role role, ILogger logger) : IConnectionListener
    {
        private readonly Strangers _strangers =
            new(StrangersMax, Patience, (dropped, untold) => Log.Flood(logger, role, dropped, untold));

        public EndPoint EndPoint => listener.EndPoint;

        public async ValueTask<ConnectionContext?> AcceptAsync(CancellationToken cancellationToken = default)
        {
            var connection = await listener.AcceptAsync(cancellationToken);
            if (connection is not null)
            {
                var place = _strangers.Enter(connection.RemoteEndPoint, connection.Abort);
                connection.Items[PlaceKey] = place;
                Gate.Announce(connection, role, place);
            }

            return connection;
        }

        public ValueTask UnbindAsync(CancellationToken cancellationToken = default) =>
            listener.UnbindAsync(cancellationToken);

        public ValueTask DisposeAsync()
        {
            _strangers.Dispose();
            return listener.DisposeAsync();
        }
    }
}
