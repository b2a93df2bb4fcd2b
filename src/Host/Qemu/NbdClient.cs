using System.Buffers.Binary;
using System.Net.Sockets;
using System.Text;

namespace Godwit.Host.Qemu;

/// <summary>Asks QEMU's NBD server which parts of an export a dirty bitmap names. It reads no data.</summary>
/// <remarks>
/// Of the protocol (github.com/NetworkBlockDevice/nbd, doc/proto.md) only what that takes: the fixed newstyle
/// handshake, structured replies, one metadata context, and BLOCK_STATUS. The server is this host's own QEMU, whose
/// lengths are weighed all the same.
/// </remarks>
internal sealed class NbdClient : IDisposable
{
    private const ulong Greeting = 0x4e42444d41474943;
    private const ulong OptionMagic = 0x49484156454f5054;
    private const ulong OptionReplyMagic = 0x3e889045565a9;
    private const uint RequestMagic = 0x25609513;
    private const uint StructuredReplyMagic = 0x668e33ef;
    private const uint OptionGo = 7;
    private const uint OptionStructuredReply = 8;
    private const uint OptionSetMetaContext = 10;
    private const uint ReplyAcknowledged = 1;
    private const uint ReplyInformation = 3;
    private const uint ReplyMetaContext = 4;
    private const uint ReplyErrorBit = 1u << 31;
    private const ushort CommandDisconnect = 2;
    private const ushort CommandBlockStatus = 7;
    private const ushort ChunkBlockStatus = 5;
    private const ushort ChunkErrorBit = 1 << 15;
    private const ushort ChunkDone = 1;
    private const int ReplyBytesMax = 16 << 20;
    private const long AskedBytesMax = 1L << 30;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(10);
    private readonly Socket _socket;

    private NbdClient(Socket socket) => _socket = socket;

    /// <summary>Bytes of the export.</summary>
    public long Length { get; private set; }

