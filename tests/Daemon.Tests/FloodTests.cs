using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using Godwit.Api.V1;
using Godwit.Daemon.Tests.Guests;
using Godwit.Daemon.Tests.Moves;

namespace Godwit.Daemon.Tests;

/// <summary>More connections than anybody needs, against a real godwitd in the middle of a move.</summary>
public sealed class FloodTests
{
    private const int Connections = 10_000;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    // Goal: a flood neither stops a move nor takes the daemon's memory or file handles, and the operator gets through.
    // Method: 10,000 connections to each door of the destination while a guest moves to it: a third silent, a third
    // with one byte of TLS, a third with plaintext; all are held until the last one stands, and come from another
    // address than the source. What the daemon then has is counted from outside. Afterwards the guest moves back past
    // another flood, which begins before the move does.
    [Fact]
    public async Task Ten_thousand_connections_to_each_door_stop_no_move()
    {
        var begun = Stopwatch.GetTimestamp();
        await using var pair = await MovePair.StartAsync();
        // About 25 seconds for what the guest has; a flood that takes longer meets its end, and the pause with it.
        var slow = new MigrationPolicy { BandwidthBitsPerSecond = 1_000_000, MaxDowntimeMs = 5_000 };
        var before = Cost.Of(pair.B);
        var move = await pair.StartMoveAsync(pair.A, "b", slow);
        await MovePair.UntilCopyingAsync(pair.A, move);
        var moving = Cost.Of(pair.B);
        var most = moving;
        foreach (var door in Doors(pair.B))
        {
            using var flood = await Flood.StartAsync(door);
            var held = Cost.Of(pair.B);
            most = most.Or(held);
            TestContext.Current.TestOutputHelper?.WriteLine(
                $"{door}: {flood.Reached} connections; before {before}, moving {moving}, held {held}");
            await pair.B.Control.GetVersionAsync(
                new GetVersionRequest(), deadline: DateTime.UtcNow.AddSeconds(60), cancellationToken: Token);
        }

        Assert.True(most.Handles < moving.Handles + 800, $"{most} where {moving} were needed");
        Assert.True(most.ResidentMebibytes < 256, $"{most} where {moving} were needed");
        var ended = await MovePair.EndAsync(pair.A, move);
        Assert.True(ended.Outcome == MigrationOutcome.Completed, $"{ended.ErrorCode}: {ended.Error}\n{pair.B.Output}");
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        await pair.B.SaysAsync("Flood: ");
        // In ten seconds each of the three doors may tell of twenty strangers, and of how many it did not tell.
        var lines = 200 + (3 * 21 * (1 + (int)(Stopwatch.GetElapsedTime(begun).TotalSeconds / 10)));
        Assert.InRange(pair.B.Output.Count(character => character == '\n'), 1, lines);

        // A move that begins in a flood: from b to a, whose doors are full of strangers.
        var floods = new List<Flood>();
        foreach (var door in Doors(pair.A))
        {
            floods.Add(await Flood.StartAsync(door, 2_000));
        }

        await pair.MoveAsync(pair.B, "a");
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        floods.ForEach(flood => flood.Dispose());
        await Wait.UntilAsync(
            () => Cost.Of(pair.B).Handles <= before.Handles + 10, $"{Cost.Of(pair.B)} falls back to {before}");
    }

    // Goal: who is let in but proves nothing, or sends a byte now and then, does not stay.
    [Fact]
    public async Task A_stranger_that_stalls_or_trickles_is_dropped_by_a_deadline()
    {
        await using var a = await TestHost.StartAsync("a");
        var doors = new List<(string Name, Stream Stream)>();
        foreach (var port in new[] { a.Settings.PeerPort, a.Settings.LanePort })
        {
            doors.Add(($"{port} in silence", await OpenAsync(port)));
            doors.Add(($"{port} byte by byte", await OpenAsync(port)));
        }

        // TLS without a certificate, and then nothing.
        var tls = new SslStream(await OpenAsync(a.Settings.PeerPort));
        await tls.AuthenticateAsClientAsync(new SslClientAuthenticationOptions
        {
            TargetHost = "a",
            ApplicationProtocols = [SslApplicationProtocol.Http2],
#pragma warning disable CA5359 // The test looks at what the server does with the client.
            RemoteCertificateValidationCallback = (_, _, _, _) => true,
#pragma warning restore CA5359
        }, Token);
        doors.Add(("TLS and silence", tls));
        var local = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        await local.ConnectAsync(new UnixDomainSocketEndPoint(a.Settings.ControlSocket), Token);
        doors.Add(("the control socket in silence", new NetworkStream(local, ownsSocket: true)));
        await Task.WhenAll(doors.Select(door => IsClosedAsync(door.Name, door.Stream)));
    }

