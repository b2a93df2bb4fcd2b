using System.Net;
using System.Net.Sockets;
using System.Text;

namespace Godwit.ChunkStore.Tests.Storage;

/// <summary>Stands before an object gateway, and does what bad servers and bad networks do.</summary>
internal sealed class FaultyGateway : IDisposable
{
    private readonly TcpListener _listener = new(IPAddress.Loopback, 0);
    private readonly Uri _behind;

    public FaultyGateway(string behind)
    {
        _behind = new Uri(behind);
        _listener.Start();
        _ = AcceptAsync();
    }

    public string Endpoint => $"http://{_listener.LocalEndpoint}";

    /// <summary>Told the path of an object before a put of it goes on.</summary>
    public Action<string>? BeforePut { get; set; }

    /// <summary>Answers to puts that are still to be lost on their way back.</summary>
    public int AnswersToLose { get; set; }

    public void Dispose() => _listener.Dispose();

    private async Task AcceptAsync()
    {
        try
        {
            while (true)
            {
                TcpClient client = await _listener.AcceptTcpClientAsync();
                _ = PassAsync(client);
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException or InvalidOperationException)
        {
            // It was disposed of.
        }
    }

    private async Task PassAsync(TcpClient client)
    {
        using var gateway = new TcpClient();
        using (client)
        {
            await gateway.ConnectAsync(_behind.Host, _behind.Port);
            bool isPut = false;
            Task asking = CopyAsync(client, gateway, bytes =>
            {
                string text = Encoding.Latin1.GetString(bytes.Span[..Math.Min(bytes.Length, 500)]);
                if (text.Split(' ') is [{ Length: > 2 } verb, var path, ..] && verb.All(char.IsAsciiLetterUpper))
                {
                    isPut = verb == "PUT";
                    if (isPut)
                    {
                        BeforePut?.Invoke(path);
                    }
                }

                return true;
            });
            Task answering = CopyAsync(gateway, client, bytes =>
            {
                bool isLost = isPut && AnswersToLose > 0 && !bytes.Span.StartsWith("HTTP/1.1 100"u8);
                AnswersToLose -= isLost ? 1 : 0;
                return !isLost;
            });
            await Task.WhenAny(asking, answering);
        }
    }

    private static async Task CopyAsync(TcpClient from, TcpClient to, Func<ReadOnlyMemory<byte>, bool> goesOn)
    {
        byte[] buffer = new byte[64 << 10];
        try
        {
            while (await from.GetStream().ReadAsync(buffer) is > 0 and var count && goesOn(buffer.AsMemory(0, count)))
            {
                await to.GetStream().WriteAsync(buffer.AsMemory(0, count));
            }
        }
        catch (Exception e) when (e is IOException or ObjectDisposedException or InvalidOperationException)
        {
            // One side has gone.
        }
    }
}
