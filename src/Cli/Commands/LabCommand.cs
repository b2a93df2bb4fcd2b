using System.CommandLine;
using System.Runtime.InteropServices;

namespace Godwit.Cli.Commands;

/// <summary><c>godwit lab ...</c>: becomes the sibling program <c>godwit-lab</c>, as git does with its own.</summary>
internal static partial class LabCommand
{
    private const string Executable = "godwit-lab";

    public static Command Build(GodwitCommand godwit)
    {
        var rest = new Argument<string[]>("ARGUMENTS")
        {
            Description = "Handed to godwit-lab as they are.",
            Arity = ArgumentArity.ZeroOrMore,
        };
        return godwit.Verb(
            "lab", "Two hosts, a switch and an outside client on one machine; see 'godwit lab --help'.",
            ["godwit lab up", "godwit lab run --list", "godwit lab down"], [rest],
            (session, _) => Task.FromResult(Run(session.Terminal, [.. session.Get(rest), .. session.Unmatched])));
    }

    /// <summary>
    /// Replaces this process by the lab's program: its signals, output and exit code are then its own.
    /// </summary>
    public static int Run(Terminal terminal, string[] arguments)
    {
        string[] places = [.. Places()];
        if (places.FirstOrDefault(File.Exists) is not { } path)
        {
            var missing = new CommandException(
                "lab-missing",
                $"the program {Executable} is not installed; looked at {string.Join(", ", places.Take(2))} "
                + "and in the PATH.");
            GodwitCommand.PrintError(terminal, missing);
            return missing.ExitCode;
        }

        terminal.Out.Flush();
        terminal.Error.Flush();
        string?[] vector = [path, .. arguments, null];
        Execute(path, vector);
        // Reached only if the kernel refused.
        var failed = new CommandException(
            "lab-missing", $"{path} cannot be run: {Marshal.GetLastPInvokeErrorMessage()}.");
        GodwitCommand.PrintError(terminal, failed);
        return failed.ExitCode;
    }

    /// <summary>
    /// Where the lab's program may lie, in order: named, installed beside us, built beside us, on the path.
    /// </summary>
    private static IEnumerable<string> Places()
    {
        if (Environment.GetEnvironmentVariable("GODWIT_BIN") is { Length: > 0 } folder)
        {
            yield return Path.Combine(folder, Executable);
            yield break;
        }

        string here = AppContext.BaseDirectory;
        yield return Path.Combine(here, Executable);
        string build = Path.GetFileName(Path.TrimEndingDirectorySeparator(here));
        yield return Path.GetFullPath(Path.Combine(here, "../../Lab", build, Executable));
        foreach (string entry in (Environment.GetEnvironmentVariable("PATH") ?? "").Split(':'))
        {
            if (Path.IsPathRooted(entry))
            {
                yield return Path.Combine(entry, Executable);
            }
        }
    }

    [LibraryImport("libc", EntryPoint = "execv", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Execute(string path, string?[] arguments);
}