    private static async Task<Stream> OpenAsync(int port)
    {
        var client = new Socket(SocketType.Stream, ProtocolType.Tcp);
        await client.ConnectAsync(IPAddress.Loopback, port, Token);
        return new NetworkStream(client, ownsSocket: true);
    }

    private static async Task IsClosedAsync(string name, Stream stream)
    {
        await using var open = stream;
        // The beginning of a record that says it is long.
        byte[] slowly = [0x16, 0x03, 0x01, 0x40, 0x00, .. new byte[200]];
        var buffer = new byte[1024];
        var closed = Task.Run(async () =>
        {
            try
            {
                while (await stream.ReadAsync(buffer, Token) > 0)
                {
                }
            }
            catch (IOException)
            {
                // Reset.
            }
        }, Token);
        for (var sent = 0; sent < slowly.Length && !closed.IsCompleted; sent++)
        {
            if (name.EndsWith("byte by byte", StringComparison.Ordinal))
            {
                try
                {
                    await stream.WriteAsync(slowly.AsMemory(sent, 1), Token);
                }
                catch (IOException)
                {
                    return;
                }
            }

            await Task.WhenAny(closed, Task.Delay(500, Token));
        }

        Assert.True(closed.IsCompleted, $"{name} was never closed");
    }

    private static EndPoint[] Doors(DaemonProcess daemon) =>
    [
        new IPEndPoint(IPAddress.Loopback, daemon.Settings.LanePort),
        new IPEndPoint(IPAddress.Loopback, daemon.Settings.PeerPort),
        new UnixDomainSocketEndPoint(daemon.Settings.ControlSocket),
    ];

    /// <summary>What a process has, by the kernel's count.</summary>
    private sealed record Cost(int Handles, int ResidentMebibytes)
    {
        public static Cost Of(DaemonProcess daemon)
        {
            var line = File.ReadLines($"/proc/{daemon.Id}/status")
                .Single(one => one.StartsWith("VmRSS:", StringComparison.Ordinal));
            var kibibytes = int.Parse(line.Split(' ')[^2], CultureInfo.InvariantCulture);
            return new Cost(Directory.EnumerateFileSystemEntries($"/proc/{daemon.Id}/fd").Count(), kibibytes >> 10);
        }

        public Cost Or(Cost other) =>
            new(Math.Max(Handles, other.Handles), Math.Max(ResidentMebibytes, other.ResidentMebibytes));

        public override string ToString() => $"{Handles} handles and {ResidentMebibytes} MiB";
    }

    /// <summary>Connections to one door, held open at this end until the flood is over.</summary>
    private sealed class Flood : IDisposable
    {
        private readonly List<Socket> _sockets = [];

        public int Reached => _sockets.Count;

        public static async Task<Flood> StartAsync(EndPoint door, int connections = Connections)
        {
            var flood = new Flood();
            for (var number = 0; number < connections; number++)
            {
                var socket = new Socket(door.AddressFamily, SocketType.Stream,
                    door is IPEndPoint ? ProtocolType.Tcp : ProtocolType.Unspecified);
                flood._sockets.Add(socket);
                if (door is IPEndPoint)
                {
                    socket.Bind(new IPEndPoint(IPAddress.Parse("127.0.0.66"), 0));
                }

                await TestHost.ConnectAsync(socket, door, Token);
                try
                {
                    byte[] words = (number % 3) switch
                    {
                        0 => [],
                        1 => [0x16],
                        _ => "GET / HTTP/1.1\r\n\r\n"u8.ToArray(),
                    };
                    await socket.SendAsync(words, Token);
                }
                catch (SocketException)
                {
                    // Dropped already.
                }
            }

            return flood;
        }

        public void Dispose() => _sockets.ForEach(socket => socket.Dispose());
    }
}
