using System.Buffers.Binary;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using Godwit.Lab.Network;

namespace Godwit.Lab.Outside;

/// <summary>What the client saw between two instants (ticks of UTC).</summary>
/// <param name="Blackout">
/// Longest span in which probes left and no reply came (UDP, every millisecond unless said otherwise).
/// </param>
/// <param name="TcpSilence">Longest span a message waited on an established connection, retransmissions
/// included.</param>
/// <param name="FirstLoss">How the first of the lost connections was lost; empty if none was.</param>
internal sealed record ClientReport(
    Silence Blackout, TimeSpan TcpSilence, int ConnectionsOpened, int ConnectionsLost, int PacketsSent, int PacketsLost,
    int RepliesDuplicated, string FirstLoss)
{
    /// <summary>What became of the connections that were lost, for a failure's text.</summary>
    internal string Losses => $"{ConnectionsLost} of {ConnectionsOpened} connections were lost ({FirstLoss})";
}

/// <summary>
/// Stands outside the hosts: keeps TCP connections to the guest busy, probes it by UDP, and writes down when.
/// </summary>
/// <remarks>
/// One thread of raised priority in the client's namespace does it all, so that a reply is never late because of us;
/// and replies carry the kernel's time of arrival, so that our own wake-up does not count.
/// </remarks>
internal sealed unsafe partial class OutsideClient : IDisposable
{
    private const int ProbeBytes = 64;
    private const int MessageBytes = 16;
    private const int OutstandingMax = 64;
    private static readonly long _messageEvery = 5 * TimeSpan.TicksPerMillisecond;
    private readonly long _probeEvery;
    private readonly Lock _gate = new();
    private readonly List<long> _sent = new(1 << 16);
    private readonly List<long> _replied = new(1 << 16);
    private readonly Connection[] _connections;
    private readonly Socket _probe;
    private readonly Thread _thread;
    private volatile bool _probing = true;
    private volatile bool _stop;
    private int _duplicated;
    private int _opened;
    private Exception? _failure;

    private sealed class Connection(Socket socket)
    {
        internal Socket Socket { get; } = socket;
        internal byte[] Partial { get; } = new byte[4096];
        internal int PartialBytes { get; set; }
        internal long NextSend { get; set; }
        internal ulong SentCount { get; set; }
        internal ulong ReceivedCount { get; set; }
        internal Queue<long> Waiting { get; } = new();
        internal List<Silence> Silences { get; } = [];
        internal long LastReply { get; set; }
        internal string? Lost { get; set; }
    }

