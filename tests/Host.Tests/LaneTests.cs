using System.Buffers;
using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using Godwit.Host.Transfers;
using Godwit.Host.Trust;
using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Host.Tests;

/// <summary>One lane over real TLS, and a peer that sends as it pleases.</summary>
public sealed class LaneTests : IAsyncDisposable
{
    private static readonly ControlMessage[] _messages =
    [
        new ControlMessage.Prologue(new byte[] { 1, 2, 3 }), new ControlMessage.StreamCommand(11, new byte[] { 7 }),
        new ControlMessage.DeviceState(new byte[2000]), new ControlMessage.Received(1L << 40),
        new ControlMessage.Ping(7), new ControlMessage.PagesPlaced(),
        new ControlMessage.Loaded(TimeSpan.FromTicks(3), TimeSpan.FromTicks(4)), new ControlMessage.Commit(),
        new ControlMessage.Running(TimeSpan.FromTicks(1), TimeSpan.FromTicks(2), TimeSpan.FromTicks(3)),
        new ControlMessage.Abort("link-lost", "b does not answer"),
    ];

    private readonly string _directory = Directory.CreateTempSubdirectory("gw-lane-").FullName;
    private readonly byte[] _buffer = new byte[FrameHeader.ControlBodyMax];
    private ClusterTrust? _trust;
    private Lane _sender = null!;
    private Lane _receiver = null!;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    private async Task OpenAsync()
    {
        _trust ??= ClusterTrust.LoadOrCreate(_directory, "a", "127.0.0.1", TimeProvider.System);
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        Task<Lane> connecting = Lane.ConnectAsync(
            (IPEndPoint)listener.LocalEndpoint, _trust.ClientOptions("a"), 1, 0, new byte[LanePreamble.TicketBytes],
            Token);
        (_receiver, _, _) = await Lane.AcceptAsync(
            await listener.AcceptSocketAsync(Token), _trust.ServerOptions(), Token);
        _receiver.Answer(null);
        _sender = await connecting;
        Assert.Equal("a", _receiver.PeerHost);
    }

    public ValueTask DisposeAsync()
    {
        _sender?.Dispose();
        _receiver?.Dispose();
        Directory.Delete(_directory, recursive: true);
        return ValueTask.CompletedTask;
    }

    // Goal: how control messages are cut on their way never matters. Method: all of them, whole, in two pieces at every
    // offset, and byte by byte, each piece a TLS record of its own.
    [Fact]
    public async Task Control_messages_cut_anywhere_are_the_same()
    {
        await OpenAsync();
        byte[] frames = Encode(_messages);
        Task sending = Task.Run(() =>
        {
            for (int cut = 1; cut <= frames.Length; cut++)
            {
                _sender.Write(frames.AsSpan(0, cut));
                _sender.Write(frames.AsSpan(cut));
            }

            foreach (byte one in frames)
            {
                _sender.Write([one]);
            }
        }, Token);
        for (int time = 0; time <= frames.Length; time++)
        {
            ControlMessage[] read = [.. _messages.Select(_ => Read())];
            Assert.True(frames.AsSpan().SequenceEqual(Encode(read)), $"cut at {time + 1}");
        }

        await sending;
    }

    // Goal: a length is a claim. Method: what the reading thread allocates from the header on, measured; of several
    // lanes the least, for what the runtime sets up once it charges to the thread that needs it first.
    [Theory]
    [InlineData(FrameHeader.ControlBodyMax)]
    [InlineData(FrameHeader.ControlBodyMax + 1)]
    [InlineData(int.MaxValue)]
    [InlineData(-1)]
    public async Task A_stated_length_takes_no_memory_before_its_bytes_come(int length)
    {
        long least = long.MaxValue;
        for (int time = 0; time < 3; time++)
        {
            _sender?.Dispose();
            _receiver?.Dispose();
            await OpenAsync();
            least = Math.Min(least, await TakenByAsync(length));
        }

        Assert.InRange(least, 0, 64 << 10);
    }

