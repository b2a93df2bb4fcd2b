using System.Buffers.Binary;
using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using System.Security.Authentication;
using System.Security.Cryptography.X509Certificates;
using Godwit.Host.Trust;
using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Host.Transfers;

/// <summary>One TLS connection of a transfer: lane 0 carries control messages, the others pages.</summary>
/// <remarks>
/// One thread reads and one writes; each direction has one owner. Reads and writes block: a page lane is a loop of
/// large writes, and a thread of its own costs less than an asynchronous state machine per frame.
/// </remarks>
internal sealed class Lane : IDisposable
{
    // Frames of a page lane are up to 256 KiB; TLS cuts them into records of 16 KiB by itself.
    private const int HandshakeMilliseconds = 10_000;
    private const long NoFrame = -1;
    private const int TcpInfo = 11;
    private readonly Socket _socket;
    private readonly CountingStream _counter;
    private readonly SslStream _tls;
    private readonly byte[] _header = new byte[FrameHeader.Size];
    private readonly Timer _watch;
    private long _frameSince = NoFrame;
    private int _closed;

    private Lane(Socket socket, CountingStream counter, SslStream tls, int number)
    {
        _socket = socket;
        _counter = counter;
        _tls = tls;
        Number = number;
        _watch = new Timer(_ => DropTrickle(), null, TimeSpan.FromSeconds(1), TimeSpan.FromSeconds(1));
    }

    /// <summary>
    /// How long a frame that has begun may take to come whole; two lanes of 35 kbit/s do it. Between frames the engines
    /// watch the silence.
    /// </summary>
    internal TimeSpan FrameTime { get; set; } = TimeSpan.FromMinutes(2);

    /// <summary>0 for the control lane.</summary>
    public int Number { get; }

    /// <summary>The host that the peer's certificate binds.</summary>
    public string PeerHost =>
        _tls.RemoteCertificate is X509Certificate2 certificate ? HostIdentity.NameOf(certificate) ?? "" : "";

    /// <summary>Bytes written to the network, TLS records and handshake included.</summary>
    public long NetworkBytesWritten => _counter.Written;

    /// <summary>
    /// Time in which bytes were on their way and the receiver's window had room for more; null where the kernel does
    /// not tell. Counted in ticks of the kernel, of 1 to 10 ms: only sums over many writes say something.
    /// </summary>
    public TimeSpan? Carried
    {
        get
        {
            // struct tcp_info of linux/tcp.h: busy_time and rwnd_limited, in microseconds, since Linux 4.9.
            const int busyAt = 168;
            Span<byte> info = stackalloc byte[busyAt + (2 * sizeof(long))];
            try
            {
                return _socket.GetRawSocketOption((int)SocketOptionLevel.Tcp, TcpInfo, info) < info.Length
                    ? null
                    : TimeSpan.FromMicroseconds(
                        BinaryPrimitives.ReadInt64LittleEndian(info[busyAt..])
                        - BinaryPrimitives.ReadInt64LittleEndian(info[(busyAt + sizeof(long))..]));
            }
            catch (SocketException)
            {
                return null;
            }
        }
    }

