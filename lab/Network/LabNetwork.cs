using System.Globalization;

namespace Godwit.Lab.Network;

/// <summary>How the lab's links behave. Zero rate is unshaped, zero delay and loss need no relay.</summary>
/// <param name="BitsPerSecond">Rate of each host's uplink, each way; 0 for as fast as the machine can.</param>
/// <param name="Delay">One way from host to host; each of the two uplinks on the path takes half of it.</param>
internal sealed record LinkShape(long BitsPerSecond, TimeSpan Delay)
{
    internal static LinkShape Unshaped { get; } = new(0, TimeSpan.Zero);

    /// <summary>Reads <c>1Gbit</c>, <c>300Mbit</c>, <c>unshaped</c>.</summary>
    internal static long ParseRate(string text)
    {
        if (text is "unshaped" or "0")
        {
            return 0;
        }

        (string, long)[] units = [("Gbit", 1_000_000_000L), ("Mbit", 1_000_000L), ("kbit", 1_000L)];
        foreach ((string suffix, long factor) in units)
        {
            if (text.EndsWith(suffix, StringComparison.OrdinalIgnoreCase)
                && double.TryParse(text[..^suffix.Length], CultureInfo.InvariantCulture, out double number)
                && number * factor is >= 100_000 and <= 1e11)
            {
                return (long)(number * factor);
            }
        }

        throw new LabException(
            $"\"{text}\" is no link rate: say unshaped, or a number with Gbit, Mbit or kbit (100kbit to 100Gbit).");
    }

    /// <summary>Reads <c>5ms</c>, <c>0</c>.</summary>
    internal static TimeSpan ParseDelay(string text)
    {
        string number = text.EndsWith("ms", StringComparison.Ordinal) ? text[..^2] : text;
        return double.TryParse(number, CultureInfo.InvariantCulture, out double ms) && ms is >= 0 and <= 10_000
            ? TimeSpan.FromMilliseconds(ms)
            : throw new LabException($"\"{text}\" is no delay: say 5ms (0 to 10000ms).");
    }

    public override string ToString() =>
        (BitsPerSecond == 0 ? "unshaped"
            : BitsPerSecond % 1_000_000_000 == 0 ? $"{BitsPerSecond / 1_000_000_000}Gbit"
            : string.Create(CultureInfo.InvariantCulture, $"{BitsPerSecond / 1e6:0.###}Mbit"))
        + (Delay > TimeSpan.Zero
            ? string.Create(CultureInfo.InvariantCulture, $" {Delay.TotalMilliseconds:0.###}ms")
            : "");
}

/// <summary>Two hosts, a client and a switch, each in a network namespace, on one Ethernet segment.</summary>
/// <remarks>
/// <code>
/// client ── eth0 ─────────────┐
/// a: br0 ── up0 ── (relay) ── br0 :switch      guests' TAPs join br0 of the host they run on
/// b: br0 ── up0 ── (relay) ───┘
/// </code>
/// Hosts and client have addresses in 10.77.0.0/24 and fd77::/64, guests from .100 on. The rate is a token bucket on
/// both ends of each uplink. A delay needs the relay, because kernels may lack netem: then up0 and the switch's port
/// are TAPs with the relay's process between them.
/// </remarks>
internal static class LabNetwork
{
    internal const string Switch = "switch";
    internal const string Client = "client";

    internal static readonly string[] Hosts = ["a", "b"];

    internal static string AddressOf(string host) => host switch
    {
        "a" => "10.77.0.1",
        "b" => "10.77.0.2",
        Client => "10.77.0.9",
        _ => throw new LabException($"The lab has no host {host}: a, b and client."),
    };

    internal static string GuestAddress(int number) => $"10.77.0.{100 + number}";

    internal static string GuestAddress6(int number) => $"fd77::{100 + number}";

    internal static string GuestMac(int number) => $"52:54:00:77:00:{100 + number:x2}";

