using System.Net.Sockets;
using System.Text;
using System.Text.Json.Nodes;
using Godwit.Host.Qemu;
using Godwit.Migration;

namespace Godwit.Host.Tests.Qemu;

/// <summary>What a real QEMU never says, and how the client takes it. The rest is tested with QEMU itself.</summary>
public sealed class QmpClientTests
{
    private const string Greeting =
        """{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}}, "capabilities": ["oob"]}}""" + "\r\n";

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Messages_may_arrive_in_any_pieces()
    {
        List<QmpEvent> events = [];
        using Peer peer = new();
        Task<QmpClient> opening = QmpClient.OpenAsync("test", peer.ClientSide, events.Add, Token);
        foreach (byte one in Encoding.UTF8.GetBytes(Greeting))
        {
            peer.Say([one]);
        }
        Assert.Equal("qmp_capabilities", (await peer.HearAsync())["execute"]!.GetValue<string>());
        peer.Say("""{"event": "STOP", "timestamp": {}}""" + "\n" + """{"return": {}, "id": 1}""" + "\n");
        using QmpClient client = await opening;
        Assert.Equal(new Version(10, 0, 2), client.Version);
        Assert.True(client.OutOfBand);
        Assert.Equal("STOP", Assert.Single(events).Name);
    }

    [Fact]
    public async Task What_makes_no_sense_is_passed_over()
    {
        using Peer peer = new();
        using QmpClient client = await peer.OpenAsync();
        Task<JsonNode?> answer = client.ExecuteAsync("query-status", null, TimeSpan.FromSeconds(30), Token);
        await peer.HearAsync();
        peer.Say("\n \r\nnot json\n[1,2]\n7\n{}\n" + """{"event": 5}""" + "\n" + """{"return": 1, "id": "2"}""" + "\n"
            + """{"return": 1, "id": 99}""" + "\n" + """{"return": {"status": "running"}, "id": 2}""" + "\n");
        Assert.Equal("running", (await answer)!["status"]!.GetValue<string>());
    }

    // Goal: answers are told apart by id, also when the second comes first.
    [Fact]
    public async Task Answers_may_overtake_each_other()
    {
        using Peer peer = new();
        using QmpClient client = await peer.OpenAsync();
        Task<JsonNode?> first = client.ExecuteAsync("a", null, TimeSpan.FromSeconds(30), Token);
        await peer.HearAsync();
        Task<JsonNode?> second = client.ExecuteOutOfBandAsync("b", null, TimeSpan.FromSeconds(30), Token);
        Assert.Equal("b", (await peer.HearAsync())["exec-oob"]!.GetValue<string>());
        peer.Say("""{"return": "second", "id": 3}""" + "\n" + """{"error": {"class": 1}, "id": 2}""" + "\n");
        Assert.Equal("second", (await second)!.GetValue<string>());
        Assert.Equal("GenericError", (await Assert.ThrowsAsync<QmpException>(() => first)).ErrorClass);
    }

    [Fact]
    public async Task A_line_without_end_ends_the_connection()
    {
        using Peer peer = new();
        using QmpClient client = await peer.OpenAsync();
        Task<JsonNode?> pending = client.ExecuteAsync("query-status", null, TimeSpan.FromSeconds(60), Token);
        await peer.HearAsync();
        Task flood = Task.Run(() =>
        {
            try
            {
                for (int i = 0; i <= QmpReader.LineBytesMax >> 20; i++)
                {
                    peer.Say(new byte[1 << 20]);
                }
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                // The other end has had enough, or this one is put away below.
            }
        }, Token);
        GodwitException ended = await Assert.ThrowsAsync<GodwitException>(() => pending);
        Assert.Equal("qemu-ended", ended.Code);
        Assert.Contains($"{QmpReader.LineBytesMax}", ended.Message, StringComparison.Ordinal);
        peer.Dispose();
        await flood;
    }

    [Fact]
    public async Task No_answer_in_time_is_told_with_the_command()
    {
        using Peer peer = new();
        using QmpClient client = await peer.OpenAsync();
        GodwitException e = await Assert.ThrowsAsync<GodwitException>(
            () => client.ExecuteAsync("query-status", null, TimeSpan.FromMilliseconds(1), Token));
        Assert.Equal("qemu-silent", e.Code);
        Assert.Contains("query-status", e.Message, StringComparison.Ordinal);
        // The late answer hurts nobody.
        peer.Say("""{"return": {}, "id": 2}""" + "\n");
        await peer.HearAsync();
        Task<JsonNode?> next = client.ExecuteAsync("next", null, TimeSpan.FromSeconds(30), Token);
        await peer.HearAsync();
        peer.Say("""{"return": 3, "id": 3}""" + "\n");
        Assert.Equal(3, (await next)!.GetValue<int>());
    }

    [Fact]
    public async Task A_closed_monitor_fails_commands_at_once()
    {
        using Peer peer = new();
        using QmpClient client = await peer.OpenAsync();
        peer.Dispose();
        await client.Ended.WaitAsync(TimeSpan.FromSeconds(30), Token);
        Assert.Equal("qemu-ended", (await Assert.ThrowsAsync<GodwitException>(
            () => client.ExecuteAsync("quit", null, TimeSpan.FromSeconds(30), Token))).Code);
    }

    /// <summary>The other end of the client's socket.</summary>
    private sealed class Peer : IDisposable
    {
        private readonly Socket _socket;
        private readonly StreamReader _reader;

        public Peer()
        {
            string path = Path.Combine(Path.GetTempPath(), Path.GetRandomFileName());
            using Socket listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            listener.Bind(new UnixDomainSocketEndPoint(path));
            listener.Listen(1);
            Socket client = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            client.Connect(new UnixDomainSocketEndPoint(path));
            _socket = listener.Accept();
            File.Delete(path);
            ClientSide = new NetworkStream(client, ownsSocket: true);
            _reader = new StreamReader(new NetworkStream(_socket));
        }

        public NetworkStream ClientSide { get; }

        public async Task<QmpClient> OpenAsync()
        {
            Task<QmpClient> opening = QmpClient.OpenAsync("test", ClientSide, null, Token);
            Say(Greeting);
            await HearAsync();
            Say("""{"return": {}, "id": 1}""" + "\n");
            return await opening;
        }

        public void Say(string text) => Say(Encoding.UTF8.GetBytes(text));

        public void Say(byte[] bytes) => _socket.Send(bytes);

        public async Task<JsonNode> HearAsync() => JsonNode.Parse((await _reader.ReadLineAsync(Token))!)!;

        public void Dispose() => _socket.Dispose();
    }
}
