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
    public const int PlanStale = 9;
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
        AddGuests(Add);
        AddMachines(Add);
        AddHosts(Add);
        AddMigrations(Add);
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
        add("migration-unknown", ExitCodes.NotFound,
            "No migration with this id, id prefix or guest name is recorded on this host.",
            "List them with 'godwit migration list'.");
    }
}
