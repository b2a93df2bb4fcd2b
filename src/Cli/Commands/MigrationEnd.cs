using Godwit.Api;
using Godwit.Api.V1;
using Godwit.Cli.Output;

namespace Godwit.Cli.Commands;

/// <summary>What a finished migration means for the command that waited for it.</summary>
internal static class MigrationEnd
{
    /// <summary>The exit code of a command that waited for the migration.</summary>
    public static int ExitCode(MigrationOutcome outcome) =>
        outcome == MigrationOutcome.Completed ? ExitCodes.Ok : ByOutcome(outcome).ExitCode;

    /// <summary>The error to print, or null if it completed; it always says where the guest runs.</summary>
    public static CommandException? Failure(Migration migration)
    {
        if (migration.Outcome == MigrationOutcome.Completed)
        {
            return null;
        }

        var (byOutcome, exitCode) = ByOutcome(migration.Outcome);
        string code = migration.ErrorCode.Length > 0 ? migration.ErrorCode : byOutcome;
        string cause = migration.Error.Length > 0
            ? migration.Error
            : $"moving {migration.Guest} from {migration.From} to {migration.To} ended {Json.Word(migration.Outcome)}.";
        string where = MigrationAnswers.WhereItRuns(migration);
        // The daemon may have said it already, with more behind it: "web1 runs on a, where it was."
        bool isSaid = cause.Contains(where.TrimEnd('.'), StringComparison.Ordinal);
        string message = isSaid ? cause : $"{cause} {where}";
        string remedy = (ErrorCatalog.Find(code) ?? ErrorCatalog.Find(byOutcome))?.Remedy ?? "";
        return new CommandException(code, message, remedy, exitCode);
    }

    // The exit code follows the outcome even where the daemon's code, which says more, would have another.
    private static (string Code, int ExitCode) ByOutcome(MigrationOutcome outcome) => outcome switch
    {
        MigrationOutcome.NotConverged => ("migration-not-converged", ExitCodes.NotConverged),
        MigrationOutcome.Cancelled => ("migration-cancelled", ExitCodes.Cancelled),
        MigrationOutcome.Unsettled => ("migration-unsettled", ExitCodes.NeedsOperator),
        _ => ("migration-failed", ExitCodes.Failed),
    };
}
