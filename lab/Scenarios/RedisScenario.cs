using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;
using Godwit.Api.V1;
using Godwit.Lab.Daemons;
using Godwit.Lab.Network;
using Godwit.Lab.Outside;
using Godwit.Lab.Qemu;

namespace Godwit.Lab.Scenarios;

/// <summary>
/// A real server in the guest: Redis from Debian's packages, written to by the client during the move.
/// </summary>
internal static class RedisScenario
{
    private const int Port = 6379;
    private const int Keys = 4000;

    internal static Scenario Scenario { get; } =
        new("redis", "Redis under load from the client; every acknowledged write is there after the move", Play);

    private static void Play(ScenarioRun run)
    {
        LabDaemons daemons = run.Own(LabDaemons.Start());
        LabGuest guest = LabGuest.Boot(run, daemons, new GuestShape(1, 256, 1, Redis: true), MemoryBacking.Shared);
        Writer writer = run.Own(new Writer(guest.Shape.Address, run.Stopped));
        OutsideClient client = run.Own(OutsideClient.Start(guest.Shape.Address));
        DateTime start = DateTime.UtcNow;
        long written = guest.Agent.PagesWritten();
        writer.Start();
        MoveResult move = guest.Move("b", client, new MigrationPolicy());
        run.Expect(move.Outcome == "completed", $"the move ended as \"{move.Outcome}\": {move.Error}");
        long acknowledged = writer.Finish();
        (int missing, int looked) = writer.Compare();
        run.Display.Line(
            $"  redis: {acknowledged} writes acknowledged during the run, "
            + $"{looked} keys read back, {missing} missing or old");
        run.Expect(acknowledged > 100, $"redis acknowledged only {acknowledged} writes: that proves nothing");
        run.Expect(missing == 0, $"{missing} acknowledged writes are not there after the move");
        client.Finish();
        run.Judge(client.Report(start, DateTime.UtcNow));
        run.Verify(guest.Agent, written);
    }

    /// <summary>One connection that sets numbered keys to growing values, and remembers the acknowledged.</summary>
    private sealed class Writer : IDisposable
    {
        private readonly long[] _acknowledged = new long[Keys];
        private readonly NetworkStream _stream;
        private readonly StreamReader _reader;
        private readonly Thread _thread;
        private volatile bool _stop;
        private Exception? _failure;
        private long _count;

        internal Writer(string guest, CancellationToken token)
        {
            Socket? socket = null;
            Wait.Until(
                () => (socket = NetworkNamespace.Enter(LabNetwork.Client, () => TryConnect(guest))) is not null,
                TimeSpan.FromSeconds(60), $"redis in the guest at {guest}", token);
            socket!.NoDelay = true;
            socket.ReceiveTimeout = 30_000;
            _stream = new NetworkStream(socket, ownsSocket: true);
            _reader = new StreamReader(_stream, Encoding.ASCII);
            _thread = new Thread(Work) { IsBackground = true };
        }

        public void Dispose()
        {
            _stop = true;
            if (_thread.ThreadState != System.Threading.ThreadState.Unstarted)
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
        internal (int Missing, int Looked) Compare()
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
                missing += value == Value(key, _acknowledged[key]) ? 0 : 1;
            }

            return (missing, looked);
        }

        private static string Name(int key) => string.Create(CultureInfo.InvariantCulture, $"key:{key}");

        private static string Value(int key, long version) =>
            string.Create(
                CultureInfo.InvariantCulture, $"{version}:{new string((char)('a' + (key % 26)), 200)}:{version}");

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
                        Send("SET", Name(key), Value(key, version));
                        string answer = _reader.ReadLine() ?? throw new IOException("redis closed it");
                        if (answer != "+OK")
                        {
                            throw new IOException($"redis answered {answer}");
                        }

                        _acknowledged[key] = version;
                        _count++;
                    }
                }
            }
            catch (IOException e)
            {
                _failure = e;
            }
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
}
