using System.Collections.Concurrent;
using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using System.Security.Cryptography;
using Godwit.Host.Trust;
using Microsoft.Extensions.Logging;

namespace Godwit.Host.Transfers;

/// <summary>Accepts lanes over mutual TLS and hands each to the transfer whose ticket it presents.</summary>
/// <remarks>
/// A lane without a ticket of a waiting transfer is refused and logged; nothing is allocated for it. Until it has shown
/// one it is a stranger: it has ten seconds.
/// </remarks>
public sealed partial class LaneListener(
    IPEndPoint endpoint, Func<Action<PeerVerdict>, SslServerAuthenticationOptions> tls, ILogger logger)
    : IAsyncDisposable
{
    private const int StrangersMax = 256;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(10);
    private readonly ConcurrentDictionary<string, DestinationTransfer> _expected = new();
    private readonly CancellationTokenSource _stop = new();
    private readonly Strangers _strangers =
        new(StrangersMax, Patience, (dropped, untold) => LogFlood(logger, dropped, untold));
    private Socket? _listener;
    private Task _loop = Task.CompletedTask;

    /// <summary>Port actually bound.</summary>
    public int Port =>
        ((IPEndPoint)(_listener ?? throw new InvalidOperationException("Not started.")).LocalEndPoint!).Port;

    /// <exception cref="SocketException">The address is in use or not of this host.</exception>
    public void Start()
    {
        var listener = new Socket(endpoint.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
        try
        {
            listener.Bind(endpoint);
            listener.Listen(512);
        }
        catch
        {
            listener.Dispose();
            throw;
        }

        _listener = listener;
        _loop = Task.Run(AcceptLoopAsync);
    }

    /// <summary>Lanes that present the transfer's ticket go to it until it ends.</summary>
    public void Expect(DestinationTransfer transfer)
    {
        // One ticket at a time: a source that comes back presents another one.
        foreach ((string old, DestinationTransfer _) in _expected.Where(entry => entry.Value == transfer))
        {
            _expected.TryRemove(old, out _);
        }

        string key = Convert.ToHexString(SHA256.HashData(transfer.Terms.Ticket));
        _expected[key] = transfer;
        transfer.Ended.ContinueWith(
            _ => _expected.TryRemove(key, out DestinationTransfer? _), CancellationToken.None,
            TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
    }

    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync();
        _listener?.Dispose();
        await _loop;
        _stop.Dispose();
        _strangers.Dispose();
    }

    private async Task AcceptLoopAsync()
    {
        while (!_stop.IsCancellationRequested)
        {
            Socket socket;
            try
            {
                socket = await _listener!.AcceptAsync(_stop.Token);
            }
            catch (Exception e) when (e is OperationCanceledException or ObjectDisposedException)
            {
                return;
            }
            catch (SocketException e)
            {
                LogAcceptFailed(e);
                // Out of file handles, for one: that does not pass any faster by asking again at once.
                await Task.Delay(100);
                continue;
            }

            // Counted before anything is done for it, so that there are never more than are allowed.
            Strangers.Place place = _strangers.Enter(PeerOf(socket), socket.Dispose);
            _ = Task.Run(() => ReceiveAsync(socket, place));
        }
    }

    private async Task ReceiveAsync(Socket socket, Strangers.Place place)
    {
        using Strangers.Place held = place;
        PeerVerdict? refused = null;
        try
        {
            (Lane lane, int version, byte[] ticket) =
                await Lane.AcceptAsync(socket, tls(verdict => refused = verdict), _stop.Token);
            // The ticket is looked up by its hash, so the time a lookup takes says nothing about the ticket itself.
            string key = Convert.ToHexString(SHA256.HashData(ticket));
            string? refusal = _expected.TryGetValue(key, out DestinationTransfer? transfer)
                ? transfer.TryAttach(lane, version)
                : "no transfer waits for this ticket; it may have been used, have lapsed, or have been abandoned";
            if (refusal is not null)
            {
                if (_strangers.MayTell())
                {
                    LogRefused(place.From, lane.Number, refusal);
                }

                lane.Answer(refusal);
                lane.Dispose();
            }
        }
        catch (Exception e)
        {
            socket.Dispose();
            if (_strangers.MayTell())
            {
                LogHandshakeFailed(
                    place.From,
                    refused is null ? place.WhyDropped ?? e.Message : $"{refused.Code}: {refused.Reason}");
            }
        }
    }

    private static EndPoint? PeerOf(Socket socket)
    {
        try
        {
            return socket.RemoteEndPoint;
        }
        catch (SocketException)
        {
            // Gone already.
            return null;
        }
    }

    [LoggerMessage(3001, LogLevel.Warning, "Lane {Lane} from {Peer} refused: {Reason}")]
    private partial void LogRefused(EndPoint? peer, int lane, string reason);

    [LoggerMessage(3002, LogLevel.Warning, "Connection from {Peer} ended before it was a lane: {Reason}")]
    private partial void LogHandshakeFailed(EndPoint? peer, string reason);

    [LoggerMessage(3004, LogLevel.Warning,
        "Flood: {Dropped} connections to the lane port were dropped before they were a lane, {Untold} not logged")]
    private static partial void LogFlood(ILogger logger, int dropped, int untold);

    [LoggerMessage(3003, LogLevel.Error, "Accepting a lane failed")]
    private partial void LogAcceptFailed(Exception error);
}
