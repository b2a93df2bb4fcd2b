using Godwit.Cli.Commands;

namespace Godwit.Cli.Tests;

public class CompletionTests
{
    [Theory]
    [InlineData("bash")]
    [InlineData("zsh")]
    [InlineData("fish")]
    public void A_script_looks_as_reviewed(string shell) => Snapshot.Check(
        $"completion.{shell}.txt",
        CompletionScript.For(shell, new GodwitCommand(CommandLineTests.NoTerminal()).Root));

    // Goal: the script completes as a person at a bash prompt sees it. Method: bash itself, with the words typed so
    // far.
    [Theory]
    [InlineData("godwit vm mig", "migrate")]
    [InlineData("godwit migration ", "list show watch set pause resume cancel settle report")]
    [InlineData("godwit vm migrate web1 --to b --on-stall ", "abort pause")]
    [InlineData("godwit vm migrate web1 --max-d", "--max-downtime")]
    [InlineData("godwit -o json vm l", "list")]
    [InlineData("godwit completion ", "bash zsh fish")]
    [InlineData("godwit vm show ", "db1 web1")]
    [InlineData("godwit vm show w", "web1")]
    [InlineData("godwit vm migrate web1 --to ", "a b")]
    [InlineData("godwit explain guest-unk", "guest-unknown")]
    public async Task Bash_completes(string typed, string offered)
    {
        await using var daemon = await ScriptedDaemon.StartAsync();
        Assert.Equal(offered, await CompleteAsync(typed, daemon.SocketPath));
    }

    [Theory]
    [InlineData("guests")]
    [InlineData("hosts")]
    [InlineData("migrations")]
    [InlineData("nonsense")]
    public async Task Names_without_a_daemon_are_none_and_silent(string kind)
    {
        using var child = new Child(Child.GodwitPath, ["__complete", kind, "/nonexistent/godwitd.sock"]);
        Assert.Equal((0, "", ""), await child.EndAsync());
    }

    // Goal: a daemon that hangs costs the tab key its bound and nothing more. A socket that accepts and never answers.
    [Fact]
    public async Task Names_from_a_daemon_that_hangs_are_none_and_silent()
    {
        string folder = Directory.CreateTempSubdirectory("godwit-hang-").FullName;
        string path = Path.Combine(folder, "d.sock");
        using var silent = new System.Net.Sockets.Socket(
            System.Net.Sockets.AddressFamily.Unix, System.Net.Sockets.SocketType.Stream,
            System.Net.Sockets.ProtocolType.Unspecified);
        silent.Bind(new System.Net.Sockets.UnixDomainSocketEndPoint(path));
        silent.Listen();
        using var child = new Child(Child.GodwitPath, ["__complete", "guests", path]);
        Assert.Equal((0, "", ""), await child.EndAsync());
        Directory.Delete(folder, recursive: true);
    }

    private static async Task<string> CompleteAsync(string typed, string socket)
    {
        string script = CompletionScript.For("bash", new GodwitCommand(CommandLineTests.NoTerminal()).Root);
        string[] words = typed.Split(' ');
        words[0] = Child.GodwitPath;
        string quoted = string.Join(' ', words.Select(word => $"'{word}'"));
        string program =
            $"{script}\nCOMP_WORDS=({quoted}); COMP_CWORD={words.Length - 1}; _godwit; echo \"${{COMPREPLY[*]}}\"";
        using var bash = new Child(
            "bash", ["-c", program], [("GODWIT_SOCKET", socket), ("GODWIT_COMPLETION_WAIT", "30s")]);
        var (_, output, error) = await bash.EndAsync();
        Assert.Equal("", error);
        return output.Trim();
    }
}
