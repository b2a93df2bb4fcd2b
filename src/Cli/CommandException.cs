using Godwit.Api;

namespace Godwit.Cli;

/// <summary>A command ends here: a stable code, what went wrong, what to do, and with it the exit code.</summary>
internal sealed class CommandException(string code, string message, string remedy = "", int? exitCode = null)
    : Exception(message)
{
    public string Code { get; } = code;

    public string Remedy { get; } = remedy.Length > 0 ? remedy : ErrorCatalog.Find(code)?.Remedy ?? "";

    /// <summary>The catalog's exit code unless the caller knows better (a migration's outcome does).</summary>
    public int ExitCode { get; } = exitCode ?? ErrorCatalog.Find(code)?.ExitCode ?? ExitCodes.Failed;
}
