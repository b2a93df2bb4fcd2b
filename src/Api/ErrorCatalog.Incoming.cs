namespace Godwit.Api;

/// <summary>Why a guest cannot be created on a host, or cannot go to one.</summary>
public static partial class ErrorCatalog
{
    private static void AddIncoming(AddEntry add)
    {
        add("contract-invalid", ExitCodes.Refused,
            "Something in the guest's description is not possible or not usable.",
            "The message names it and what is accepted.");
        add("guest-ambiguous", ExitCodes.NotFound,
            "The beginning of a UUID fits several guests.", "Give more of it, or the guest's name.");
        add("guest-owner", ExitCodes.NeedsOperator,
            "The registry records another owner of the guest than this daemon believed.",
            "Look at 'godwit vm show' on every host, then restart the daemon that is wrong.");
        add("guest-stop-timeout", ExitCodes.NotConverged,
            "The guest was asked to switch itself off and did not in time; it runs on.",
            "Give it longer with --timeout, or switch it off with --force.");
        add("console-unavailable", ExitCodes.Failed,
            "The guest's console does not answer; it serves one session at a time.", "End the other session.");
        add("disk-missing", ExitCodes.Refused,
            "A disk of the guest's does not exist on the host, or cannot be opened there.",
            "Mount the shared storage under the same path on every host of the guest's, and check its permissions.");
        add("disk-different", ExitCodes.Refused,
            "A disk has another size on the destination: it is not the same disk.",
            "Mount the same shared storage under the same path on both hosts.");
        add("disk-full", ExitCodes.Refused,
            "A directory that godwitd needs for a guest or to record a move has too little space left.",
            "Free some space there; the message names the directory, what it has and what is needed.");
        add("memory-short", ExitCodes.Refused,
            "The host has too little free memory for the guest.",
            "Free memory there, or choose another host: 'godwit host list' shows who has how much.");
        add("machine-unknown", ExitCodes.Refused,
            "The host's QEMU does not have the guest's machine type; an older QEMU lacks newer ones.",
            "Install the QEMU version the guest was created with, or a newer one.");
        add("cpu-unknown", ExitCodes.Refused,
            "The host's QEMU does not have this CPU model.",
            "'qemu-system-x86_64 -cpu help' lists its models; create the guest with one that all its hosts have.");
        add("accelerator-missing", ExitCodes.Refused,
            "The guest's accelerator does not run on the host, and a guest cannot change it while it runs.",
            "'godwit doctor' on that host says why KVM does not work there.");
        add("wire-version", ExitCodes.Refused,
            "The two daemons have no version of the wire protocol in common, or one does not know a request of the "
            + "other.",
            "Bring both hosts to neighbouring versions of godwitd.");
        add("migration-refused", ExitCodes.Refused,
            "The move was refused for several reasons; each is listed with its own code. The guest was not touched.",
            "'godwit explain CODE' for each of them.");
        add("migration-ambiguous", ExitCodes.NotFound,
            "The beginning of an id fits several migrations.", "Give more of it.");
        add("migration-over", ExitCodes.Refused,
            "The migration has ended; there is nothing to cancel.", "'godwit migration show ID' tells how.");
        add("migration-committed", ExitCodes.Refused,
            "The migration is past the point of no return: the guest belongs to the destination.",
            "Move it back when it has arrived.");
    }
}
