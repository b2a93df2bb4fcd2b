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
    private readonly List<(DateTime Sent, DateTime Acknowledged)> _writes = [];
    private readonly string _guest;
    private readonly bool _reconnects;
    private readonly TimeSpan _pause;
    private readonly CancellationToken _stopped;
    private Thread? _thread;
    private NetworkStream? _stream;
    private StreamReader _reader = StreamReader.Null;
    private long _next;
    private long _newest;
    private volatile bool _stop;
    private Exception? _failure;

    /// <param name="reconnects">A connection that breaks is made anew, and what was on its way is sent again.</param>
    /// <param name="pause">Between an acknowledgement and the next write; none: as fast as Redis answers.</param>
    internal RedisWriter(
        string guest, CancellationToken stopped, bool reconnects = false, TimeSpan pause = default)
    {
        _guest = guest;
        _stopped = stopped;
        _reconnects = reconnects;
        _pause = pause;
        Connect();
    }

    public void Dispose()
    {
        _stop = true;
        _thread?.Join();
        Disconnect();
    }

    /// <summary>Begins to write, or goes on after a <see cref="Finish"/>; counts anew.</summary>
    internal void Start()
    {
        _writes.Clear();
        _stop = false;
        _thread = new Thread(Work) { IsBackground = true, Name = "redis writer" };
        _thread.Start();
    }

    /// <summary>Writes acknowledged since the start, so far.</summary>
    internal int Acknowledged => _writes.Count;

    /// <summary>Ends writing; how many writes were acknowledged since the start.</summary>
    internal long Finish()
    {
        _stop = true;
        _thread!.Join();
        return _failure is null
            ? _writes.Count
            : throw new LabException($"Redis's connection broke: {_failure.Message}", _failure);
    }

    /// <summary>Whether a write that was sent after an instant has been acknowledged.</summary>
    internal bool HasAcknowledgedAfter(DateTime instant) => Volatile.Read(ref _newest) >= instant.Ticks;

    /// <summary>When the first write that was sent after an instant was acknowledged; call it when finished.</summary>
    internal DateTime? FirstAcknowledgedAfter(DateTime instant) =>
        _writes.Where(write => write.Sent >= instant).Select(write => (DateTime?)write.Acknowledged).FirstOrDefault();

    /// <summary>Reads every key back.</summary>
    /// <exception cref="LabException">Redis does not answer.</exception>
    internal (int Missing, int Looked) Compare()
    {
        try
        {
            if (_reconnects)
            {
                _stop = false;
                Connect();
                // Nothing but its answer is waited for now: a new connection would bring it no sooner.
                _stream!.ReadTimeout = 180_000;
            }

            return CompareAll();
        }
        catch (IOException e)
        {
            throw new LabException($"Redis in the guest does not answer: {e.Message}", e);
        }
        finally
        {
            if (_reconnects)
            {
                // Who goes on to write makes a connection that it does not wait on for so long.
                Disconnect();
            }
        }
    }

    private (int Missing, int Looked) CompareAll()
    {
        int[] looked = [.. Enumerable.Range(0, Keys).Where(key => _acknowledged[key] != 0)];
        if (looked.Length == 0)
        {
            return (0, 0);
        }

        string? count = "";
        Wait.Until(
            () =>
            {
                Send(["MGET", .. looked.Select(Name)]);
                count = _reader.ReadLine();
                return count?.StartsWith("-LOADING", StringComparison.Ordinal) != true;
            },
            TimeSpan.FromMinutes(5), "redis to read what it had on its disk", _stopped);
        if (count != $"*{looked.Length}")
        {
            throw new LabException($"Redis answered {count ?? "nothing"} to a question for {looked.Length} keys.");
        }

        int missing = 0;
        foreach (int key in looked)
        {
            string header = _reader.ReadLine() ?? throw new LabException("Redis closed the connection.");
            string? value = header == "$-1" ? null : _reader.ReadLine();
            long version = _acknowledged[key];
            // A write that was on its way when a connection broke may have arrived.
            bool isThere = value == Value(key, version) || (_reconnects && value == Value(key, version + 1));
            missing += isThere ? 0 : 1;
        }

        return (missing, looked.Length);
    }

    private static string Name(int key) => string.Create(CultureInfo.InvariantCulture, $"key:{key}");

    private static string Value(int key, long version) =>
        string.Create(
            CultureInfo.InvariantCulture, $"{version}:{new string((char)('a' + (key % 26)), 200)}:{version}");

    private void Connect()
    {
        Disconnect();
        Socket? socket = null;
        Wait.Until(
            () => _stop || (socket = NetworkNamespace.Enter(LabNetwork.Client, () => TryConnect(_guest))) is not null,
            TimeSpan.FromMinutes(10), $"redis in the guest at {_guest}", _stopped);
        if (socket is null)
        {
            return;
        }

        socket.NoDelay = true;
        socket.ReceiveTimeout = _reconnects ? 10_000 : 180_000;
        _stream = new NetworkStream(socket, ownsSocket: true);
        _reader = new StreamReader(_stream, Encoding.ASCII);
    }

    private void Disconnect()
    {
        _reader.Dispose();
        _stream?.Dispose();
        _stream = null;
    }

    private static Socket? TryConnect(string guest)
    {
        Socket socket = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        try
        {
            // Behind a cut link the kernel would try for minutes.
            if (socket.ConnectAsync(IPAddress.Parse(guest), Port).Wait(TimeSpan.FromSeconds(3)))
            {
                return socket;
            }
        }
        catch (AggregateException e) when (e.InnerException is SocketException)
        {
            // Not up yet: the caller asks again.
        }

        socket.Dispose();
        return null;
    }

    private void Work()
    {
        try
        {
            for (; !_stop; _next++)
            {
                while (!TrySet((int)(_next % Keys), (_next / Keys) + 1))
                {
                    if (_stop)
                    {
                        return;
                    }

                    Connect();
                }

                if (_pause > TimeSpan.Zero)
                {
                    Thread.Sleep(_pause);
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
        DateTime sent = DateTime.UtcNow;
        try
        {
            Send("SET", Name(key), Value(key, version));
            string answer = _reader.ReadLine() ?? throw new IOException("redis closed it");
            if (answer != "+OK")
            {
                // Of a Redis that is up and reads what it had: ask again.
                throw new IOException($"redis answered {answer}");
            }
        }
        catch (IOException) when (_reconnects)
        {
            return false;
        }

        _acknowledged[key] = version;
        _writes.Add((sent, DateTime.UtcNow));
        Volatile.Write(ref _newest, sent.Ticks);
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

        NetworkStream stream = _stream ?? throw new IOException("there is no connection");
        stream.Write(Encoding.ASCII.GetBytes(command.ToString()));
    }
}
