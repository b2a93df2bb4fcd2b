using System.Diagnostics;
using System.Net;
using Godwit.Host.Network;
using Godwit.Host.Qemu;
using Godwit.Host.Tests.Qemu;
using Godwit.Migration;
using Microsoft.Win32.SafeHandles;
using static Godwit.Host.Tests.Network.NetworkNamespace;

namespace Godwit.Host.Tests.Network;

/// <summary>Real bridges, veths and TAPs in a namespace of the test's own.</summary>
public sealed class TapTests
{
    private const string Mac = "52:54:00:12:34:56";

    [Fact]
    public void A_TAP_becomes_a_port_and_goes_again() => Run(() =>
    {
        using RouteNetlink netlink = new();
        netlink.CreateBridge("br0");
        Command("ip link set br0 address 02:00:00:00:00:aa");
        using Tap tap = Tap.Create("gwtest0", "br0", Mac);
        Link link = Assert.IsType<Link>(netlink.Find("gwtest0"));
        Assert.Equal(netlink.Find("br0")!.Index, link.Master);
        Assert.True(link.Up);
        Assert.Equal("fe:ff:00:12:34:56", string.Join(':', link.Mac.Select(b => b.ToString("x2"))));

        // Left behind by a crash, it is taken over; open elsewhere, it is not.
        Tap.Create("gwtest0", "br0", Mac).Dispose();
        using (Attach("gwtest0"))
        {
            Assert.Equal("tap-in-use", Assert.Throws<GodwitException>(() => Tap.Create("gwtest0", "br0", Mac)).Code);
        }
        tap.SetLink(false);
        Assert.False(netlink.Find("gwtest0")!.Up);
        tap.SetLink(true);
        Assert.True(netlink.Find("gwtest0")!.Up);

        using Tap found = Assert.IsType<Tap>(Tap.Find("gwtest0", "br0", Mac));
        found.Delete();
        Assert.Null(netlink.Find("gwtest0"));
        tap.Delete();
        Assert.Equal("tap-failed", Assert.Throws<GodwitException>(() => tap.SetLink(false)).Code);
    });

    // Found in the lab: an uplink whose random MAC began with fe left its bridge with the MAC of the guest's TAP, and
    // the two hosts of a move, each with a TAP of that MAC, could not reach each other any more.
    [Fact]
    public void The_bridge_keeps_its_uplinks_MAC_even_if_that_is_high() => Run(() =>
    {
        using RouteNetlink netlink = new();
        netlink.CreateBridge("br0");
        Command("ip link add up0 address fe:9a:01:02:03:04 type veth peer name far0");
        Command("ip link set up0 master br0 up");
        using Tap tap = Tap.Create("gwtest0", "br0", Mac);
        Assert.Equal("fe:9a:01:02:03:04", string.Join(':', netlink.Find("br0")!.Mac.Select(b => b.ToString("x2"))));
    });

    [Fact]
    public void What_is_no_bridge_is_refused() => Run(() =>
    {
        Assert.Equal("bridge-unknown", Assert.Throws<GodwitException>(() => Tap.Create("gwtest0", "br9", Mac)).Code);
        Assert.Equal("bridge-unknown", Assert.Throws<GodwitException>(() => Tap.Create("gwtest0", "lo", Mac)).Code);
        using RouteNetlink netlink = new();
        Assert.Null(netlink.Find("gwtest0"));
    });

    [Fact]
    public void The_kernels_refusals_are_told() => Run(() =>
    {
        using RouteNetlink netlink = new();
        netlink.CreateBridge("br0");
        Assert.Equal(17, Assert.Throws<NetworkException>(() => netlink.CreateBridge("br0")).Error);
        Assert.Contains(IPAddress.Loopback, netlink.Addresses());
    });

