using System.CommandLine;
using Godwit.Api;

namespace Godwit.Cli.Tests;

public class CommandLineTests
{
    public static TheoryData<string> Paths()
    {
        var paths = new TheoryData<string>();
        foreach (var (path, _) in Commands(new GodwitCommand(NoTerminal()).Root, ""))
        {
            paths.Add(path);
        }

        return paths;
    }

    [Theory]
    [MemberData(nameof(Paths))]
    public async Task Help_looks_as_reviewed_and_has_examples(string path)
    {
        var terminal = NoTerminal();
        int code = await new GodwitCommand(terminal)
            .RunAsync([.. path.Split(' ', StringSplitOptions.RemoveEmptyEntries), "--help"]);
        string help = terminal.Out.ToString()!;
        Assert.Equal(ExitCodes.Ok, code);
        Assert.Contains("Examples:\n  godwit ", help, StringComparison.Ordinal);
        Snapshot.Check($"help.{(path.Length == 0 ? "godwit" : path.Replace(' ', '-'))}.txt", help);
    }

    // A script of examples is only worth something if each of them parses.
    [Theory]
    [MemberData(nameof(Paths))]
    public async Task Every_example_parses(string path)
    {
        var terminal = NoTerminal();
        var godwit = new GodwitCommand(terminal);
        await godwit.RunAsync([.. path.Split(' ', StringSplitOptions.RemoveEmptyEntries), "--help"]);
        string help = terminal.Out.ToString()!;
        string[] examples = help[help.IndexOf("Examples:", StringComparison.Ordinal)..].Split('\n')[1..];
        foreach (string example in examples.Where(line => line.Length > 0))
        {
            foreach (string part in example.Split(';', '|', '>')
                .Where(part => part.Contains("godwit ", StringComparison.Ordinal)))
            {
                string line = part[(part.IndexOf("godwit ", StringComparison.Ordinal) + 7)..].TrimEnd(')', ' ');
                Assert.Empty(godwit.Root.Parse(line).Errors.Select(error => $"{line}: {error.Message}"));
            }
        }
    }

    [Fact]
    public void A_word_that_begins_with_an_at_sign_names_no_file_of_words() =>
        Assert.Empty(new GodwitCommand(NoTerminal()).Parse(["vm", "show", "@web1"]).Errors);

