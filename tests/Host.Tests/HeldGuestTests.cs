using System.Buffers;
using System.Buffers.Binary;
using System.Net.Sockets;
using Godwit.GuestStreams.Qemu;
using Godwit.Host.Transfers;
using Godwit.Pages;

namespace Godwit.Host.Tests;

/// <summary>What a QEMU says while a new daemon waits for it to take in what the last one wrote.</summary>
public sealed class HeldGuestTests : IDisposable
{
    private static readonly QemuStreamHead _head = new("pc-q35-10.0", 2, [new RamBlock(0, "ram", 16L << 20)]);
    private readonly Socket _daemon;
    private readonly Socket _qemu;

    public HeldGuestTests()
    {
        string path = Path.Combine(Path.GetTempPath(), $"gw-{Guid.NewGuid():N}");
        using var listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint(path));
        listener.Listen();
        _daemon = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        _daemon.Connect(new UnixDomainSocketEndPoint(path));
        _qemu = listener.Accept();
        File.Delete(path);
    }

    public void Dispose()
    {
        _daemon.Dispose();
        _qemu.Dispose();
    }

    // Type 3: be64 offset, be32 bytes, the block's name.
    private static byte[] Request(long page)
    {
        byte[] message = new byte[4 + 16];
        BinaryPrimitives.WriteUInt16BigEndian(message, 3);
        BinaryPrimitives.WriteUInt16BigEndian(message.AsSpan(2), 16);
        BinaryPrimitives.WriteInt64BigEndian(message.AsSpan(4), page * Page.Size);
        BinaryPrimitives.WriteInt32BigEndian(message.AsSpan(12), Page.Size);
        message[16] = 3;
        "ram"u8.CopyTo(message.AsSpan(17));
        return message;
    }

    private void Answer()
    {
        var output = new ArrayBufferWriter<byte>();
        ReturnPathWriter.Pong(output, HeldGuest.DrainedPing);
        _qemu.Send(output.WrittenSpan);
    }

    [Fact]
    public void What_it_asked_for_meanwhile_is_kept()
    {
        _qemu.Send([.. Request(7), .. Request(9)]);
        Answer();
        var requests = new List<ReturnPathMessage>();
        HeldGuest.Drain(_daemon, _head, requests, HeldGuest.DrainTime);
        Assert.Equal([7L * Page.Size, 9L * Page.Size], requests.Select(request => request.Offset));
    }

    [Fact]
    public async Task One_that_asks_without_end_is_not_taken_up()
    {
        Task flood = Task.Run(() =>
        {
            byte[] many = [.. Enumerable.Range(0, 1024).SelectMany(page => Request(page))];
            try
            {
                while (true)
                {
                    _qemu.Send(many);
                }
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                // The other end has had enough.
            }
        }, TestContext.Current.CancellationToken);
        var requests = new List<ReturnPathMessage>();
        IOException refused = Assert.Throws<IOException>(
            () => HeldGuest.Drain(_daemon, _head, requests, HeldGuest.DrainTime));
        Assert.Contains($"{HeldGuest.RequestsMax} pages", refused.Message, StringComparison.Ordinal);
        Assert.Equal(HeldGuest.RequestsMax, requests.Count);
        _daemon.Dispose();
        await flood;
    }

    // Each message comes soon enough; the answer never does.
    [Fact]
    public async Task One_that_asks_for_ever_is_not_waited_for_for_ever()
    {
        using var stop = new CancellationTokenSource();
        // On a thread of its own, and waited for longer than a busy machine keeps one waiting: a pause between two
        // messages that is as long as the patience is another end.
        Task trickle = Task.Factory.StartNew(
            () =>
            {
                for (long page = 0; !stop.IsCancellationRequested; page++)
                {
                    _qemu.Send(Request(page % 4096));
                    Thread.Sleep(5);
                }
            },
            CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        IOException refused = Assert.Throws<IOException>(
            () => HeldGuest.Drain(_daemon, _head, [], TimeSpan.FromSeconds(5)));
        Assert.Contains("within 5 s", refused.Message, StringComparison.Ordinal);
        await stop.CancelAsync();
        await trickle;
    }
}
