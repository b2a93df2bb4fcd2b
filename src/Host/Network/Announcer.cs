using System.Diagnostics;
using System.Net;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Network;

/// <summary>A guest's interface with its device on this host.</summary>
/// <param name="Mac">The guest's.</param>
/// <param name="Addresses">IPv4 and IPv6 addresses of the guest, each with or without a prefix length.</param>
public sealed record GuestInterface(Tap Tap, string Mac, IReadOnlyList<string> Addresses);

/// <summary>Makes a guest's new place known to the network at the instant of its resume.</summary>
/// <remarks>
/// Opened before the pause, so that nothing but sending is left for the blackout. It fails softly: a guest that runs
/// unannounced is found by its own next frame, so errors are reported in <see cref="Errors"/> and never thrown.
/// </remarks>
public sealed partial class Announcer : IDisposable
{
    /// <summary>
    /// Pauses between the rounds: short while clients wait, longer for the frame that got lost in a switch.
    /// </summary>
    private static readonly TimeSpan[] Pauses =
        [.. new[] { 50, 150, 250, 350 }.Select(milliseconds => TimeSpan.FromMilliseconds(milliseconds))];

    private readonly List<(SafeFileHandle Socket, IReadOnlyList<byte[]> Frames)> _ports = [];
    private readonly IReadOnlyList<GuestInterface> _interfaces;
    private readonly CancellationTokenSource _disposing = new();
    private readonly List<string> _errors = [];

    private Announcer(IReadOnlyList<GuestInterface> interfaces) => _interfaces = interfaces;

    /// <summary>What could not be done, if anything; safe from any thread.</summary>
    public IReadOnlyList<string> Errors
    {
        get
        {
            lock (_errors)
            {
                return [.. _errors];
            }
        }
    }

    /// <summary>Ends when the last round has been sent; never fails.</summary>
    public Task Repeats { get; private set; } = Task.CompletedTask;

    /// <summary>
    /// Readies sockets on the bridges, in the network namespace of the calling thread, and all frames.
    /// </summary>
    public static Announcer Open(IReadOnlyList<GuestInterface> interfaces)
    {
        Announcer announcer = new(interfaces);
        foreach (GuestInterface guest in interfaces)
        {
            try
            {
                announcer.AddPort(guest);
            }
            catch (Exception e) when (e is NetworkException or FormatException)
            {
                announcer.Report($"bridge {guest.Tap.Bridge}: {e.Message}");
            }
        }
        return announcer;
    }

    /// <summary>
    /// Points the local bridges to the guest and sends the first round before it returns; four more rounds follow by
    /// themselves. Call once.
    /// </summary>
    /// <returns>Stopwatch timestamp right after the first frame was sent; 0 if there was none to send.</returns>
    public long Announce()
    {
        foreach (GuestInterface guest in _interfaces)
        {
            try
            {
                guest.Tap.ClaimMac();
            }
            catch (Godwit.Migration.GodwitException e)
            {
                Report(e.Message);
            }
        }
        long first = SendRound();
        Repeats = RepeatAsync();
        return first;
    }

    private async Task RepeatAsync()
    {
        foreach (TimeSpan pause in Pauses)
        {
            await Task.Delay(pause, _disposing.Token).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            if (_disposing.IsCancellationRequested)
            {
                return;
            }
            SendRound();
        }
    }

    private long SendRound()
    {
        long first = 0;
        lock (_ports)
        {
            foreach ((SafeFileHandle socket, IReadOnlyList<byte[]> frames) in _ports)
            {
                foreach (byte[] frame in frames)
                {
                    if (SendBytes(socket, frame, (nuint)frame.Length, 0) < 0)
                    {
                        Report(Marshal.GetLastPInvokeErrorMessage());
                    }
                    else if (first == 0)
                    {
                        first = Stopwatch.GetTimestamp();
                    }
                }
            }
        }
        return first;
    }

    private void AddPort(GuestInterface guest)
    {
        using RouteNetlink netlink = new();
        Link bridge = netlink.Find(guest.Tap.Bridge) ?? throw new NetworkException("find it", 19);
        // AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, no protocol: it only sends, and the kernel queues nothing for it.
        int descriptor = OpenSocket(17, 0x80003, 0);
        if (descriptor < 0)
        {
            throw new NetworkException("open a packet socket", Marshal.GetLastPInvokeError());
        }
        SafeFileHandle socket = new(descriptor, ownsHandle: true);
        byte[] address = new byte[20];   // struct sockaddr_ll
        BitConverter.TryWriteBytes(address, (ushort)17);
        BitConverter.TryWriteBytes(address.AsSpan(4), bridge.Index);
        if (BindSocket(socket, address, (uint)address.Length) < 0)
        {
            int error = Marshal.GetLastPInvokeError();
            socket.Dispose();
            throw new NetworkException("bind a packet socket", error);
        }
        IEnumerable<IPAddress> addresses = guest.Addresses.Select(text => IPAddress.Parse(text.Split('/')[0]));
        _ports.Add((socket, AnnouncementFrames.For(MacAddress.Parse(guest.Mac), addresses)));
    }

    private void Report(string error)
    {
        lock (_errors)
        {
            if (!_errors.Contains(error))
            {
                _errors.Add(error);
            }
        }
    }

    /// <summary>Ends the repeats and closes the sockets.</summary>
    /// <remarks>Again is nothing: a guest that has been announced may still fail to arrive.</remarks>
    public void Dispose()
    {
        // Not disposed of itself, for it could not be cancelled again: it holds neither timer nor handle.
        _disposing.Cancel();
        lock (_ports)
        {
            foreach ((SafeFileHandle socket, _) in _ports)
            {
                socket.Dispose();
            }
            _ports.Clear();
        }
    }

    [LibraryImport("libc", EntryPoint = "socket", SetLastError = true)]
    private static partial int OpenSocket(int family, int type, int protocol);

    [LibraryImport("libc", EntryPoint = "bind", SetLastError = true)]
    private static partial int BindSocket(SafeFileHandle socket, byte[] address, uint length);

    [LibraryImport("libc", EntryPoint = "send", SetLastError = true)]
    private static partial nint SendBytes(SafeFileHandle socket, byte[] buffer, nuint length, int flags);
}
