using System.Net.Sockets;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Godwit.Lab.Qemu;

/// <summary>An event as QEMU told it, with QEMU's time stamp.</summary>
internal sealed record QmpEvent(string Name, DateTime Time, JsonElement Data);

/// <summary>Speaks QMP with a QEMU that the lab started itself. One caller at a time.</summary>
internal sealed class QmpClient : IDisposable
{
    private readonly NetworkStream _stream;
    private readonly StreamReader _reader;

    private QmpClient(Socket socket)
    {
        _stream = new NetworkStream(socket, ownsSocket: true);
        _reader = new StreamReader(_stream);
    }

    internal List<QmpEvent> Events { get; } = [];

    internal static QmpClient Connect(string path, TimeSpan limit)
    {
        Socket? socket = null;
        Wait.Until(
            () =>
            {
                Socket attempt = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                try
                {
                    attempt.Connect(new UnixDomainSocketEndPoint(path));
                    socket = attempt;
                    return true;
                }
                catch (SocketException)
                {
                    attempt.Dispose();
                    return false;
                }
            },
            limit, $"QEMU's monitor at {path}");
        socket!.ReceiveTimeout = 180_000;
        QmpClient client = new(socket);
        client.Read(); // the greeting
        client.Execute("qmp_capabilities");
        return client;
    }

    public void Dispose()
    {
        _reader.Dispose();
        _stream.Dispose();
    }

    /// <summary>Executes a command; events that arrive meanwhile are kept in <see cref="Events"/>.</summary>
    /// <exception cref="LabException">QEMU refused it or is gone.</exception>
    internal JsonElement Execute(string command, JsonObject? arguments = null)
    {
        JsonObject request = new() { ["execute"] = command };
        if (arguments is not null)
        {
            request["arguments"] = arguments;
        }

        try
        {
            _stream.Write(System.Text.Encoding.UTF8.GetBytes(request.ToJsonString() + "\n"));
            for (; ; )
            {
                JsonElement answer = Read();
                if (answer.TryGetProperty("return", out JsonElement value))
                {
                    return value;
                }

                if (answer.TryGetProperty("error", out JsonElement error))
                {
                    throw new LabException($"QEMU refused {command}: {error.GetProperty("desc").GetString()}");
                }
            }
        }
        catch (IOException e)
        {
            throw new LabException($"QEMU's monitor broke at {command}: {e.Message}", e);
        }
    }

    private JsonElement Read()
    {
        string line = _reader.ReadLine() ?? throw new IOException("QEMU closed it");
        using JsonDocument document = JsonDocument.Parse(line);
        JsonElement root = document.RootElement.Clone();
        if (root.TryGetProperty("event", out JsonElement name))
        {
            JsonElement time = root.GetProperty("timestamp");
            Events.Add(new QmpEvent(
                name.GetString()!,
                DateTime.UnixEpoch.AddSeconds(time.GetProperty("seconds").GetInt64())
                    .AddMicroseconds(time.GetProperty("microseconds").GetInt64()),
                root.TryGetProperty("data", out JsonElement data) ? data : default));
        }

        return root;
    }
}