    /// <summary>Makes the namespaces and links; there must be none of this lab's.</summary>
    internal static void Up(LinkShape shape)
    {
        foreach (string name in new[] { Switch, Client }.Concat(Hosts))
        {
            string space = LabDirectory.Namespace(name);
            Tool.Run("ip", "netns", "add", space);
            // A guest's packets must not meet the host's duplicate address detection or router solicitations.
            Ip(name, "link", "set", "lo", "up");
        }

        AddBridge(Switch);
        Ip(
            Switch, "link", "add", "to-client", "type", "veth",
            "peer", "name", "eth0", "netns", LabDirectory.Namespace(Client));
        Ip(Switch, "link", "set", "to-client", "master", "br0", "up");
        AddAddresses(Client, "eth0");

        bool relayed = shape.Delay > TimeSpan.Zero;
        foreach (string host in Hosts)
        {
            AddBridge(host);
            if (relayed)
            {
                Relay.Start(host, shape.Delay / 2);
            }
            else
            {
                Ip(
                    host, "link", "add", "up0", "type", "veth",
                    "peer", "name", $"to-{host}", "netns", LabDirectory.Namespace(Switch));
            }

            // Not a random one, which now and then would be higher than that of every port a guest gets.
            Ip(host, "link", "set", "up0", "address", $"52:54:00:77:01:0{AddressOf(host)[^1]}");
            Ip(host, "link", "set", "up0", "master", "br0", "up");
            Ip(Switch, "link", "set", $"to-{host}", "master", "br0", "up");
            AddAddresses(host, "br0");
            Shape(host, "up0", shape.BitsPerSecond);
            Shape(Switch, $"to-{host}", shape.BitsPerSecond);
        }
    }

    /// <summary>Sets the rate of both hosts' uplinks anew.</summary>
    internal static void SetRate(long bitsPerSecond)
    {
        foreach (string host in Hosts)
        {
            Shape(host, "up0", bitsPerSecond);
            Shape(Switch, $"to-{host}", bitsPerSecond);
        }
    }

    /// <summary>Bytes that left a host by its uplink so far.</summary>
    internal static long UplinkBytes(string host) =>
        long.Parse(
            Tool.Run(
                "ip", "netns", "exec", LabDirectory.Namespace(host), "cat", "/sys/class/net/up0/statistics/tx_bytes"),
            CultureInfo.InvariantCulture);

    /// <summary>A TAP on a host's br0, for a QEMU that the lab starts itself.</summary>
    internal static void AddTap(string host, string tap)
    {
        Ip(host, "tuntap", "add", tap, "mode", "tap");
        Ip(host, "link", "set", tap, "master", "br0", "up");
    }

    internal static void RemoveTap(string host, string tap) =>
        Tool.Try("ip", "-n", LabDirectory.Namespace(host), "link", "del", tap);

    /// <summary>The lab's namespaces that exist now.</summary>
    internal static IEnumerable<string> Namespaces() =>
        Tool.Try("ip", "netns", "list").Output.Split('\n')
            .Select(line => line.Split(' ')[0])
            .Where(name => name.StartsWith(LabDirectory.NamespacePrefix, StringComparison.Ordinal));

    private static void AddBridge(string name)
    {
        // No spanning tree: a port forwards from the first packet on, as a guest's announcement needs it.
        Ip(name, "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0");
        Ip(name, "link", "set", "br0", "up");
    }

    private static void AddAddresses(string name, string device)
    {
        string number = AddressOf(name).Split('.')[^1];
        Ip(name, "addr", "add", $"{AddressOf(name)}/24", "dev", device);
        Ip(name, "-6", "addr", "add", $"fd77::{number}/64", "dev", device, "nodad");
        Ip(name, "link", "set", device, "up");
    }

    private static void Shape(string name, string device, long bitsPerSecond)
    {
        string space = LabDirectory.Namespace(name);
        if (bitsPerSecond == 0)
        {
            Tool.Try("tc", "-n", space, "qdisc", "del", "dev", device, "root");
            return;
        }

        // Two milliseconds of burst, at least one offloaded segment; 20 ms of queue, as a switch port has.
        long burst = Math.Max(bitsPerSecond / 8 / 500, 70_000);
        Tool.Run(
            "tc", "-n", space, "qdisc", "replace", "dev", device, "root", "tbf", "rate", $"{bitsPerSecond}bit",
            "burst", $"{burst}", "latency", "20ms");
    }

    private static void Ip(string name, params string[] arguments) =>
        Tool.Run("ip", ["-n", LabDirectory.Namespace(name), .. arguments]);
}
