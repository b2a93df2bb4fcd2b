using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Threading.Channels;

namespace Godwit.Daemon.Tests.Moves;

/// <summary>
/// Stands before a port of 127.0.0.1 at another address: delays, freezes, and cuts all connections after some bytes.
/// </summary>
internal sealed class Relay : IDisposable
{
    private readonly TcpListener _listener;
    private readonly CancellationTokenSource _over = new();
    private readonly long _bytesMax;
    private readonly int _port;
    private readonly TimeSpan _delay;
    private long _bytes;
    private volatile bool _isFrozen;

    public Relay(string address, int port, long bytesMax = long.MaxValue, TimeSpan delay = default)
    {
        _delay = delay;
        _port = port;
        _bytesMax = bytesMax;
        _listener = new TcpListener(IPAddress.Parse(address), port);
        _listener.Start();
        _ = AcceptAsync();
    }

    /// <summary>Nothing passes any more, and nobody is told: a cable that was pulled out.</summary>
    public void Freeze() => _isFrozen = true;

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
        var onTheWay = Channel.CreateUnbounded<(long SentAt, byte[] Bytes)>();
        var delivering = DeliverAsync(onTheWay.Reader, to);
        try
        {
            while (await from.ReadAsync(buffer, _over.Token) is > 0 and var count)
            {
                var allowed = _bytesMax - Interlocked.Add(ref _bytes, count) + count;
                onTheWay.Writer.TryWrite(
                    (Stopwatch.GetTimestamp(), buffer[..(int)Math.Clamp(allowed, 0, count)]));
                if (allowed < count)
                {
                    break;
                }
            }
        }
        catch (Exception exception) when (exception is IOException or OperationCanceledException)
        {
            // As above.
        }

        onTheWay.Writer.Complete();
        await delivering;
        if (Interlocked.Read(ref _bytes) > _bytesMax)
        {
            await _over.CancelAsync();
        }
    }

    private async Task DeliverAsync(ChannelReader<(long SentAt, byte[] Bytes)> onTheWay, NetworkStream to)
    {
        try
        {
            await foreach (var (sentAt, bytes) in onTheWay.ReadAllAsync(_over.Token))
            {
                var left = _delay - Stopwatch.GetElapsedTime(sentAt);
                if (left > TimeSpan.Zero)
                {
                    await Task.Delay(left, _over.Token);
                }

                await Task.Delay(_isFrozen ? Timeout.Infinite : 0, _over.Token);
                await to.WriteAsync(bytes, _over.Token);
            }
        }
        catch (Exception exception) when (exception is IOException or OperationCanceledException)
        {
            // As above.
        }
    }
}