    /// <summary>Connects to an export with one bitmap.</summary>
    /// <exception cref="IOException">The server refuses, or does not speak the protocol.</exception>
    /// <exception cref="SocketException">It is not there.</exception>
    public static NbdClient Open(string socketPath, string export, string bitmap)
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified)
        {
            ReceiveTimeout = (int)Patience.TotalMilliseconds, SendTimeout = (int)Patience.TotalMilliseconds,
        };
        var client = new NbdClient(socket);
        try
        {
            socket.Connect(new UnixDomainSocketEndPoint(socketPath));
            client.Negotiate(export, $"qemu:dirty-bitmap:{bitmap}");
            return client;
        }
        catch
        {
            client.Dispose();
            throw;
        }
    }

    /// <summary>What the bitmap names, ascending, in bytes.</summary>
    /// <exception cref="IOException">The answer is none.</exception>
    public IReadOnlyList<(long From, long Length)> ReadDirty()
    {
        var dirty = new List<(long From, long Length)>();
        for (long at = 0; at < Length;)
        {
            long asked = Math.Min(AskedBytesMax, Length - at);
            byte[] request = new byte[28];
            BinaryPrimitives.WriteUInt32BigEndian(request, RequestMagic);
            BinaryPrimitives.WriteUInt16BigEndian(request.AsSpan(6), CommandBlockStatus);
            BinaryPrimitives.WriteInt64BigEndian(request.AsSpan(16), at);
            BinaryPrimitives.WriteUInt32BigEndian(request.AsSpan(24), (uint)asked);
            Send(request);
            long before = at;
            bool isDone = false;
            while (!isDone)
            {
                isDone = TakeChunk(ref at, dirty);
            }

            if (at == before)
            {
                throw new IOException($"QEMU's NBD server says nothing of what lies at byte {at}.");
            }
        }

        return dirty;
    }

    public void Dispose()
    {
        try
        {
            byte[] request = new byte[28];
            BinaryPrimitives.WriteUInt32BigEndian(request, RequestMagic);
            BinaryPrimitives.WriteUInt16BigEndian(request.AsSpan(6), CommandDisconnect);
            _socket.Send(request);
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // It has gone.
        }

        _socket.Dispose();
    }

    private void Negotiate(string export, string context)
    {
        const ushort fixedNewstyle = 1;
        byte[] hello = Receive(18);
        if (BinaryPrimitives.ReadUInt64BigEndian(hello) != Greeting
            || BinaryPrimitives.ReadUInt64BigEndian(hello.AsSpan(8)) != OptionMagic
            || (BinaryPrimitives.ReadUInt16BigEndian(hello.AsSpan(16)) & fixedNewstyle) == 0)
        {
            throw new IOException("QEMU's NBD server speaks another protocol.");
        }

        Send([0, 0, 0, 1]);
        Ask(OptionStructuredReply, [], (_, _) => { });
        byte[] name = Encoding.UTF8.GetBytes(export);
        byte[] query = Encoding.UTF8.GetBytes(context);
        bool hasContext = false;
        Ask(OptionSetMetaContext, [.. Number(name.Length), .. name, .. Number(1), .. Number(query.Length), .. query],
            (type, _) => hasContext |= type == ReplyMetaContext);
        if (!hasContext)
        {
            throw new IOException($"QEMU's NBD server has no '{context}'.");
        }

        Ask(OptionGo, [.. Number(name.Length), .. name, 0, 0], (type, body) =>
        {
            const ushort exportInformation = 0;
            if (type == ReplyInformation && body.Length >= 12
                && BinaryPrimitives.ReadUInt16BigEndian(body) == exportInformation)
            {
                Length = BinaryPrimitives.ReadInt64BigEndian(body.AsSpan(2));
            }
        });
    }

    private void Ask(uint option, byte[] body, Action<uint, byte[]> take)
    {
        byte[] head = new byte[16];
        BinaryPrimitives.WriteUInt64BigEndian(head, OptionMagic);
        BinaryPrimitives.WriteUInt32BigEndian(head.AsSpan(8), option);
        BinaryPrimitives.WriteInt32BigEndian(head.AsSpan(12), body.Length);
        Send([.. head, .. body]);
        while (true)
        {
            byte[] reply = Receive(20);
            uint type = BinaryPrimitives.ReadUInt32BigEndian(reply.AsSpan(12));
            byte[] content = Receive(Weigh(BinaryPrimitives.ReadUInt32BigEndian(reply.AsSpan(16))));
            if (BinaryPrimitives.ReadUInt64BigEndian(reply) != OptionReplyMagic || (type & ReplyErrorBit) != 0)
            {
                throw new IOException(
                    $"QEMU's NBD server refuses option {option}: {type:x8} {Encoding.UTF8.GetString(content)}");
            }

            if (type == ReplyAcknowledged)
            {
                return;
            }

            take(type, content);
        }
    }

    // True for the last one of an answer.
    private bool TakeChunk(ref long at, List<(long From, long Length)> dirty)
    {
        const int contextBytes = 4;
        const int extentBytes = 8;
        byte[] head = Receive(20);
        ushort flags = BinaryPrimitives.ReadUInt16BigEndian(head.AsSpan(4));
        ushort type = BinaryPrimitives.ReadUInt16BigEndian(head.AsSpan(6));
        byte[] body = Receive(Weigh(BinaryPrimitives.ReadUInt32BigEndian(head.AsSpan(16))));
        if (BinaryPrimitives.ReadUInt32BigEndian(head) != StructuredReplyMagic || (type & ChunkErrorBit) != 0)
        {
            throw new IOException($"QEMU's NBD server does not say what is dirty at byte {at} (chunk {type:x4}).");
        }

        for (int i = contextBytes; type == ChunkBlockStatus && i + extentBytes <= body.Length; i += extentBytes)
        {
            long length = BinaryPrimitives.ReadUInt32BigEndian(body.AsSpan(i));
            bool isDirty = (BinaryPrimitives.ReadUInt32BigEndian(body.AsSpan(i + 4)) & 1) != 0;
            length = Math.Min(length, Length - at);
            if (isDirty && dirty.Count > 0 && dirty[^1].From + dirty[^1].Length == at)
            {
                dirty[^1] = (dirty[^1].From, dirty[^1].Length + length);
            }
            else if (isDirty && length > 0)
            {
                dirty.Add((at, length));
            }

            at += length;
        }

        return (flags & ChunkDone) != 0;
    }

    private static int Weigh(uint bytes) => bytes <= ReplyBytesMax ? (int)bytes
        : throw new IOException($"QEMU's NBD server announces {bytes} bytes; the limit is {ReplyBytesMax}.");

    private static byte[] Number(int value)
    {
        byte[] bytes = new byte[sizeof(int)];
        BinaryPrimitives.WriteInt32BigEndian(bytes, value);
        return bytes;
    }

    private void Send(ReadOnlySpan<byte> bytes)
    {
        while (!bytes.IsEmpty)
        {
            bytes = bytes[_socket.Send(bytes)..];
        }
    }

    private byte[] Receive(int count)
    {
        byte[] bytes = new byte[count];
        for (int done = 0; done < count;)
        {
            int got = _socket.Receive(bytes.AsSpan(done));
            done += got > 0 ? got : throw new IOException("QEMU's NBD server has closed the connection.");
        }

        return bytes;
    }
}
