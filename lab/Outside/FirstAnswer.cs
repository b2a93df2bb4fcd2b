using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using Godwit.Lab.Network;

namespace Godwit.Lab.Outside;

/// <summary>How long a client outside waits for a guest that is being woken: it asks by UDP every 2 ms.</summary>
internal static class FirstAnswer
{
    private static readonly TimeSpan _limit = TimeSpan.FromMinutes(5);

    /// <summary>Wakes the guest, and returns when its first answer came, since the beginning.</summary>
    /// <param name="wake">Returns when the daemon says that the guest runs.</param>
    internal static TimeSpan Measure(string guest, string mac, Action wake)
    {
        // The client has spoken with the guest before: it does not have to find out where it is.
        Tool.Run(
            "ip", "-n", LabDirectory.Namespace(LabNetwork.Client), "neigh", "replace", guest, "lladdr", mac, "dev",
            "eth0", "nud", "permanent");
        using Socket probe = NetworkNamespace.Enter(LabNetwork.Client, () =>
        {
            Socket socket = new(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp) { ReceiveTimeout = 2 };
            socket.Connect(IPAddress.Parse(guest), 7);
            return socket;
        });
        byte[] message = new byte[64];
        long began = Stopwatch.GetTimestamp();
        Task waking = Task.Run(wake);
        while (Stopwatch.GetElapsedTime(began) < _limit)
        {
            if (waking.IsFaulted)
            {
                break;
            }

            try
            {
                probe.Send(message);
                if (probe.Receive(message) > 0)
                {
                    TimeSpan answered = Stopwatch.GetElapsedTime(began);
                    waking.GetAwaiter().GetResult();
                    return answered;
                }
            }
            catch (SocketException)
            {
                // Nobody is there yet.
            }
        }

        waking.GetAwaiter().GetResult();
        throw new LabException($"The guest at {guest} did not answer within {_limit.TotalMinutes:0} minutes.");
    }
}