    // Goal: from the instant of resume on, the local bridge, the switch and a neighbour all know the new place.
    // Method: two hosts' bridges behind one switch, a neighbour in a second namespace whose entries are wrong, and
    // every table still pointing to the source. Only the announcement may change that.
    [Fact]
    public void An_announcement_moves_the_guest_in_every_table() => Run(() =>
    {
        using Process neighbour = Process.Start("unshare", ["-n", "sleep", "1200"]);
        try
        {
            string here = Command("readlink /proc/thread-self/ns/net");
            Until(() => Command($"readlink /proc/{neighbour.Id}/ns/net") != here, "the neighbour's namespace");
            foreach (string bridge in new[] { "sw", "bra", "brb" })
            {
                Command($"ip link add {bridge} type bridge forward_delay 0");
                Command($"ip link set {bridge} up");
            }
            Connect("swa", "sw", "upa", "bra");
            Connect("swb", "sw", "upb", "brb");
            Command("ip link add swn type veth peer name n0");
            Command($"ip link set n0 netns {neighbour.Id}");
            Command("ip link set swn master sw up");
            string there = $"nsenter -t {neighbour.Id} -n ";
            Command(there + "ip link set n0 up");
            Command(there + "ip addr add 10.9.0.1/24 dev n0");
            Command(there + "ip addr add fd09::1/64 dev n0 nodad");
            Command(there + "sysctl -qw net.ipv4.neigh.n0.locktime=0");
            Command(there + "ip neigh replace 10.9.0.20 lladdr 52:54:00:00:00:99 dev n0 nud reachable");
            Command(there + "ip neigh replace fd09::20 lladdr 52:54:00:00:00:99 dev n0 nud reachable");

            using Tap source = Tap.Create("gwa", "bra", Mac);
            using SafeFileHandle sourceGuest = Attach("gwa");
            using Tap destination = Tap.Create("gwb", "brb", Mac);
            using SafeFileHandle destinationGuest = Attach("gwb");
            (string Bridge, string Port)[] ports =
            [
                ("bra", "gwa"), ("brb", "gwb"), ("bra", "upa"), ("brb", "upb"), ("sw", "swa"), ("sw", "swb"),
                ("sw", "swn"),
            ];
            Until(() => ports.All(one => Forwarding(one.Bridge, "state forwarding", one.Port)), "all ports forward");
            source.ClaimMac();
            Command($"bridge fdb replace {Mac} dev swa master dynamic");
            Command($"bridge fdb replace {Mac} dev upb master dynamic");
            Assert.True(Knows("bra", "gwa") && Knows("sw", "swa") && Knows("brb", "upb"));

            source.SetLink(false);
            Assert.False(Knows("bra", "gwa"));

            using Announcer announcer = Announcer.Open(
                [new GuestInterface(destination, Mac, ["10.9.0.20/24", "fd09::20"])]);
            long before = Stopwatch.GetTimestamp();
            long first = announcer.Announce();
            Assert.InRange(first, before, Stopwatch.GetTimestamp());
            Assert.Empty(announcer.Errors);
            Until(() => Knows("brb", "gwb"), "the destination's bridge sends to the guest");
            Until(() => Knows("sw", "swb"), "the switch has learned the new port");
            Until(() => Knows("bra", "upa"), "the source's bridge has learned where the guest went");
            foreach (string address in new[] { "10.9.0.20", "fd09::20" })
            {
                Until(() => Command($"{there} ip neigh show {address}").Contains(Mac, StringComparison.Ordinal),
                    "the neighbour's entry of " + address);
            }

            // A frame of the neighbour's now comes out of the destination's TAP.
            Command(there + "bash -c echo>/dev/udp/10.9.0.20/9");
            Assert.True(Receives(destinationGuest, "10.9.0.20"), "no packet for the guest came out of its TAP");
            announcer.Repeats.Wait();
            Assert.Empty(announcer.Errors);
        }
        finally
        {
            neighbour.Kill();
            neighbour.WaitForExit();
        }
    });

    [Fact]
    public void An_announcement_that_cannot_be_made_is_reported_and_does_not_throw() => Run(() =>
    {
        Command("ip link add br0 type bridge");
        using Tap tap = Tap.Create("gwa", "br0", Mac);
        using Announcer announcer = Announcer.Open([new GuestInterface(tap, Mac, ["10.9.0.20"])]);
        Command("ip link del gwa");
        Command("ip link del br0");
        Assert.Equal(0, announcer.Announce());
        Assert.NotEmpty(announcer.Errors);
        using Announcer second = Announcer.Open([new GuestInterface(tap, Mac, ["10.9.0.20"])]);
        Assert.Contains("br0", Assert.Single(second.Errors), StringComparison.Ordinal);
    });