    private OutsideClient(IPAddress guest, int connections, TimeSpan probeEvery)
    {
        _probeEvery = probeEvery.Ticks;
        _connections = new Connection[connections];
        _probe = NetworkNamespace.Enter(LabNetwork.Client, () =>
        {
            for (int i = 0; i < connections; i++)
            {
                Socket socket = new(guest.AddressFamily, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
                socket.Connect(guest, 7);
                socket.Blocking = false;
                _connections[i] = new Connection(socket);
                _opened++;
            }

            Socket probe = new(guest.AddressFamily, SocketType.Dgram, ProtocolType.Udp) { Blocking = false };
            probe.Connect(guest, 7);
            probe.SetRawSocketOption(1 /* SOL_SOCKET */, 35 /* SO_TIMESTAMPNS */, BitConverter.GetBytes(1));
            return probe;
        });
        _thread = new Thread(Work) { IsBackground = true, Name = "outside client" };
        _thread.Start();
    }

    /// <summary>Opens the connections and begins.</summary>
    /// <exception cref="LabException">The guest does not answer.</exception>
    internal static OutsideClient Start(string guest, int connections = 16, int probeMs = 1) =>
        new(IPAddress.Parse(guest), connections, TimeSpan.FromMilliseconds(probeMs));

    /// <summary>
    /// Ends asking and gives late replies two seconds to come in, and up to three minutes as long as some connection
    /// waits for one: a guest on a busy machine is slow, and after a silence TCP tries again only after as long a one.
    /// What is then unanswered is lost.
    /// </summary>
    internal void Finish()
    {
        _probing = false;
        Thread.Sleep(2000);
        for (int i = 0; i < 1780 && IsAwaited(); i++)
        {
            Thread.Sleep(100);
        }

        Stop();
    }

    private bool IsAwaited()
    {
        lock (_gate)
        {
            return _connections.Any(c => c.Lost is null && c.Waiting.Count > 0);
        }
    }

    public void Dispose()
    {
        Stop();
        _probe.Dispose();
        foreach (Connection connection in _connections)
        {
            connection.Socket.Dispose();
        }
    }

    /// <summary>What was seen between two instants; call after <see cref="Finish"/> for packets lost.</summary>
    internal ClientReport Report(DateTime start, DateTime end)
    {
        if (_failure is not null)
        {
            throw new LabException($"The outside client failed: {_failure.Message}", _failure);
        }

        lock (_gate)
        {
            ReadOnlySpan<long> sent = CollectionsMarshal.AsSpan(_sent);
            ReadOnlySpan<long> replied = CollectionsMarshal.AsSpan(_replied);
            int within = 0;
            int lost = 0;
            for (int i = 0; i < sent.Length; i++)
            {
                if (sent[i] >= start.Ticks && sent[i] <= end.Ticks)
                {
                    within++;
                    lost += replied[i] == 0 ? 1 : 0;
                }
            }

            long silence = _connections.SelectMany(c => c.Silences)
                .Where(s => s.End >= start.Ticks && s.Start <= end.Ticks).Select(s => s.Ticks).DefaultIfEmpty(0).Max();
            return new ClientReport(
                Blackout.Longest(sent, replied, start.Ticks, end.Ticks), new TimeSpan(silence), _opened,
                _connections.Count(c => HowLost(c).Length > 0), within, lost, _duplicated,
                _connections.Select(HowLost).FirstOrDefault(how => how.Length > 0, ""));
        }
    }

    private string HowLost(Connection connection) =>
        connection.Lost ?? (_stop && connection.Waiting.Count > 0
            ? string.Create(
                CultureInfo.InvariantCulture,
                $"{connection.Waiting.Count} unanswered since {new DateTime(connection.LastReply):HH:mm:ss.fff} UTC")
            : "");

    /// <summary>When the first probe that left after an instant was answered, or null if none was yet.</summary>
    internal DateTime? FirstAnswerAfter(DateTime instant)
    {
        lock (_gate)
        {
            // Answers may overtake each other; the earliest counts.
            long first = long.MaxValue;
            for (int i = _sent.Count - 1; i >= 0 && _sent[i] >= instant.Ticks; i--)
            {
                first = _replied[i] == 0 ? first : Math.Min(first, _replied[i]);
            }

            return first == long.MaxValue ? null : new DateTime(first, DateTimeKind.Utc);
        }
    }

    private void Stop()
    {
        _stop = true;
        _thread.Join();
    }

    private void Work()
    {
        try
        {
            // Best effort: without it the figures hold, only with more noise.
            _ = SetPriority(0, GetThreadId(), -15);
            Loop();
        }
        catch (Exception e)
        {
            _failure = e;
        }
    }

    private void Loop()
    {
        PollEntry[] entries = new PollEntry[_connections.Length + 1];
        entries[0] = new PollEntry((int)_probe.Handle);
        for (int i = 0; i < _connections.Length; i++)
        {
            entries[i + 1] = new PollEntry((int)_connections[i].Socket.Handle);
        }

        byte[] probe = new byte[ProbeBytes];
        long next = DateTime.UtcNow.Ticks;
        while (!_stop)
        {
            long now = DateTime.UtcNow.Ticks;
            lock (_gate)
            {
                if (now >= next)
                {
                    if (_probing)
                    {
                        BinaryPrimitives.WriteInt64LittleEndian(probe, _sent.Count);
                        _sent.Add(now);
                        _replied.Add(0);
                        _probe.Send(probe, SocketFlags.None, out _);
                    }

                    // Probes that could not leave in time are not made up for.
                    next = Math.Max(next + _probeEvery, now);
                }

                foreach (Connection connection in _connections)
                {
                    SendMessage(connection, now);
                }
            }

            long rest = Math.Max(next - DateTime.UtcNow.Ticks, 0);
            TimeSpec limit = new(rest / TimeSpan.TicksPerSecond, rest % TimeSpan.TicksPerSecond * 100);
            fixed (PollEntry* at = entries)
            {
                _ = Poll(at, (nuint)entries.Length, &limit, null);
            }

            lock (_gate)
            {
                if (entries[0].Ready)
                {
                    ReceiveProbes();
                }

                for (int i = 0; i < _connections.Length; i++)
                {
                    if (entries[i + 1].Ready)
                    {
                        ReceiveMessages(_connections[i]);
                        if (_connections[i].Lost is not null)
                        {
                            entries[i + 1] = new PollEntry(-1);
                        }
                    }
                }
            }
        }
    }

    private void SendMessage(Connection connection, long now)
    {
        if (!_probing || connection.Lost is not null || now < connection.NextSend
            || connection.Waiting.Count >= OutstandingMax)
        {
            return;
        }

        Span<byte> message = stackalloc byte[MessageBytes];
        BinaryPrimitives.WriteUInt64LittleEndian(message, connection.SentCount);
        BinaryPrimitives.WriteUInt64LittleEndian(message[8..], connection.SentCount * 0x9E3779B97F4A7C15);
        int count = connection.Socket.Send(message, SocketFlags.None, out SocketError error);
        connection.NextSend = now + _messageEvery;
        if (error == SocketError.Success && count == MessageBytes)
        {
            connection.SentCount++;
            connection.Waiting.Enqueue(now);
        }
        else if (error is not (SocketError.WouldBlock or SocketError.NoBufferSpaceAvailable))
        {
            connection.Lost = $"send: {error}, {count} bytes";
        }
    }

    private static void ReceiveMessages(Connection connection)
    {
        for (; ; )
        {
            int count = connection.Socket.Receive(
                connection.Partial.AsSpan(connection.PartialBytes), SocketFlags.None, out SocketError error);
            if (error == SocketError.WouldBlock)
            {
                return;
            }

            if (error != SocketError.Success || count == 0)
            {
                connection.Lost = $"receive: {error}";
                return;
            }

            long now = DateTime.UtcNow.Ticks;
            int have = connection.PartialBytes + count;
            int at = 0;
            for (; have - at >= MessageBytes; at += MessageBytes)
            {
                ulong number = BinaryPrimitives.ReadUInt64LittleEndian(connection.Partial.AsSpan(at));
                ulong check = BinaryPrimitives.ReadUInt64LittleEndian(connection.Partial.AsSpan(at + 8));
                if (number != connection.ReceivedCount || check != number * 0x9E3779B97F4A7C15)
                {
                    connection.Lost = $"message {connection.ReceivedCount} came back as {number}";
                    return;
                }

                connection.ReceivedCount++;
                long asked = connection.Waiting.Dequeue();
                Silence silence = new(Math.Max(asked, connection.LastReply), now);
                if (silence.Ticks > 10 * TimeSpan.TicksPerMillisecond)
                {
                    connection.Silences.Add(silence);
                }

                connection.LastReply = now;
            }

            connection.Partial.AsSpan(at, have - at).CopyTo(connection.Partial);
            connection.PartialBytes = have - at;
        }
    }

    private void ReceiveProbes()
    {
        byte* buffer = stackalloc byte[ProbeBytes];
        byte* control = stackalloc byte[64];
        for (; ; )
        {
            // Both buffers live on this frame and the kernel is told their lengths.
            IoVector vector = new(buffer, ProbeBytes);
            MessageHeader header = new(&vector, control, 64);
            if (ReceiveMessage((int)_probe.Handle, &header, 0x40 /* MSG_DONTWAIT */) != ProbeBytes)
            {
                return;
            }

            long number = BinaryPrimitives.ReadInt64LittleEndian(new ReadOnlySpan<byte>(buffer, 8));
            if (number < 0 || number >= _sent.Count)
            {
                continue;
            }

            long arrived = DateTime.UtcNow.Ticks;
            // One control message: length 8, level 4, kind 4, then the kernel's timespec.
            if (header.ControlLength >= 32 && *(int*)(control + 12) == 35 /* SCM_TIMESTAMPNS */)
            {
                arrived = DateTime.UnixEpoch.Ticks + (*(long*)(control + 16) * TimeSpan.TicksPerSecond)
                    + (*(long*)(control + 24) / 100);
            }

            int index = (int)number;
            if (_replied[index] != 0)
            {
                _duplicated++;
            }
            else
            {
                _replied[index] = arrived;
            }
        }
    }

    private struct PollEntry(int file)
    {
        private readonly int _file = file;
        private readonly short _wanted = 1; // POLLIN
        private short _seen;

        internal readonly bool Ready => _file >= 0 && _seen != 0;
    }

    private readonly struct TimeSpec(long seconds, long nanoseconds)
    {
        private readonly long _seconds = seconds;
        private readonly long _nanoseconds = nanoseconds;
    }

    private readonly struct IoVector(byte* at, nuint length)
    {
        private readonly byte* _at = at;
        private readonly nuint _length = length;
    }

    [StructLayout(LayoutKind.Sequential)]
    private readonly struct MessageHeader(IoVector* vector, byte* control, nuint controlLength)
    {
        private readonly void* _name = null;
        private readonly uint _nameLength = 0;
        private readonly IoVector* _vector = vector;
        private readonly nuint _vectors = 1;
        private readonly byte* _control = control;
        internal readonly nuint ControlLength = controlLength;
        private readonly int _flags = 0;
    }

    [LibraryImport("libc", EntryPoint = "ppoll")]
    private static partial int Poll(PollEntry* entries, nuint count, TimeSpec* limit, void* signals);

    [LibraryImport("libc", EntryPoint = "recvmsg")]
    private static partial nint ReceiveMessage(int file, MessageHeader* header, int flags);

    [LibraryImport("libc", EntryPoint = "setpriority")]
    private static partial int SetPriority(int which, int who, int priority);

    [LibraryImport("libc", EntryPoint = "gettid")]
    private static partial int GetThreadId();
}