    /// <summary>Connects, shakes hands and presents the ticket.</summary>
    /// <exception cref="IOException">The lane was not accepted; the message says why.</exception>
    public static async Task<Lane> ConnectAsync(
        IPEndPoint endpoint, SslClientAuthenticationOptions options, int version, int number, byte[] ticket,
        CancellationToken cancellationToken)
    {
        using var deadline = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        deadline.CancelAfter(HandshakeMilliseconds);
        var socket = new Socket(endpoint.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
        try
        {
            Prepare(socket, number);
            await socket.ConnectAsync(endpoint, deadline.Token);
            var counter = new CountingStream(new NetworkStream(socket, ownsSocket: true));
            var tls = new SslStream(counter);
            await tls.AuthenticateAsClientAsync(options, deadline.Token);
            var lane = new Lane(socket, counter, tls, number);
            byte[] preamble = new byte[LanePreamble.Size];
            LanePreamble.Write(preamble, version, number, ticket);
            await tls.WriteAsync(preamble, deadline.Token);
            await lane.ExpectAcceptanceAsync(endpoint, deadline.Token);
            return lane;
        }
        catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
        {
            socket.Dispose();
            throw new IOException(
                $"Lane {number} to {endpoint} was not accepted within {HandshakeMilliseconds / 1000} s.");
        }
        catch (Exception e) when (e is SocketException or AuthenticationException)
        {
            socket.Dispose();
            throw new IOException($"Lane {number} to {endpoint} cannot be opened: {e.Message}", e);
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    /// <summary>Takes a connection through the handshake to its preamble; the caller limits its time.</summary>
    public static async Task<(Lane Lane, int Version, byte[] Ticket)> AcceptAsync(
        Socket socket, SslServerAuthenticationOptions options, CancellationToken cancellationToken)
    {
        try
        {
            var counter = new CountingStream(new NetworkStream(socket, ownsSocket: true));
            var tls = new SslStream(counter);
            await tls.AuthenticateAsServerAsync(options, cancellationToken);
            byte[] preamble = new byte[LanePreamble.Size];
            await tls.ReadExactlyAsync(preamble, cancellationToken);
            (int version, int number, byte[] ticket) = LanePreamble.Read(preamble);
            Prepare(socket, number);
            return (new Lane(socket, counter, tls, number), version, ticket);
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    /// <summary>Answers the preamble; a refusal says why.</summary>
    public void Answer(string? refusal)
    {
        byte[] body = System.Text.Encoding.UTF8.GetBytes(refusal ?? "");
        byte[] frame = new byte[FrameHeader.Size + body.Length];
        new FrameHeader(refusal is null ? FrameType.LaneAccepted : FrameType.LaneRefused, body.Length).Write(frame);
        body.CopyTo(frame, FrameHeader.Size);
        _tls.Write(frame);
    }

    /// <summary>Writes a frame whose header space lies before the body in the same buffer.</summary>
    public void Write(ReadOnlySpan<byte> frame) => _tls.Write(frame);

    /// <summary>Reads one frame's body into the buffer.</summary>
    /// <returns>Type and body length; null at an orderly end between frames.</returns>
    /// <exception cref="StreamFormatException">
    /// The frame is longer than the buffer: the peer's claim is not believed.
    /// </exception>
    public FrameHeader? Read(byte[] buffer)
    {
        int got = _tls.ReadAtLeast(_header, FrameHeader.Size, throwOnEndOfStream: false);
        if (got == 0)
        {
            return null;
        }

        if (got < FrameHeader.Size)
        {
            throw new EndOfStreamException($"Lane {Number} ended inside a frame's header.");
        }

        FrameHeader header = FrameHeader.Read(_header, buffer.Length);
        Interlocked.Exchange(ref _frameSince, Environment.TickCount64);
        try
        {
            _tls.ReadExactly(buffer.AsSpan(0, header.BodyLength));
            return header;
        }
        catch (Exception e) when (IsLate && e is IOException or ObjectDisposedException)
        {
            throw new IOException(
                $"A frame of {header.BodyLength} bytes on lane {Number} had not come within "
                + $"{FrameTime.TotalSeconds:0.#} s.", e);
        }
        finally
        {
            Interlocked.Exchange(ref _frameSince, NoFrame);
        }
    }

    /// <summary>Ends the connection; a thread blocked in it wakes with an error. Idempotent.</summary>
    public void Close()
    {
        if (Interlocked.Exchange(ref _closed, 1) != 0)
        {
            return;
        }

        try
        {
            _socket.Shutdown(SocketShutdown.Both);
        }
        catch (SocketException)
        {
            // Already gone, which is what is wanted.
        }
        catch (ObjectDisposedException)
        {
        }
    }

    public void Dispose()
    {
        _watch.Dispose();
        Close();
        _tls.Dispose();
    }

    private bool IsLate => Interlocked.Read(ref _frameSince) is not NoFrame and var since
        && Environment.TickCount64 - since > FrameTime.TotalMilliseconds;

    // The reader blocks in TLS, which has no deadline of its own.
    private void DropTrickle()
    {
        if (IsLate)
        {
            Close();
        }
    }

    private static void Prepare(Socket socket, int number)
    {
        socket.NoDelay = true;
        if (number == 0)
        {
            return;
        }

        // Lower effort (RFC 3662, CS1): a router or queueing discipline that knows classes lets the guest's own
        // traffic pass first. Refused by some containers, and then nothing is lost.
        try
        {
            socket.SetSocketOption(SocketOptionLevel.IP, SocketOptionName.TypeOfService, 0x20);
        }
        catch (SocketException)
        {
        }
    }

    private async Task ExpectAcceptanceAsync(IPEndPoint endpoint, CancellationToken cancellationToken)
    {
        byte[] header = new byte[FrameHeader.Size];
        await _tls.ReadExactlyAsync(header, cancellationToken);
        FrameHeader answer = FrameHeader.Read(header, 4096);
        byte[] body = new byte[answer.BodyLength];
        await _tls.ReadExactlyAsync(body, cancellationToken);
        if (answer.Type != FrameType.LaneAccepted)
        {
            throw new IOException($"{endpoint} refused lane {Number}: {PeerText.Decode(body)}");
        }
    }
}

/// <summary>Counts what goes through to the network below TLS.</summary>
internal sealed class CountingStream(Stream inner) : Stream
{
    private long _written;

    public long Written => Interlocked.Read(ref _written);

    public override bool CanRead => true;
    public override bool CanSeek => false;
    public override bool CanWrite => true;
    public override long Length => throw new NotSupportedException();
    public override long Position
    {
        get => throw new NotSupportedException();
        set => throw new NotSupportedException();
    }

    public override int Read(byte[] buffer, int offset, int count) => inner.Read(buffer, offset, count);
    public override int Read(Span<byte> buffer) => inner.Read(buffer);
    public override ValueTask<int> ReadAsync(Memory<byte> buffer, CancellationToken cancellationToken = default) =>
        inner.ReadAsync(buffer, cancellationToken);

    public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));

    public override void Write(ReadOnlySpan<byte> buffer)
    {
        Interlocked.Add(ref _written, buffer.Length);
        inner.Write(buffer);
    }

    public override ValueTask WriteAsync(ReadOnlyMemory<byte> buffer, CancellationToken cancellationToken = default)
    {
        Interlocked.Add(ref _written, buffer.Length);
        return inner.WriteAsync(buffer, cancellationToken);
    }

    public override void Flush() => inner.Flush();
    public override Task FlushAsync(CancellationToken cancellationToken) => inner.FlushAsync(cancellationToken);
    public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();
    public override void SetLength(long value) => throw new NotSupportedException();

    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            inner.Dispose();
        }

        base.Dispose(disposing);
    }
}
