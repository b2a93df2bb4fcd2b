using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using Godwit.Migration;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Network;

/// <summary>A guest's port on the host's bridge: a persistent TAP device that QEMU opens by its name.</summary>
/// <remarks>
/// The device outlives this object and the daemon, as the guest does; only <see cref="Delete"/> removes it. It acts in
/// the network namespace of the thread that created or found it. Any thread may call.
/// </remarks>
public sealed partial class Tap : IDisposable
{
    private readonly RouteNetlink _netlink;
    private readonly byte[] _guestMac;

    private Tap(RouteNetlink netlink, string name, int index, string bridge, byte[] guestMac)
    {
        _netlink = netlink;
        Name = name;
        Index = index;
        Bridge = bridge;
        _guestMac = guestMac;
    }

    /// <summary>At most 15 characters.</summary>
    public string Name { get; }

    public string Bridge { get; }

    internal int Index { get; }

    /// <summary>The name of a guest's device, the same after every restart of the daemon.</summary>
    /// <param name="runtimeDirectory">
    /// The guest's: two daemons on one machine, as in a test of both ends, must not meet in one device.
    /// </param>
    internal static string NameOf(Guid guest, string runtimeDirectory, int number)
    {
        byte[] hash = SHA256.HashData(Encoding.UTF8.GetBytes($"{guest:D}\0{runtimeDirectory}\0{number}"));
        return "gw" + Convert.ToHexStringLower(hash.AsSpan(0, 6));
    }

    /// <summary>
    /// Creates the device, or takes over the one a crash left behind, and makes it a port that is up.
    /// </summary>
    /// <param name="bridge">Empty: a port that is connected to nothing.</param>
    /// <exception cref="GodwitException"><c>bridge-unknown</c>, <c>tap-failed</c> or <c>tap-in-use</c>.</exception>
    internal static Tap Create(string name, string bridge, string guestMac)
    {
        byte[] mac = MacAddress.Parse(guestMac);
        RouteNetlink netlink = new();
        try
        {
            Link? master = bridge.Length == 0 ? null
                : netlink.Find(bridge) is { Kind: "bridge" } found ? found : throw new GodwitException(
                "bridge-unknown", $"This host has no bridge named {bridge}.",
                $"Create it with 'ip link add {bridge} type bridge', or give the guest one of this host's bridges.");
            MakeDevice(name);
            Link link = netlink.Find(name)
                ?? throw new GodwitException("tap-failed", $"TAP device {name} vanished while it was being set up.");
            // The kernel gives a bridge the lowest MAC of its ports. Were it this one, the host would be cut off for a
            // moment, and for longer from the guest's next host, whose port has the same MAC: fe:ff keeps it out of
            // the choice, beside random MACs too. The host has nothing to say on this device itself, so no IPv6 on
            // it: its own solicitations would only confuse the switch.
            byte[] own = [0xfe, 0xff, .. mac[2..]];
            netlink.SetMac(link.Index, own, name);
            TryDisableIpv6(name);
            if (master is not null)
            {
                netlink.SetMaster(link.Index, master.Index, name);
            }

            netlink.SetUp(link.Index, true, name);
            return new Tap(netlink, name, link.Index, bridge, mac);
        }
        catch (NetworkException e)
        {
            netlink.Dispose();
            throw new GodwitException("tap-failed", $"TAP device {name} on bridge {bridge}: {e.Message}",
                "The daemon needs CAP_NET_ADMIN and /dev/net/tun.", e);
        }
        catch
        {
            netlink.Dispose();
            throw;
        }
    }

    /// <summary>The device of this name if it is there.</summary>
    internal static Tap? Find(string name, string bridge, string guestMac)
    {
        RouteNetlink netlink = new();
        if (netlink.Find(name) is { } link)
        {
            return new Tap(netlink, name, link.Index, bridge, MacAddress.Parse(guestMac));
        }
        netlink.Dispose();
        return null;
    }

    /// <summary>
    /// Silences the port, or lets it speak again. While it is down the bridge neither sends to the guest nor remembers
    /// that its MAC was here, so that the first announcement from elsewhere is believed at once.
    /// </summary>
    /// <exception cref="GodwitException"><c>tap-failed</c>.</exception>
    public void SetLink(bool up) => Run(() => _netlink.SetUp(Index, up, Name));

    /// <summary>
    /// Makes the bridge send the guest's frames to this port at once, also while it remembers the guest behind its
    /// uplink. The port has to be up and QEMU to have opened it.
    /// </summary>
    /// <exception cref="GodwitException"><c>tap-failed</c>.</exception>
    public void ClaimMac() => Run(() => _netlink.ReplaceForwarding(Index, _guestMac, Name));

    /// <summary>
    /// Makes the bridge forget that the guest is behind this port; nothing happens if it did not know.
    /// </summary>
    /// <exception cref="GodwitException"><c>tap-failed</c>.</exception>
    public void ForgetMac() => Run(() =>
    {
        try
        {
            _netlink.DeleteForwarding(Index, _guestMac, Name);
        }
        catch (NetworkException e) when (e.Error == 2)   // ENOENT
        {
        }
    });

    /// <summary>Removes the device. Nothing happens if it is gone.</summary>
    /// <exception cref="GodwitException"><c>tap-failed</c>.</exception>
    internal void Delete() => Run(() =>
    {
        try
        {
            _netlink.Delete(Index, Name);
        }
        catch (NetworkException e) when (e.Error == 19)   // ENODEV
        {
        }
    });

    private void Run(Action action)
    {
        try
        {
            action();
        }
        catch (NetworkException e)
        {
            throw new GodwitException("tap-failed", $"TAP device {Name} on bridge {Bridge}: {e.Message}",
                $"'ip -d link show {Name}' tells its state.", e);
        }
    }

    private static unsafe void MakeDevice(string name)
    {
        SafeFileHandle control;
        try
        {
            control = File.OpenHandle("/dev/net/tun", FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new GodwitException("tap-failed", $"/dev/net/tun cannot be opened: {e.Message}",
                "Load the kernel module 'tun' and run the daemon with CAP_NET_ADMIN.", e);
        }
        using (control)
        {
            // struct ifreq: 16 bytes of name, then the flags; 40 bytes in all, which the kernel copies whole.
            byte* request = stackalloc byte[40];
            new Span<byte>(request, 40).Clear();
            Encoding.ASCII.GetBytes(name, new Span<byte>(request, 15));
            *(short*)(request + 16) = 0x0002 | 0x1000 | 0x4000;   // IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
            if (Control(control, 0x400454ca, (nint)request) < 0)   // TUNSETIFF
            {
                int error = Marshal.GetLastPInvokeError();
                throw error == 16   // EBUSY
                    ? new GodwitException("tap-in-use", $"TAP device {name} is open in another process.",
                        "A QEMU of this guest still runs; end it, or restart the daemon so that it is found again.")
                    : new GodwitException("tap-failed",
                        $"TAP device {name} cannot be created: {Marshal.GetPInvokeErrorMessage(error)}.",
                        "The daemon needs CAP_NET_ADMIN.");
            }
            if (Control(control, 0x400454cb, 1) < 0)   // TUNSETPERSIST
            {
                throw new NetworkException($"keep {name}", Marshal.GetLastPInvokeError());
            }
        }
    }

    private static void TryDisableIpv6(string name)
    {
        try
        {
            File.WriteAllText($"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "1");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // A host without IPv6 has nothing to turn off.
        }
    }

    /// <summary>Lets go of the device without removing it.</summary>
    public void Dispose() => _netlink.Dispose();

    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    private static partial int Control(SafeFileHandle file, ulong request, nint argument);
}
