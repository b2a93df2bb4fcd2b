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
            "'godwit vm show NAME' on the destination tells whether the guest runs there; look before anything else is "
            + "done with the paused copy.");
    }
}
