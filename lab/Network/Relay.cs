using System.Diagnostics;
using System.Globalization;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Lab.Network;

/// <summary>
/// A cable with properties: frames pass between two TAPs after a delay, may be lost, and stop when it is cut.
/// </summary>
/// <remarks>
/// It runs as a process of its own in the switch's namespace and takes orders on a Unix socket: <c>delay MS</c>,
/// <c>loss PERCENT</c>, <c>cut</c>, <c>mend</c>. <c>delay MS in</c> holds up only what goes to the host,
/// <c>delay MS out</c> only what comes from it. A new delay holds for frames that are under way too, and a cut loses
/// them. Frames carry virtio-net headers with segmentation offload, so a TCP stream crosses in pieces of up to 64 KiB
/// and the relay does not set the pace. One thread per direction reads and another writes when a frame's time has come.
/// </remarks>
internal sealed unsafe partial class Relay : IDisposable
{
    private const int FrameMax = 65536 + 256;
    private const long QueueBytesMax = 64 << 20;
    private readonly SafeFileHandle _host;
    private readonly SafeFileHandle _switch;
    private readonly Delay _out;
    private readonly Delay _in;
    private int _lossPerMillion;
    private volatile bool _cut;

    private Relay(SafeFileHandle host, SafeFileHandle @switch, TimeSpan delay)
    {
        _host = host;
        _switch = @switch;
        (_out, _in) = (new Delay(ToTicks(delay)), new Delay(ToTicks(delay)));
    }

    // Of one direction; set by whoever gives orders, read by the writer.
    private sealed class Delay(long ticks)
    {
        private long _ticks = ticks;

        internal long Ticks
        {
            get => Volatile.Read(ref _ticks);
            set => Volatile.Write(ref _ticks, value);
        }
    }

    public void Dispose()
    {
        _host.Dispose();
        _switch.Dispose();
    }

    /// <summary>Starts the relay's process for one host's uplink and waits for its devices.</summary>
    internal static void Start(string host, TimeSpan delay)
    {
        string socket = SocketOf(host);
        File.Delete(socket);
        LabProcesses.Start(
            LabNetwork.Switch,
            $"relay-{host}",
            [
                .. LabProcesses.Self, "relay", host,
                delay.TotalMilliseconds.ToString("0.###", CultureInfo.InvariantCulture),
            ]);
        Wait.Until(
            () => File.Exists(socket), TimeSpan.FromMinutes(2), $"the relay of host {host} (see relay-{host}.log)");
    }

    /// <summary>Gives a running relay an order.</summary>
    internal static void Order(string host, string order)
    {
        if (!File.Exists(SocketOf(host)))
        {
            throw new LabException(
                $"Host {host} has no relay on its uplink: bring the lab up with --delay (0.1ms will do).");
        }

        using Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        socket.Connect(new UnixDomainSocketEndPoint(SocketOf(host)));
        using StreamWriter writer = new(new NetworkStream(socket)) { AutoFlush = true };
        using StreamReader reader = new(new NetworkStream(socket));
        writer.WriteLine(order);
        if (reader.ReadLine() is not "ok" and var answer)
        {
            throw new LabException($"The relay of host {host} refused \"{order}\": {answer}");
        }
    }

