namespace Godwit.Cli.Tests;

/// <summary>A command on a pseudo-terminal of its own, by script(1) of util-linux.</summary>
internal static class Pty
{
    public static Child Run(string command) =>
        new("script", ["-qec", command, "/dev/null"], [("TERM", "xterm"), ("SHELL", "/bin/sh")]);
}
