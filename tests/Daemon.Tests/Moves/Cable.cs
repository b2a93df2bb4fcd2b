namespace Godwit.Daemon.Tests.Moves;

/// <summary>A network cable between two daemons, each in a network namespace of its own.</summary>
internal static class Cable
{
    public static string AddressOf(string host) => host == "a" ? "192.0.2.1" : "192.0.2.2";

    /// <summary>Shell commands that give the host its end, run in its own namespaces.</summary>
    /// <param name="folder">Where the two wait for each other.</param>
    /// <param name="other">The process of host b, which has to be started first; host a lays the cable to it.</param>
    public static string Plug(string host, string folder, int? other) => $"""
        mount -t sysfs none /sys
        ip link set lo up
        {(other is null
            ? $"touch {folder}/plugged"
            : $"until [ -e {folder}/plugged ]; do sleep 0.02; done"
                + $"\nip link add cable type veth peer name cable netns {other}")}
        until ip link set cable up 2> /dev/null; do sleep 0.02; done
        ip address add {AddressOf(host)}/24 dev cable
        """;
}
