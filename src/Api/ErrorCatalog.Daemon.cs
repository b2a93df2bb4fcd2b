namespace Godwit.Api;

/// <summary>Why a daemon does not start, and what <c>godwit doctor</c> finds.</summary>
public static partial class ErrorCatalog
{
    private static void AddDaemon(AddEntry add)
    {
        add("config-invalid", ExitCodes.Usage,
            "godwitd's configuration has an unknown key, a value out of range, or a file that cannot be read.",
            "The message names the file and the key. 'godwitd --check-config' checks it without starting anything.");
        add("state-unwritable", ExitCodes.Refused,
            "A directory in which godwitd keeps its registry, keys or sockets cannot be written, or is full.",
            "Check owner, mode and free space with 'ls -ld' and 'df', "
            + "or set stateDirectory, runtimeDirectory, pkiDirectory.");
        add("state-in-use", ExitCodes.Refused,
            "Another godwitd holds the same state directory. Two daemons on one registry could both own a guest.",
            "Stop the other one, or give this one its own state and runtime directories and ports.");
        add("address-in-use", ExitCodes.Refused,
            "Another process listens on an address, port or socket that godwitd needs.",
            "Find it with 'ss -ltnp', or change peerPort, lanePort, listen or runtimeDirectory.");
        add("address-unavailable", ExitCodes.Refused,
            "godwitd was told to listen on an address that this host does not have, or may not use.",
            "Set listen to an address that 'ip address' shows, or to 0.0.0.0 for all.");
        add("registry-newer", ExitCodes.Refused,
            "The registry was written by a newer godwitd; reading it with this one could lose what it does not know.",
            "Install the godwitd version that wrote it, or a newer one.");
        add("registry-broken", ExitCodes.NeedsOperator,
            "The registry file is damaged. Running guests are not touched by that.",
            "Put a backup in its place and start godwitd again.");
        add("internal", ExitCodes.Failed,
            "godwitd met something its authors did not expect.",
            "Please report it with the daemon's log: journalctl -u godwitd.");
        add("qemu-missing", ExitCodes.Refused,
            "There is no QEMU on the host that godwitd can use; 7.2 and later are.",
            "Install it: apt install qemu-system-x86; or set qemu in the configuration to its path.");
        add("kvm-unusable", ExitCodes.Ok,
            "KVM does not run guests on this host, so they run under TCG: correct, and about ten times slower.",
            "Switch virtualization on in the firmware, load kvm_intel or kvm_amd, and let godwitd open /dev/kvm.");
        add("tun-missing", ExitCodes.Refused,
            "/dev/net/tun is missing, so guests cannot be given network interfaces.",
            "Load the module with 'modprobe tun'; in a container pass the device through.");
        add("lz4-missing", ExitCodes.Refused,
            "The library liblz4 cannot be loaded on a host; without it no guest can leave the host or come to it.",
            "Install it there: apt install liblz4-1.");
        add("zstd-missing", ExitCodes.Refused,
            "The library libzstd cannot be loaded on a host; without it no guest can leave the host or come to it.",
            "Install it there: apt install libzstd1.");
        add("clock-skew", ExitCodes.Ok,
            "The clocks of two hosts differ; certificates and tokens are judged by the clock.",
            "Run a time service on both hosts, for example chrony.");
    }
}
