using System.Net;
using System.Net.Sockets;
using System.Threading.Channels;

namespace Godwit.Daemon.Tests.Moves;

/// <summary>
/// Stands before a port of 127.0.0.1 at another address: keeps things back, freezes, and cuts all connections after
/// some bytes.
/// </summary>
internal sealed class Relay : IDisposable
{
    private readonly TcpListener _listener;
    private readonly CancellationTokenSource _over = new();
    private readonly long _bytesMax;
    private readonly int _port;
    private readonly Func<bool> _keeps;
    private readonly Func<bool> _keepsBack;
    private readonly TaskCompletionSource _released = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private long _bytes;
    private int _kept;
    private volatile bool _isFrozen;
    private volatile bool _isLeft;

    /// <param name="keeps">
    /// Asked when something has come for the port: from then on all that comes is kept until it is released.
    /// </param>
    /// <param name="keepsBack">The same of what comes from the port; that is kept for good.</param>
    public Relay(
        string address, int port, long bytesMax = long.MaxValue, Func<bool>? keeps = null,
        Func<bool>? keepsBack = null)
    {
        _keeps = keeps ?? (() => false);
        _keepsBack = keepsBack ?? (() => false);
        _port = port;
        _bytesMax = bytesMax;
        _listener = new TcpListener(IPAddress.Parse(address), port);
        _listener.Start();
        _ = AcceptAsync();
    }

    /// <summary>How often something has come that is kept from the port.</summary>
    public int Kept => Volatile.Read(ref _kept);

    /// <summary>Whoever connected here has said all that there is to say.</summary>
    public bool IsLeft => _isLeft;

    /// <summary>What was kept from the port passes, and so does what comes from now on.</summary>
    public void Release() => _released.TrySetResult();

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
                    PumpAsync(near.GetStream(), far.GetStream(), () => CountIfKept(_keeps()), _released.Task),
                    PumpAsync(far.GetStream(), near.GetStream(), _keepsBack, null));
            }
            catch (Exception exception) when (exception is IOException or SocketException or OperationCanceledException)
            {
                // One end has gone, or the relay: the other is closed below.
            }

            // Reset, as a cut cable's end finally is: no orderly close of either side.
            near.LingerState = far.LingerState = new LingerOption(true, 0);
        }
    }

    private bool CountIfKept(bool isKept)
    {
        if (isKept)
        {
            Interlocked.Increment(ref _kept);
        }

        return isKept;
    }

    /// <param name="released">On the way to the port: ends when what is kept may pass. Null on the way back.</param>
    private async Task PumpAsync(NetworkStream from, NetworkStream to, Func<bool> keeps, Task? released)
    {
        var buffer = new byte[16 << 10];
        var onTheWay = Channel.CreateUnbounded<(bool IsKept, byte[] Bytes)>();
        var delivering = DeliverAsync(onTheWay.Reader, to, released);
        try
        {
            while (await from.ReadAsync(buffer, _over.Token) is > 0 and var count)
            {
                var allowed = _bytesMax - Interlocked.Add(ref _bytes, count) + count;
                onTheWay.Writer.TryWrite((keeps(), buffer[..(int)Math.Clamp(allowed, 0, count)]));
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

        _isLeft |= released is not null;
        onTheWay.Writer.Complete();
        await delivering;
        if (Interlocked.Read(ref _bytes) > _bytesMax)
        {
            await _over.CancelAsync();
        }
    }

    private async Task DeliverAsync(
        ChannelReader<(bool IsKept, byte[] Bytes)> onTheWay, NetworkStream to, Task? released)
    {
        try
        {
            await foreach (var (isKept, bytes) in onTheWay.ReadAllAsync(_over.Token))
            {
                if (isKept)
                {
                    await (released ?? Task.Delay(Timeout.Infinite, _over.Token)).WaitAsync(_over.Token);
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
