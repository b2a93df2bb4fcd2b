using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;
using Godwit.Lab.Network;

namespace Godwit.Lab.Outside;

/// <summary>Sets numbered keys of a Redis in the guest to growing values, and remembers the acknowledged.</summary>
internal sealed class RedisWriter : IDisposable
{
    private const int Port = 6379;
    private const int Keys = 4000;
    private readonly long[] _acknowledged = new long[Keys];
    private readonly string _guest;
    private readonly bool _reconnects;
    private readonly Thread _thread;
    private readonly CancellationToken _stopped;
    private NetworkStream _stream = null!;
    private StreamReader _reader = null!;
    private volatile bool _stop;
    private Exception? _failure;
    private long _count;

    /// <param name="reconnects">A connection that breaks is made anew, and what was on its way is sent again.</param>
    internal RedisWriter(string guest, CancellationToken stopped, bool reconnects = false)
    {
        _guest = guest;
        _stopped = stopped;
        _reconnects = reconnects;
        Connect();
        _thread = new Thread(Work) { IsBackground = true };
    }

    public void Dispose()
    {
        _stop = true;
        if (_thread.ThreadState != ThreadState.Unstarted)
        {
            _thread.Join();
        }

        _reader.Dispose();
        _stream.Dispose();
    }

    internal void Start() => _thread.Start();

    /// <summary>Ends writing; how many writes were acknowledged.</summary>
    internal long Finish()
    {
        _stop = true;
        _thread.Join();
        return _failure is null
            ? _count
            : throw new LabException($"Redis's connection broke: {_failure.Message}", _failure);
    }

    /// <summary>Reads every key back.</summary>
    /// <exception cref="LabException">Redis does not answer.</exception>
    internal (int Missing, int Looked) Compare()
    {
        try
        {
            return CompareAll();
        }
        catch (IOException e)
        {
            throw new LabException($"Redis in the guest does not answer: {e.Message}", e);
        }
    }

    private (int Missing, int Looked) CompareAll()
    {
        int missing = 0;
        int looked = 0;
        for (int key = 0; key < Keys; key++)
        {
            if (_acknowledged[key] == 0)
            {
                continue;
            }

            Send("GET", Name(key));
            string header = _reader.ReadLine() ?? throw new LabException("Redis closed the connection.");
            string? value = header == "$-1" ? null : _reader.ReadLine();
            looked++;
            // A write that was on its way when a connection broke may have arrived.
            bool isThere = value == Value(key, _acknowledged[key])
                || (_reconnects && value == Value(key, _acknowledged[key] + 1));
            missing += isThere ? 0 : 1;
        }

        return (missing, looked);
    }

    private static string Name(int key) => string.Create(CultureInfo.InvariantCulture, $"key:{key}");

    private static string Value(int key, long version) =>
        string.Create(
            CultureInfo.InvariantCulture, $"{version}:{new string((char)('a' + (key % 26)), 200)}:{version}");

    private void Connect()
    {
        Socket? socket = null;
        Wait.Until(
            () => _stop || (socket = NetworkNamespace.Enter(LabNetwork.Client, () => TryConnect(_guest))) is not null,
            TimeSpan.FromSeconds(60), $"redis in the guest at {_guest}", _stopped);
        if (socket is null)
        {
            return;
        }

        socket.NoDelay = true;
        socket.ReceiveTimeout = 30_000;
        _stream = new NetworkStream(socket, ownsSocket: true);
        _reader = new StreamReader(_stream, Encoding.ASCII);
    }

    private static Socket? TryConnect(string guest)
    {
        Socket socket = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        try
        {
            socket.Connect(IPAddress.Parse(guest), Port);
            return socket;
        }
        catch (SocketException)
        {
            socket.Dispose();
            return null;
        }
    }

    private void Work()
    {
        try
        {
            for (long version = 1; !_stop; version++)
            {
                for (int key = 0; key < Keys && !_stop; key++)
                {
                    while (!TrySet(key, version) && !_stop)
                    {
                        Connect();
                    }
                }
            }
        }
        catch (Exception e) when (e is IOException or LabException or OperationCanceledException)
        {
            _failure = e;
        }
    }

    private bool TrySet(int key, long version)
    {
        try
        {
            Send("SET", Name(key), Value(key, version));
            string answer = _reader.ReadLine() ?? throw new IOException("redis closed it");
            if (answer != "+OK")
            {
                throw new IOException($"redis answered {answer}");
            }
        }
        catch (IOException) when (_reconnects)
        {
            return false;
        }

        _acknowledged[key] = version;
        _count++;
        return true;
    }

    private void Send(params string[] words)
    {
        StringBuilder command = new();
        command.Append(CultureInfo.InvariantCulture, $"*{words.Length}\r\n");
        foreach (string word in words)
        {
            command.Append(CultureInfo.InvariantCulture, $"${word.Length}\r\n{word}\r\n");
        }

        _stream.Write(Encoding.ASCII.GetBytes(command.ToString()));
    }
}
