using System.CommandLine;
using Godwit.Cli.Daemon;
using Godwit.Cli.Output;
using Godwit.Cli.Progress;

namespace Godwit.Cli;

/// <summary>One run of one command: its arguments, the terminal, and the daemon if it asks for one.</summary>
internal sealed class Session(ParseResult arguments, GlobalOptions options, Terminal terminal) : IDisposable
{
    private DaemonClient? _client;

    public Terminal Terminal => terminal;

    public OutputFormat Format =>
        Enum.Parse<OutputFormat>(arguments.GetValue(options.Output) ?? "table", ignoreCase: true);

    public bool Quiet => arguments.GetValue(options.Quiet);

    public DaemonClient Client => _client ??= new DaemonClient(arguments.GetValue(options.Socket)!);

    public T Get<T>(Option<T> option) => arguments.GetValue(option)!;

    public T Get<T>(Argument<T> argument) => arguments.GetValue(argument)!;

    public bool Has(Option option) => arguments.GetResult(option) is { Implicit: false };

    public IReadOnlyList<string> Unmatched => arguments.UnmatchedTokens;

    /// <summary>Prints the answer, the only thing that goes to standard output.</summary>
    public void Answer(Answer answer) =>
        AnswerWriter.Write(terminal.Out, answer, Format, headers: !arguments.GetValue(options.NoHeaders));

    /// <summary>Something worth knowing beside the answer; silent with <c>--quiet</c>.</summary>
    public void Note(string text)
    {
        if (!Quiet)
        {
            terminal.Error.WriteLine(text);
        }
    }

    public IProgressView OpenProgress(string title) =>
        Quiet ? new QuietProgress(terminal.Error)
        : terminal.CanRedraw ? OpenLiveProgress(title)
        : new LineProgress(terminal.Error, TimeProvider.System);

    public void Dispose() => _client?.Dispose();

    // Apart, so that the library that draws is loaded only when something is drawn.
    private LiveProgress OpenLiveProgress(string title) => new(terminal.Error, title);
}
