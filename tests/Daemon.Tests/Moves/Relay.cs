using System.Net;
using System.Net.Sockets;

namespace Godwit.Daemon.Tests.Moves;

/// <summary>Stands before a port of 127.0.0.1 at another address, and cuts all connections after some bytes.</summary>
internal sealed class Relay : IDisposable
{
    private readonly TcpListener _listener;
    private readonly CancellationTokenSource _over = new();
    private readonly long _bytesMax;
    private readonly int _port;
    private long _bytes;

    public Relay(string address, int port, long bytesMax)
    {
        _port = port;
        _bytesMax = bytesMax;
        _listener = new TcpListener(IPAddress.Parse(address), port);
        _listener.Start();
        _ = AcceptAsync();
    }

    public void Dispose()
    {
        _over.Cancel();
        _listener.Dispose();
    }

    private async Task AcceptAsync()
    {
        while (true)
        {
            TcpClient client;
            try
            {
                client = await _listener.AcceptTcpClientAsync(_over.Token);
            }
            catch (Exception exception) when (exception is OperationCanceledException or ObjectDisposedException)
            {
                return;
            }

            _ = Task.Run(() => CarryAsync(client));
        }
    }

    private async Task CarryAsync(TcpClient near)
    {
        using var far = new TcpClient();
        using (near)
        {
            try
            {
                await far.ConnectAsync("127.0.0.1", _port, _over.Token);
                await Task.WhenAny(
                    PumpAsync(near.GetStream(), far.GetStream()), PumpAsync(far.GetStream(), near.GetStream()));
            }
            catch (Exception exception) when (exception is IOException or SocketException or OperationCanceledException)
            {
                // One end has gone, or the relay: the other is closed below.
            }

            // Reset, as a cut cable's end finally is: no orderly close of either side.
            near.LingerState = far.LingerState = new LingerOption(true, 0);
        }
    }

    private async Task PumpAsync(NetworkStream from, NetworkStream to)
    {
        var buffer = new byte[16 << 10];
        try
        {
            while (await from.ReadAsync(buffer, _over.Token) is > 0 and var count)
            {
                var allowed = _bytesMax - Interlocked.Add(ref _bytes, count) + count;
                await to.WriteAsync(buffer.AsMemory(0, (int)Math.Clamp(allowed, 0, count)), _over.Token);
                if (allowed < count)
                {
                    await _over.CancelAsync();
                    return;
                }
            }
        }
        catch (Exception exception) when (exception is IOException or OperationCanceledException)
        {
            // As above.
        }
    }
}
