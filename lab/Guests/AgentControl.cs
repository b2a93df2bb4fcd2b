using System.Net;
using System.Net.Sockets;
using System.Text.Json;
using Godwit.Lab.Network;

namespace Godwit.Lab.Guests;

/// <summary>The outcome of a verification inside the guest.</summary>
/// <param name="Checked">Pages, or pages and files, looked at.</param>
/// <param name="Wrong">How many of them were lost, stale or damaged.</param>
/// <param name="Named">The first of the wrong ones, each saying which page and why.</param>
internal sealed record Verdict(long Checked, long Wrong, IReadOnlyList<string> Named);

/// <summary>A conversation with the agent's control port, from the client's place outside.</summary>
/// <remarks>It lasts through moves: it is one of the connections that must survive.</remarks>
internal sealed class AgentControl : IDisposable
{
    private const int Port = 7070;

    /// <summary>How long a guest may take to boot: emulated, beside others that want the processors.</summary>
    internal static readonly TimeSpan BootMax = TimeSpan.FromMinutes(5);

    /// <summary>How long it may work for an answer: it reads all its memory, or all its files.</summary>
    internal static readonly TimeSpan WorkMax = TimeSpan.FromMinutes(15);

    private static readonly TimeSpan _answerMax = TimeSpan.FromMinutes(3);

    private readonly Socket _socket;
    private readonly StreamReader _reader;
    private readonly NetworkStream _stream;

    private AgentControl(Socket socket)
    {
        _socket = socket;
        _stream = new NetworkStream(socket, ownsSocket: true);
        _reader = new StreamReader(_stream);
    }

    /// <summary>Connects as soon as the guest has booted.</summary>
    /// <exception cref="LabException">It did not answer within the limit.</exception>
    internal static AgentControl Connect(string guest, TimeSpan limit, CancellationToken token = default)
    {
        Socket? socket = null;
        Wait.Until(
            () =>
            {
                socket = NetworkNamespace.Enter(LabNetwork.Client, () => TryConnect(guest));
                return socket is not null;
            },
            limit, $"the agent of the guest at {guest}", token);
        return new AgentControl(socket!);
    }

    public void Dispose()
    {
        _reader.Dispose();
        _stream.Dispose();
    }

    /// <summary>Sends one command and returns the agent's answer.</summary>
    /// <exception cref="LabException">The agent refused it, or the connection broke.</exception>
    internal JsonElement Ask(string command, TimeSpan? limit = null)
    {
        try
        {
            _socket.ReceiveTimeout = (int)(limit ?? _answerMax).TotalMilliseconds;
            _stream.Write(System.Text.Encoding.ASCII.GetBytes(command + "\n"));
            string line = _reader.ReadLine() ?? throw new IOException("the agent closed it");
            using JsonDocument document = JsonDocument.Parse(line);
            return document.RootElement.TryGetProperty("error", out JsonElement error)
                ? throw new LabException($"The agent refused \"{command}\": {error.GetString()}")
                : document.RootElement.Clone();
        }
        catch (IOException e)
        {
            throw new LabException($"The connection to the agent broke at \"{command}\": {e.Message}", e);
        }
    }

    internal Verdict VerifyMemory() => Judge("verify memory");

    internal Verdict VerifyDisk() => Judge("verify disk");

    /// <summary>Pages written since boot: it may never fall, whatever happens to the guest.</summary>
    internal long PagesWritten() => Ask("status").GetProperty("pagesWritten").GetInt64();

    /// <summary>The longest time between two beats of 5 ms since the last call of this, by the guest's clock.</summary>
    internal double TakeLongestGapMs() => Ask("stats slots=1 reset=1").GetProperty("longestGapMs").GetDouble();

    private Verdict Judge(string command)
    {
        JsonElement answer = Ask(command, WorkMax);
        return new Verdict(
            answer.GetProperty("checked").GetInt64(), answer.GetProperty("wrong").GetInt64(),
            [.. answer.GetProperty("pages").EnumerateArray().Select(page => page.GetRawText())]);
    }

    private static Socket? TryConnect(string guest)
    {
        Socket socket = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
        try
        {
            IAsyncResult attempt = socket.BeginConnect(IPAddress.Parse(guest), Port, null, null);
            if (attempt.AsyncWaitHandle.WaitOne(1000) && socket.Connected)
            {
                socket.EndConnect(attempt);
                return socket;
            }
        }
        catch (SocketException)
        {
            // Not up yet: the caller asks again.
        }

        socket.Dispose();
        return null;
    }
}
