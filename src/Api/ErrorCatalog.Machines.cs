namespace Godwit.Api;

public static partial class ErrorCatalog
{
    private static void AddMachines(AddEntry add)
    {
        AddContracts(add);
        add("qemu-too-old", ExitCodes.Refused,
            "This host's QEMU is older than 7.2, the oldest that Godwit drives.",
            "Install a newer one, on Debian 12 from bookworm-backports.");
        add("qemu-start", ExitCodes.Failed,
            "QEMU refused to start; the message ends with QEMU's own words. Nothing of the guest is left running.",
            "Correct what QEMU names. Its log lies in the guest's runtime directory.");
        add("qemu-silent", ExitCodes.NeedsOperator,
            "QEMU runs but does not answer on its monitor. The guest may be running; Godwit leaves it as it is.",
            "Look at the load of the host and at QEMU's log; another program may hold the monitor.");
        add("qemu-ended", ExitCodes.Failed,
            "QEMU ended while a command was under way, or its monitor was closed.",
            "QEMU's log in the guest's runtime directory says why. Start the guest again with 'godwit vm start NAME'.");
        add("guest-running", ExitCodes.Refused,
            "A QEMU of this guest runs already on this host; a second one would spoil its disks.",
            "Stop the guest first, or restart the daemon so that it finds the running one again.");
        add("memory-file", ExitCodes.Failed,
            "The daemon cannot use the guest's memory file, so its pages can be neither read nor placed.",
            "Run the daemon as root or as QEMU's user, with no fewer capabilities than QEMU: restart the guest if a "
            + "daemon with more had started it. A guest with private memory moves without the file.");
        add("tap-failed", ExitCodes.Failed,
            "The kernel refused something about the guest's TAP device.",
            "The daemon needs CAP_NET_ADMIN and /dev/net/tun; 'ip -d link' shows the device's state.");
        add("tap-in-use", ExitCodes.Refused,
            "The guest's TAP device is open in another process: a QEMU of this guest still runs.",
            "End that QEMU, or restart the daemon so that it finds it again.");
        add("path-too-long", ExitCodes.Refused,
            "The path of a Unix socket exceeds the kernel's limit of 107 bytes.",
            "Configure a shorter runtime directory.");
    }

    private static void AddContracts(AddEntry add)
    {
        add("guest-name", ExitCodes.Refused,
            "A guest's name has 1 to 63 letters, digits, dots, hyphens or underscores, beginning with a letter or "
                + "digit.",
            "Choose another name.");
        add("guest-memory", ExitCodes.Refused,
            "A guest's memory is a multiple of 2 MiB, from 2 MiB to 4 TiB.",
            "Give it with a unit, for example 512MiB or 4GiB.");
        add("guest-cpus", ExitCodes.Refused,
            "A guest has 1 to 255 CPUs.",
            "Give another number.");
        add("guest-devices", ExitCodes.Refused,
            "A guest has at most 16 disks and 8 interfaces.",
            "Give it fewer.");
        add("machine-not-movable", ExitCodes.Refused,
            "The machine type carries no version. It means another machine in the next QEMU, so the guest could not "
                + "move.",
            "Give a versioned PC type, for example pc-q35-10.0.");
        add("cpu-not-movable", ExitCodes.Refused,
            "The CPU model is whatever the host has. On another host the guest would lose features it has found "
                + "already.",
            "Give a named model that all hosts support; 'qemu-system-x86_64 -cpu help' lists them.");
        add("cpu-feature", ExitCodes.Refused,
            "The host's processor lacks features that the guest's CPU model has.",
            "Move the guest to another host, or create it with a model that all hosts support.");
        add("emulated-writes", ExitCodes.Refused,
            "QEMU before 9.0 misses writes of emulated processors (accelerator tcg) when it migrates. Godwit compares "
                + "shared memory afterwards and makes up for it; private memory cannot be compared.",
            "Use KVM, QEMU 9.0 or later, or shared memory.");
        add("disk-in-use", ExitCodes.Refused,
            "An unsettled guest was to be started on the host that it left, while a QEMU writes to its disks: it runs.",
            "Decide for the host where it runs; if that is to be the end of it, switch that host off first.");
        add("disk-format", ExitCodes.Refused,
            "A disk's format is unknown, or the image's first bytes say another one.",
            "Give the format that 'qemu-img info' tells; raw and qcow2 are known.");
        add("disk-not-movable", ExitCodes.Refused,
            "A disk lies in the host's memory (tmpfs or the like): no other host reaches it, and a reboot loses it.",
            "Put the image on shared storage.");
        add("kernel-missing", ExitCodes.Refused,
            "The guest has nothing to boot from, or its kernel or initramfs is not on the host.",
            "Give a disk image, or a kernel and initramfs that lie under the same path on every host.");
        add("bridge-unknown", ExitCodes.Refused,
            "The host has no bridge of this name.",
            "Create it with 'ip link add NAME type bridge'; a guest needs its bridge on every host.");
        add("bridge-down", ExitCodes.Refused,
            "The guest's bridge is down on the host, so no frame would reach the guest.",
            "Set it up with 'ip link set NAME up'.");
        add("mac-invalid", ExitCodes.Refused,
            "The MAC address is not one for a guest: it is multicast, all zeros, begins with fe, or is not six bytes.",
            "Leave it out and one is made, or give one like 52:54:00:12:34:56.");
        add("mac-in-use", ExitCodes.Refused,
            "The MAC address is that of the host's own device or of another interface of the guest.",
            "Leave it out and one is made.");
        add("address-invalid", ExitCodes.Refused,
            "An address of the guest's is not an IPv4 or IPv6 unicast address.",
            "Give one like 10.0.0.20 or fd00::20.");
        add("guest-address-in-use", ExitCodes.Refused,
            "An address given to the guest is the host's own.",
            "Give the guest one of its own.");
    }
}