    /// <summary>The relay's process; returns when it is ended from outside.</summary>
    internal static void Serve(string host, TimeSpan delay)
    {
        using Relay relay = new(
            OpenTap("up0", LabDirectory.Namespace(host)), OpenTap($"to-{host}", null), delay);
        relay.StartDirection(relay._host, relay._switch, relay._out);
        relay.StartDirection(relay._switch, relay._host, relay._in);

        string temporary = SocketOf(host) + ".new";
        File.Delete(temporary);
        using Socket listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint(temporary));
        listener.Listen();
        File.Move(temporary, SocketOf(host), overwrite: true);
        for (;;)
        {
            using Socket client = listener.Accept();
            using StreamReader reader = new(new NetworkStream(client));
            using StreamWriter writer = new(new NetworkStream(client)) { AutoFlush = true };
            while (reader.ReadLine() is { } line)
            {
                writer.WriteLine(relay.Obey(line));
            }
        }
    }

    private static string SocketOf(string host) => LabDirectory.InRun($"relay-{host}.sock");

    private static long ToTicks(TimeSpan span) => (long)(span.TotalSeconds * Stopwatch.Frequency);

    private string Obey(string line)
    {
        string[] words = line.Split(' ');
        double number = 0;
        if (words.Length > 1 && !double.TryParse(words[1], CultureInfo.InvariantCulture, out number))
        {
            return $"{words[1]} is no number";
        }

        switch (words[0])
        {
            case "cut": _cut = true; return "ok";
            case "mend": _cut = false; return "ok";
            case "delay":
                return SetDelay(TimeSpan.FromMilliseconds(number), words.ElementAtOrDefault(2));
            case "loss": Volatile.Write(ref _lossPerMillion, (int)(number * 10_000)); return "ok";
            default: return "delay MS [in|out], loss PERCENT, cut or mend";
        }
    }

    private string SetDelay(TimeSpan delay, string? direction)
    {
        if (direction is not (null or "in" or "out"))
        {
            return $"{direction} is no direction: in or out";
        }

        _in.Ticks = direction == "out" ? _in.Ticks : ToTicks(delay);
        _out.Ticks = direction == "in" ? _out.Ticks : ToTicks(delay);
        return "ok";
    }

    private void StartDirection(SafeFileHandle from, SafeFileHandle to, Delay delay)
    {
        Queue<(long Came, byte[] Frame)> queue = new();
        long queued = 0;
        Thread reader = new(() =>
        {
            byte[] buffer = new byte[FrameMax];
            for (;;)
            {
                int count;
                // The buffer is pinned for the call and the kernel writes at most its length.
                fixed (byte* at = buffer)
                {
                    count = (int)Read(from, at, (nuint)buffer.Length);
                }

                int loss = Volatile.Read(ref _lossPerMillion);
                if (count <= 0 || _cut || (loss > 0 && Random.Shared.Next(1_000_000) < loss))
                {
                    continue;
                }

                long came = Stopwatch.GetTimestamp();
                lock (queue)
                {
                    // Past the bound a frame is dropped, as a switch drops it.
                    if (queued + count <= QueueBytesMax)
                    {
                        queue.Enqueue((came, buffer.AsSpan(0, count).ToArray()));
                        queued += count;
                        Monitor.Pulse(queue);
                    }
                }
            }
        })
        { IsBackground = true };
        Thread writer = new(() =>
        {
            _ = ProcessControl(29 /* PR_SET_TIMERSLACK */, 1);
            for (;;)
            {
                (long came, byte[] frame) = Take();
                while (!_cut && came + delay.Ticks - Stopwatch.GetTimestamp() is > 0 and var left)
                {
                    // In pieces: the delay may be changed meanwhile.
                    long ns = Math.Min(left * 1_000_000_000 / Stopwatch.Frequency, 2_000_000);
                    TimeSpec span = new(0, ns);
                    _ = Sleep(&span, null);
                }

                if (_cut)
                {
                    continue;
                }

                fixed (byte* at = frame)
                {
                    _ = Write(to, at, (nuint)frame.Length);
                }
            }
        })
        { IsBackground = true };
        reader.Start();
        writer.Start();

        (long Came, byte[] Frame) Take()
        {
            lock (queue)
            {
                while (queue.Count == 0)
                {
                    Monitor.Wait(queue);
                }

                (long came, byte[] frame) = queue.Dequeue();
                queued -= frame.Length;
                return (came, frame);
            }
        }
    }

    /// <summary>
    /// A TAP made here and, when <paramref name="space"/> says so, moved there; the handle keeps working.
    /// </summary>
    private static SafeFileHandle OpenTap(string device, string? space)
    {
        string name = space is null ? device : $"gw{Environment.ProcessId}";
        SafeFileHandle file = File.OpenHandle("/dev/net/tun", FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite);
        // struct ifreq: 16 bytes of name, then the flags, within 40 bytes.
        Span<byte> request = stackalloc byte[40];
        request.Clear();
        System.Text.Encoding.ASCII.GetBytes(name, request);
        const short TapNoInfoVnetHeader = 0x0002 | 0x1000 | 0x4000;
        MemoryMarshal.Write(request[16..], TapNoInfoVnetHeader);
        fixed (byte* at = request)
        {
            if (Control(file, 0x400454ca /* TUNSETIFF */, (nuint)at) != 0)
            {
                throw new LabException($"Making TAP {device} failed: {Marshal.GetLastPInvokeErrorMessage()}.");
            }
        }

        // Checksums and TCP segments over IPv4 and IPv6 may stay undone: the other TAP takes them as they are.
        if (Control(file, 0x400454d0 /* TUNSETOFFLOAD */, 0x01 | 0x02 | 0x04 | 0x08) != 0)
        {
            throw new LabException($"TAP {device} takes no offload: {Marshal.GetLastPInvokeErrorMessage()}.");
        }

        if (space is not null)
        {
            Tool.Run("ip", "link", "set", name, "netns", space, "name", device);
        }

        return file;
    }

    [LibraryImport("libc", EntryPoint = "read", SetLastError = true)]
    private static partial nint Read(SafeHandle file, byte* buffer, nuint count);

    [LibraryImport("libc", EntryPoint = "write", SetLastError = true)]
    private static partial nint Write(SafeHandle file, byte* buffer, nuint count);

    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    private static partial int Control(SafeHandle file, nuint request, nuint argument);

    [LibraryImport("libc", EntryPoint = "nanosleep")]
    private static partial int Sleep(TimeSpec* span, TimeSpec* rest);

    [LibraryImport("libc", EntryPoint = "prctl")]
    private static partial int ProcessControl(int option, nuint value);

    private readonly struct TimeSpec(long seconds, long nanoseconds)
    {
        private readonly long _seconds = seconds;
        private readonly long _nanoseconds = nanoseconds;
    }
}