    // A guest that has been announced may still lose the rest of its memory, and whoever received it puts all away.
    [Fact]
    public async Task An_announcement_that_is_over_is_put_away_again()
    {
        Announcer announcer = Announcer.Open([]);
        Assert.Equal(0, announcer.Announce());
        announcer.Dispose();
        await announcer.Repeats;
        announcer.Dispose();
    }

    // Goal: a machine's devices come and go with its process, also when the daemon was another one in between.
    [Fact]
    public void A_machine_has_its_port_for_as_long_as_it_lives() => Run(() =>
    {
        using RouteNetlink netlink = new();
        netlink.CreateBridge("br0");
        netlink.SetUp(netlink.Find("br0")!.Index, true, "br0");
        CancellationToken token = TestContext.Current.CancellationToken;
        RealQemu qemu = Task.Run(RealQemu.OpenAsync).Result;
        try
        {
            MachineContract contract = qemu.Contract(c => c with
            {
                Interfaces = [new InterfaceContract("br0", Mac, ["10.9.0.20"])],
            });
            Assert.Empty(MachineContractRules.CheckHost(contract));
            QemuMachine machine = qemu.StartAsync(contract).Result;
            string tap = Assert.Single(machine.Interfaces).Tap.Name;
            Assert.InRange(tap.Length, 1, 15);
            Assert.True(netlink.Find(tap)!.Up);
            machine.SetLinks(false);
            Assert.False(netlink.Find(tap)!.Up);
            machine.SetLinks(true);
            machine.Interfaces[0].Tap.ClaimMac();
            machine.DisposeAsync().AsTask().Wait(token);

            QemuMachine adopted = QemuMachine.AdoptAsync(contract, Path.Combine(qemu.Root, "guest"), token).Result!;
            qemu.Track(adopted);
            Assert.Equal(tap, Assert.Single(adopted.Interfaces).Tap.Name);
            adopted.KillAsync().Wait(token);
            Assert.Null(netlink.Find(tap));

            // A crash of host and daemon together leaves the device; the next look removes it.
            Tap.Create(tap, "br0", Mac).Dispose();
            Assert.Null(QemuMachine.AdoptAsync(contract, Path.Combine(qemu.Root, "guest"), token).Result);
            Assert.Null(netlink.Find(tap));
        }
        finally
        {
            qemu.DisposeAsync().AsTask().Wait(CancellationToken.None);
        }
    });

    private static void Connect(string left, string leftBridge, string right, string rightBridge)
    {
        Command($"ip link add {left} type veth peer name {right}");
        Command($"ip link set {left} master {leftBridge} up");
        Command($"ip link set {right} master {rightBridge} up");
    }

    private static bool Knows(string bridge, string port) => Command($"bridge fdb show br {bridge}").Split('\n')
        .Any(line => line.StartsWith(Mac, StringComparison.Ordinal)
            && line.Contains($"dev {port} ", StringComparison.Ordinal));

    private static bool Forwarding(string bridge, string state, string port) =>
        Command($"bridge link show dev {port}") is { } text
        && text.Contains($"master {bridge}", StringComparison.Ordinal)
        && text.Contains(state, StringComparison.Ordinal);

    private static bool Receives(SafeFileHandle guest, string address)
    {
        byte[] wanted = IPAddress.Parse(address).GetAddressBytes();
        byte[] frame = new byte[4096];
        long begun = Stopwatch.GetTimestamp();
        while (Stopwatch.GetElapsedTime(begun) < TimeSpan.FromSeconds(60))
        {
            // The TAP puts 10 bytes of virtio header before the frame; an IPv4 destination lies 30 bytes into that.
            int length = Read(guest, frame);
            if (length >= 44 && frame[22] == 8 && frame[23] == 0 && frame.AsSpan(40, 4).SequenceEqual(wanted))
            {
                return true;
            }
        }
        return false;
    }
}
