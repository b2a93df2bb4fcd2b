using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Invocation;
using Godwit.Api;
using Godwit.Cli.Commands;
using Godwit.Cli.Output;

namespace Godwit.Cli;

/// <summary>The command tree: nouns and verbs, the options all share, and how every command ends.</summary>
internal sealed class GodwitCommand
{
    private const int HelpWidth = 100;

    private readonly Terminal _terminal;
    private readonly Dictionary<Command, string[]> _examples = [];

    public GodwitCommand(Terminal terminal)
    {
        _terminal = terminal;
        Root = new RootCommand("Moves running virtual machines between hosts without stopping them.");
        Options.AddTo(Root);
        Root.Add(GuestCommands.Build(this));
        Root.Add(MigrateCommand.Build(this));
        Root.Add(MigrationCommands.Build(this));
        Root.Add(HostCommands.Build(this));
        Root.Add(PolicyCommands.Build(this));
        Root.Add(StoreCommands.Build(this));
        Root.Add(LabCommand.Build(this));
        Root.Add(DoctorCommand.Build(this));
        Root.Add(ExplainCommand.Build(this));
        Root.Add(CompletionCommand.Build(this));
        Root.Add(VersionCommand.Build(this));
        _examples[Root] =
        [
            "godwit vm create web1 --disk /srv/images/web1.qcow2 --memory 2GiB --ip 10.0.0.21 --start",
            "godwit vm migrate web1 --to b --max-downtime 300ms",
            "godwit migration list -o json",
            "godwit doctor",
        ];
        foreach (var option in Root.Options)
        {
            if (option is HelpOption { Action: HelpAction inner } help)
            {
                help.Description = "Show this help.";
                inner.MaxWidth = HelpWidth;
                help.Action = new HelpWithExamples(inner, _examples);
            }
            else if (option is VersionOption version)
            {
                version.Description = "Print the version of this command.";
            }
        }
    }

    public RootCommand Root { get; }

    public GlobalOptions Options { get; } = new();

    /// <summary>Makes a command out of what it does; errors become messages and exit codes in one place.</summary>
    public Command Verb(
        string name, string description, string[] examples, IEnumerable<Symbol> symbols,
        Func<Session, CancellationToken, Task<int>> run)
    {
        var command = new Command(name, description);
        foreach (var symbol in symbols)
        {
            if (symbol is Argument argument)
            {
                command.Add(argument);
            }
            else
            {
                command.Add((Option)symbol);
            }
        }

        _examples[command] = examples;
        command.SetAction((arguments, cancellation) => GuardAsync(arguments, run, cancellation));
        return command;
    }

    /// <summary>Makes a noun out of its verbs.</summary>
    public Command Noun(string name, string description, string[] examples, IEnumerable<Command> verbs)
    {
        var command = new Command(name, description);
        foreach (var verb in verbs)
        {
            command.Add(verb);
        }

        _examples[command] = examples;
        return command;
    }

    /// <summary>Parses a command line. A word that begins with @ is a word, not a file of more words.</summary>
    public ParseResult Parse(IReadOnlyList<string> arguments) =>
        Root.Parse(arguments, new ParserConfiguration { ResponseFileTokenReplacer = null });

    public async Task<int> RunAsync(IReadOnlyList<string> arguments)
    {
        var parsed = Parse(arguments);
        // No termination handling of its own: a request ends with the process, and a move handles Ctrl-C itself.
        var configuration = new InvocationConfiguration
        {
            Output = _terminal.Out,
            Error = _terminal.Error,
            EnableDefaultExceptionHandler = false,
            ProcessTerminationTimeout = null,
        };
        return parsed.Action is ParseErrorAction
            ? Misuse.Report(parsed, Root, _terminal.Error)
            : await parsed.InvokeAsync(configuration);
    }

    public static void PrintError(Terminal terminal, CommandException failure)
    {
        // A list of reasons has a line for each.
        foreach (string line in $"error {failure.Code}: {failure.Message}".Split('\n'))
        {
            terminal.Error.WriteLine(AnswerWriter.Printable(line));
        }

        if (failure.Remedy.Length > 0)
        {
            terminal.Error.WriteLine(AnswerWriter.Printable(failure.Remedy));
        }

        terminal.Error.Flush();
    }

    private async Task<int> GuardAsync(
        ParseResult arguments, Func<Session, CancellationToken, Task<int>> run, CancellationToken cancellation)
    {
        using var session = new Session(arguments, Options, _terminal);
        try
        {
            return await run(session, cancellation);
        }
        catch (CommandException failure)
        {
            PrintError(_terminal, failure);
            return failure.ExitCode;
        }
        catch (OperationCanceledException)
        {
            _terminal.Error.WriteLine("interrupted");
            return ExitCodes.Interrupted;
        }
    }
}

/// <summary>The help of a command, followed by its examples.</summary>
internal sealed class HelpWithExamples(HelpAction help, IReadOnlyDictionary<Command, string[]> examples)
    : SynchronousCommandLineAction
{
    public override bool ClearsParseErrors => true;

    public override int Invoke(ParseResult parseResult)
    {
        int result = help.Invoke(parseResult);
        if (examples.TryGetValue(parseResult.CommandResult.Command, out string[]? lines) && lines.Length > 0)
        {
            var output = parseResult.InvocationConfiguration.Output;
            output.WriteLine("Examples:");
            foreach (string line in lines)
            {
                output.WriteLine($"  {line}");
            }

            output.WriteLine();
        }

        return result;
    }
}
