using System.CommandLine;
using Godwit.Cli.Output;

namespace Godwit.Cli.Commands;

/// <summary><c>godwit completion SHELL</c>: prints the script that the shell loads.</summary>
internal static class CompletionCommand
{
    public static Command Build(GodwitCommand godwit)
    {
        var shell = new Argument<string>("SHELL") { Description = "bash, zsh or fish." };
        shell.AcceptOnlyFromAmong("bash", "zsh", "fish");
        return godwit.Verb(
            "completion", "Print the completion script for a shell.",
            [
                "godwit completion bash > /etc/bash_completion.d/godwit",
                "godwit completion zsh > \"${fpath[1]}/_godwit\"",
                "godwit completion fish > ~/.config/fish/completions/godwit.fish",
            ],
            [shell],
            (session, _) =>
            {
                session.Terminal.Out.Write(CompletionScript.For(session.Get(shell), godwit.Root));
                session.Terminal.Out.Flush();
                return Task.FromResult(0);
            });
    }
}