    [Theory]
    [InlineData("vm migrate web1", "Option '--to' is required.")]
    [InlineData("vm migrate web1 --to b --max-downtime 300", "--max-downtime: '300' has no unit")]
    [InlineData("vm migrate web1 --to b --bandwidth 4x", "has the unit 'x', which is not one of bit, kbit")]
    [InlineData("vm migrate web1 --to b --timeout 0s", "--timeout: '0s' must be above zero.")]
    [InlineData("vm migrate web1 --to b --on-stall wait", "--on-stall: 'wait' is not one of abort, pause.")]
    [InlineData("vm migrate web1 --to b --max-rounds 0", "is not a whole number from 1 to 10000.")]
    [InlineData("vm migrate web1 web2 web1 --to b", "A guest is named twice.")]
    [InlineData("vm lst", "'godwit vm' has no command 'lst'. Did you mean 'list'?")]
    [InlineData("vmm list", "'godwit' has no command 'vmm'. Did you mean 'vm'?")]
    [InlineData("vm migrate web1 --to b --max-rouns 3", "no option '--max-rouns'. Did you mean '--max-rounds'?")]
    [InlineData("vm list extra", "'godwit vm list' has no argument 'extra'.")]
    [InlineData("vm list -o xml", "--output: 'xml' is not one of table, wide, json, yaml, name.")]
    [InlineData("vm create web1", "boots from --disk PATH or from --kernel PATH; neither is given.")]
    [InlineData("vm create web1 --disk a.raw --initrd x", "--initrd and --append belong to --kernel")]
    [InlineData("vm create web1 --disk a", "does not tell the format; add ,format=raw or ,format=qcow2.")]
    [InlineData("vm create web1 --disk a,format=vmdk", "'format=vmdk' in 'a,format=vmdk' is not one of format=raw")]
    [InlineData("vm create web1 --disk a.raw --mac 53:54:00:12:34:56", "is not a unicast address")]
    [InlineData("vm create web1 --disk a.raw --mac 52-54-00-12-34-56", "is not a MAC address such as")]
    [InlineData("vm create web1 --disk a.raw --ip 10.0.0.21/24", "is not an address such as 10.0.0.21")]
    [InlineData("vm create web1 --disk a.raw --ip 10.1", "'10.1' is not an address")]
    [InlineData("vm create web1 --disk a.raw --bridge none --ip 10.0.0.1", "--bridge none means there is none")]
    [InlineData("vm create web1 --disk a.raw --memory 512M", "has the unit 'M', which is not one of B, KiB, MiB")]
    [InlineData("completion tcsh", "'tcsh'")]
    public async Task A_wrong_command_line_is_named_and_ends_with_2(string line, string says)
    {
        var terminal = NoTerminal();
        int code = await new GodwitCommand(terminal).RunAsync(line.Split(' '));
        Assert.Equal(ExitCodes.Usage, code);
        Assert.Equal("", terminal.Out.ToString());
        Assert.Contains("error usage: ", terminal.Error.ToString(), StringComparison.Ordinal);
        Assert.Contains(says, terminal.Error.ToString(), StringComparison.Ordinal);
        Assert.Contains("--help'.", terminal.Error.ToString(), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("")]
    [InlineData("vm")]
    [InlineData("migration")]
    public async Task A_noun_without_its_verb_lists_the_verbs(string line)
    {
        var terminal = NoTerminal();
        int code = await new GodwitCommand(terminal)
            .RunAsync(line.Split(' ', StringSplitOptions.RemoveEmptyEntries));
        Assert.Equal(ExitCodes.Usage, code);
        Assert.Contains("Commands:", terminal.Error.ToString(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Explain_knows_every_code_and_offers_near_ones()
    {
        foreach (var entry in ErrorCatalog.All)
        {
            var terminal = NoTerminal();
            Assert.Equal(0, await new GodwitCommand(terminal).RunAsync(["explain", entry.Code]));
            Assert.Contains(entry.Meaning, terminal.Out.ToString(), StringComparison.Ordinal);
            Assert.Contains(entry.Remedy, terminal.Out.ToString(), StringComparison.Ordinal);
            Assert.DoesNotContain("unknown.", terminal.Out.ToString()!.Split('\n')[^2], StringComparison.Ordinal);
        }

        var unknown = NoTerminal();
        Assert.Equal(ExitCodes.NotFound, await new GodwitCommand(unknown).RunAsync(["explain", "guest-unknwn"]));
        Assert.Contains("guest-unknown", unknown.Error.ToString(), StringComparison.Ordinal);
    }

    // Goal: the page about the commands knows all of them and every option, and no link of the two can rot.
    [Fact]
    public void The_manual_lists_every_command_and_option()
    {
        string manual = File.ReadAllText(Path.Combine(Repository.Root, "docs/cli.md"));
        foreach (var (path, command) in Commands(new GodwitCommand(NoTerminal()).Root, ""))
        {
            Assert.Contains($"godwit {path}".TrimEnd(), manual, StringComparison.Ordinal);
            foreach (var option in command.Options.Where(option => option.Name is not ("--help" or "--version")))
            {
                Assert.True(manual.Contains($"`{option.Name}", StringComparison.Ordinal), $"{path} {option.Name}");
            }
        }

        foreach (var entry in typeof(ExitCodes).GetFields())
        {
            Assert.Contains($"| {entry.GetRawConstantValue()} |", manual, StringComparison.Ordinal);
        }
    }

    internal static Terminal NoTerminal() => new()
    {
        Out = new StringWriter { NewLine = "\n" },
        Error = new StringWriter { NewLine = "\n" },
    };

    private static IEnumerable<(string Path, Command Command)> Commands(Command command, string path)
    {
        yield return (path, command);
        foreach (var verb in command.Subcommands)
        {
            foreach (var below in Commands(verb, $"{path} {verb.Name}".Trim()))
            {
                yield return below;
            }
        }
    }
}