    private async Task<long> TakenByAsync(int length)
    {
        byte[] header = new byte[FrameHeader.Size];
        new FrameHeader(FrameType.Prologue, length).Write(header);
        _sender.Write(header);
        long taken = 0;
        Task reading = Task.Factory.StartNew(() =>
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            try
            {
                _receiver.Read(_buffer);
                Assert.Fail("a frame came of which nothing was sent");
            }
            catch (Exception e) when (e is StreamFormatException or IOException)
            {
                Assert.Equal(length is > FrameHeader.ControlBodyMax or < 0, e is StreamFormatException);
            }

            taken = GC.GetAllocatedBytesForCurrentThread() - before;
        }, TaskCreationOptions.LongRunning);
        await Task.WhenAny(reading, Task.Delay(300, Token));
        _sender.Dispose();
        await reading;
        return taken;
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_frame_that_stalls_or_trickles_ends_the_lane(bool trickles)
    {
        await OpenAsync();
        _receiver.FrameTime = TimeSpan.FromSeconds(1);
        byte[] frame = Encode([new ControlMessage.Prologue(new byte[100_000])]);
        _sender.Write(frame.AsSpan(0, 100));
        Task<IOException> reading = Task.Run(
            () => Assert.Throws<IOException>(() => { _receiver.Read(_buffer); }), Token);
        for (int sent = 100; trickles && sent < frame.Length && !reading.IsCompleted; sent++)
        {
            try
            {
                _sender.Write(frame.AsSpan(sent, 1));
            }
            catch (IOException)
            {
                break;
            }

            await Task.WhenAny(reading, Task.Delay(100, Token));
        }

        Assert.Contains(
            "100000 bytes on lane 0 had not come within 1 s", (await reading).Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_lane_may_be_silent_between_frames_for_as_long_as_the_engines_allow()
    {
        await OpenAsync();
        _receiver.FrameTime = TimeSpan.FromMilliseconds(100);
        Task<ControlMessage> reading = Task.Run(Read, Token);
        await Task.Delay(2500, Token);
        _sender.Write(Encode([new ControlMessage.Ping(9)]));
        Assert.Equal(new ControlMessage.Ping(9), await reading);
    }

    // Goal: a receiver that does not read is not taken for a link that is full. Method: more than its buffers hold, and
    // a time in which it takes nothing; on loopback everything is carried at once. How long that takes is for the
    // machine to say: from then on what was carried stays, and the time in which nothing moves grows.
    [Fact]
    public async Task A_receiver_that_does_not_read_is_not_the_link()
    {
        await OpenAsync();
        Assert.NotNull(_sender.Carried);
        byte[] frame = Encode([new ControlMessage.Prologue(new byte[100_000])]);
        long begun = Stopwatch.GetTimestamp();
        Task sending = Task.Run(
            () =>
            {
                for (int i = 0; i < 300; i++)
                {
                    _sender.Write(frame);
                }
            },
            Token);
        TimeSpan carried;
        TimeSpan stalled;
        do
        {
            await Task.Delay(500, Token);
            carried = _sender.Carried!.Value;
            stalled = Stopwatch.GetElapsedTime(begun);
        }
        while (carried >= stalled / 2 && stalled < TimeSpan.FromSeconds(60));
        Assert.False(sending.IsCompleted);
        Assert.True(carried < stalled / 2, $"{carried} of {stalled}");
        for (int i = 0; i < 300; i++)
        {
            Read();
        }

        await sending;
    }

    private static byte[] Encode(IEnumerable<ControlMessage> messages)
    {
        var writer = new ArrayBufferWriter<byte>();
        foreach (ControlMessage message in messages)
        {
            message.Encode(writer);
        }

        return writer.WrittenSpan.ToArray();
    }

    private ControlMessage Read()
    {
        FrameHeader header = _receiver.Read(_buffer)!.Value;
        return ControlMessage.Decode(header.Type, _buffer.AsSpan(0, header.BodyLength));
    }
}
