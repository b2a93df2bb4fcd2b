namespace Godwit.Api;

/// <content>What the command line itself can meet: the daemon, the shell, and how a move ended.</content>
public static partial class ErrorCatalog
{
    private static void AddCommands(AddEntry add)
    {
        add("usage", ExitCodes.Usage,
            "The command line is not one that godwit takes.",
            "The message names what was read and what is accepted; 'godwit COMMAND --help' has examples.");
        add("code-unknown", ExitCodes.NotFound,
            "This version of godwit has no error code of this name.",
            "'godwit explain' lists all; a newer daemon may send codes that an older command does not know.");
        add("lab-missing", ExitCodes.Failed,
            "'godwit lab' runs the separate program godwit-lab, and that is not installed or cannot be run.",
            "Build the lab from the sources, install it beside godwit, or set GODWIT_BIN to its folder.");
        add("daemon-unreachable", ExitCodes.Failed,
            "Nothing answers on the daemon's Unix socket: the daemon is not running, or it uses another socket. "
            + "Guests are not affected; they run on without it.",
            "Look with 'systemctl status godwitd', or name another socket with --socket or GODWIT_SOCKET.");
        add("daemon-denied", ExitCodes.Authentication,
            "The daemon's socket may be opened only by root and the members of its group.",
            "Run the command as root, or add the user to the group that owns the socket.");
        add("daemon-timeout", ExitCodes.NotConverged,
            "The daemon took the request but gave no answer in time; what was asked may still happen.",
            "Look at the state with 'list' or 'show' before trying again; 'journalctl -u godwitd' tells "
            + "what holds it.");
        add("daemon-version", ExitCodes.Refused,
            "The daemon is older than this command and does not know the request.",
            "Compare with 'godwit version' and update the older side.");
        add("daemon-failed", ExitCodes.Failed,
            "The daemon met an error that it has no name for.",
            "'journalctl -u godwitd' has the details; the guests run where they were.");
        add("daemon-lost", ExitCodes.NeedsOperator,
            "The daemon went away during a migration and did not come back in time. The move may have gone on, "
            + "ended or been rolled back; from here it cannot be proved which.",
            "Start the daemon again: it settles what was in progress. Then 'godwit migration show ID' says where the "
            + "guest runs.");
        add("daemon-ended", ExitCodes.Failed,
            "The source's daemon ended in the middle of the move, before the hand-over; the guest runs on at the "
            + "source.",
            "'journalctl -u godwitd' on the source says why it ended. Then start the move again.");
        add("migration-failed", ExitCodes.Failed,
            "The migration ended before the hand-over; the guest runs on at the source as before.",
            "The message names the cause. Try 'godwit vm migrate NAME --to HOST --dry-run' once it is out of the way.");
        add("migration-not-converged", ExitCodes.NotConverged,
            "The guest dirties its memory faster than the link carries it, so that the rest never fitted the pause "
            + "budget within the bounds on rounds and time. The guest runs on at the source.",
            "Allow a longer pause (--max-downtime), more bandwidth (--bandwidth) or a pause as long as it takes "
            + "(--on-stall pause), or move the guest when it is less busy.");
        add("migration-cancelled", ExitCodes.Cancelled,
            "The migration was cancelled before the hand-over; the guest runs on at the source as before.",
            "Start it again with 'godwit vm migrate NAME --to HOST'.");
        add("migration-unsettled", ExitCodes.NeedsOperator,
            "The hand-over was decided, but the destination has not confirmed that the guest runs there. The source's "
            + "copy stays paused so that there are never two.",
            "It settles itself as soon as the destination answers. If that host is gone for good and you know where "
            + "the guest runs, or shall run: 'godwit migration settle ID --guest-runs-on HOST' on the source.");
        add("migration-settled", ExitCodes.Refused,
            "There is nothing to settle: the migration ended, or is still under way.",
            "'godwit migration show ID' tells how it ended. An unsettled one is settled on the host that the guest "
            + "left.");
        add("migration-fetching", ExitCodes.NeedsOperator,
            "If the guest runs at its destination, it may lack memory that only the host it came from has.",
            "Bring the destination's daemon back: it fetches the rest by itself. If that host is gone for good, decide "
            + "for the host that the guest left.");
        add("guest-disputed", ExitCodes.NeedsOperator,
            "The guest died where it had arrived, before the host that it came from knew how the move ended: an "
            + "operator may have decided that it runs there.",
            "Start it when that host answers; if it is gone for good: 'godwit vm start NAME --force'.");
        add("migration-foreign", ExitCodes.Refused,
            "A host asked about a migration that it has no part in.",
            "Only the two hosts of a migration may settle it. If this repeats, look at what the asking host runs.");
        add("handover-refused", ExitCodes.Failed,
            "The hand-over was committed, and the destination has answered that it never ran the guest and never will: "
            + "the source runs it again.",
            "The destination's log says why. Start the move again when that is mended.");
        add("migration-overruled", ExitCodes.Failed,
            "An operator decided that the guest runs at the source; the destination's copy is void.",
            "Nothing has to be done: should the destination come back, its copy is ended.");
        add("destination-resume", ExitCodes.Failed,
            "The destination had loaded the guest and could not let it run; the source runs it again.",
            "The destination's log says why, for example a disk that is locked or a hand-over journal that cannot be "
            + "written.");
        add("journal-broken", ExitCodes.Failed,
            "The hand-over journal in the state directory is damaged. The daemon does not start: without it two hosts "
            + "might run one guest.",
            "Put the file back from a backup. Without one, look on every host which guests run, and only when no guest "
            + "of this host is being moved, move the file away.");
        add("journal-newer", ExitCodes.Failed,
            "The hand-over journal was written by a newer godwitd.",
            "Start the newer godwitd, let it settle its migrations, and only then go back.");
        add("journal-unwritable", ExitCodes.Failed,
            "The hand-over journal cannot be written, so no guest may change hands on this host.",
            "Check free space and the disk under the state directory, then restart godwitd.");
    }
}
