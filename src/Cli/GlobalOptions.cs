using System.CommandLine;
using Godwit.Cli.Daemon;

namespace Godwit.Cli;

/// <summary>The options that every command takes.</summary>
internal sealed class GlobalOptions
{
    public Option<string> Output { get; } = Option.Among(
        "--output", "Print the answer as a table, a wide table, JSON, YAML, or names only.",
        ["table", "wide", "json", "yaml", "name"], "table", "-o");

    public Option<bool> NoHeaders { get; } = new("--no-headers") { Description = "Leave out a table's header line." };

    public Option<bool> Quiet { get; } = new("--quiet", "-q") { Description = "Print no progress and no notes." };

    public Option<string> Socket { get; } = new("--socket")
    {
        Description = "The daemon's Unix socket; GODWIT_SOCKET in the environment sets the default.",
        HelpName = "PATH",
        DefaultValueFactory = _ => Environment.GetEnvironmentVariable("GODWIT_SOCKET") is { Length: > 0 } path
            ? path
            : DaemonClient.DefaultSocketPath,
    };

    public void AddTo(Command root)
    {
        foreach (Option option in (Option[])[Output, NoHeaders, Quiet, Socket])
        {
            option.Recursive = true;
            root.Add(option);
        }
    }
}
