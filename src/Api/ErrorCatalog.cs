namespace Godwit.Api;

/// <summary>What a stable error code means, how a command ends with it, and what to do.</summary>
/// <param name="Code">Lower-case words joined by hyphens; never renamed, never reused.</param>
/// <param name="ExitCode">One of <see cref="ExitCodes"/>.</param>
/// <param name="Meaning">What happened and why it is refused.</param>
/// <param name="Remedy">What an operator does next.</param>
public sealed record ErrorEntry(string Code, int ExitCode, string Meaning, string Remedy);

/// <summary>The exit codes of <c>godwit</c>: documented, stable and tested.</summary>
public static class ExitCodes
{
    public const int Ok = 0;
    /// <summary>The operation failed; the guest still runs where it was.</summary>
    public const int Failed = 1;
    public const int Usage = 2;
    /// <summary>A check beforehand refused; nothing was touched.</summary>
    public const int Refused = 3;
    public const int NotFound = 4;
    public const int Authentication = 5;
    /// <summary>Timed out or did not converge; the guest still runs where it was.</summary>
    public const int NotConverged = 6;
    public const int Cancelled = 7;
    /// <summary>The state cannot be proved; an operator has to look.</summary>
    public const int NeedsOperator = 8;
    public const int Interrupted = 130;
}

/// <summary>Every error code Godwit can print, for <c>godwit explain CODE</c>.</summary>
public static partial class ErrorCatalog
{
    private static readonly Dictionary<string, ErrorEntry> Entries = Build();

    public static IReadOnlyCollection<ErrorEntry> All => Entries.Values;

    public static ErrorEntry? Find(string code) => Entries.GetValueOrDefault(code);

    private static Dictionary<string, ErrorEntry> Build()
    {
        var entries = new Dictionary<string, ErrorEntry>(StringComparer.Ordinal);
        void Add(string code, int exitCode, string meaning, string remedy) =>
            entries.Add(code, new ErrorEntry(code, exitCode, meaning, remedy));

        AddDaemon(Add);
        AddTrust(Add);
        AddIncoming(Add);
        AddConvergence(Add);
        AddGuests(Add);
        AddMachines(Add);
        AddHosts(Add);
        AddMigrations(Add);
        AddParcels(Add);
        AddCommands(Add);
        return entries;
    }

    private delegate void AddEntry(string code, int exitCode, string meaning, string remedy);

    private static void AddGuests(AddEntry add)
    {
        add("guest-unknown", ExitCodes.NotFound,
            "No guest with this name, UUID or UUID prefix is known to this host.",
            "List the guests with 'godwit vm list'; a guest that moved away is listed with its new host.");
        add("guest-exists", ExitCodes.Refused,
            "A guest with this name, UUID or MAC address exists already.",
            "Choose another name, or remove the old guest with 'godwit vm rm NAME'.");
        add("guest-state", ExitCodes.Refused,
            "The guest is in a state in which this cannot be done.",
            "'godwit vm show NAME' tells the state; start, stop or wait as it says.");
    }

    private static void AddHosts(AddEntry add)
    {
        add("host-unknown", ExitCodes.NotFound,
            "No host with this name has joined the cluster.",
            "List the hosts with 'godwit host list'.");
    }

    private static void AddMigrations(AddEntry add)
    {
        add("stream-format", ExitCodes.Failed,
            "A migration stream or a message of the peer breaks its format; nothing of it is trusted any more.",
            "The guest runs on the source. Compare the versions of both daemons and QEMUs "
            + "with 'godwit host list -o json'.");
        add("link-lost", ExitCodes.Failed,
            "The connection that carries the guest could not be made, broke, or was silent for too long before the "
            + "hand-over. The guest runs on at the source.",
            "Check that godwitd runs on both hosts and that the destination's lanePort can be reached from the source; "
            + "then migrate again.");
        add("pause-budget", ExitCodes.NotConverged,
            "The guest was paused for the hand-over, and it took or would have taken longer than the pause budget "
            + "allows. The hand-over was taken back; the guest runs on at the source.",
            "Allow a longer pause (--max-downtime), more bandwidth (--bandwidth) or a pause as long as it takes "
            + "(--on-stall pause), or move the guest when it is less busy.");
        add("qemu-migration", ExitCodes.Failed,
            "The source's QEMU ended its migration by itself, or refused a step of it.",
            "'godwit vm show NAME' on the source tells whether the guest runs; QEMU's log in the guest's runtime "
            + "directory there says why.");
        add("guest-lost", ExitCodes.Failed,
            "The guest's QEMU ended during the move, and the guest with it: it runs nowhere.",
            "QEMU's log in the guest's runtime directory on the source says why; start the guest again with "
            + "'godwit vm start NAME' there.");
        add("destination-qemu", ExitCodes.Failed,
            "The destination's QEMU ended, failed to load the guest, or refused a step of the move before the "
            + "hand-over. The guest runs on at the source.",
            "QEMU's log in the guest's runtime directory on the destination says why; "
            + "'godwit doctor' there tells what the host lacks.");
        add("destination-load", ExitCodes.Failed,
            "The destination's QEMU took the guest's state in and refused it. The guest runs on at the source.",
            "QEMU's log in the guest's runtime directory on the destination names the device; compare both QEMUs "
            + "with 'godwit host list -o json'.");
        add("migration-abandoned", ExitCodes.Failed,
            "The destination gave the arriving guest up before the hand-over: its daemon was shutting down, or the "
            + "source did not connect in time. The guest runs on at the source.",
            "See that godwitd runs on the destination and that its lanePort can be reached; then migrate again.");
        add("migration-unknown", ExitCodes.NotFound,
            "No migration with this id, id prefix or guest name is recorded on this host.",
            "List them with 'godwit migration list'.");
    }
}
