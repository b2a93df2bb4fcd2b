namespace Godwit.Cli;

/// <summary>
/// What a command writes to and asks: the answer goes to <see cref="Out"/>, all else to <see cref="Error"/>.
/// </summary>
internal sealed class Terminal
{
    public required TextWriter Out { get; init; }

    public required TextWriter Error { get; init; }

    /// <summary>True if a person can answer a question: both the keyboard and the screen are theirs.</summary>
    public bool CanAsk { get; init; }

    /// <summary>True if standard error can be redrawn in place.</summary>
    public bool CanRedraw { get; init; }

    /// <summary>Reads one line of an answer; null at the end of input.</summary>
    public Func<string?> ReadLine { get; init; } = () => null;

    /// <summary>The terminal of this process, as its file descriptors and NO_COLOR and TERM describe it.</summary>
    public static Terminal OfProcess()
    {
        bool plain = !string.IsNullOrEmpty(Environment.GetEnvironmentVariable("NO_COLOR"))
            || Environment.GetEnvironmentVariable("TERM") is null or "" or "dumb";
        return new Terminal
        {
            Out = Console.Out,
            Error = Console.Error,
            CanAsk = !Console.IsInputRedirected && !Console.IsErrorRedirected,
            CanRedraw = !Console.IsErrorRedirected && !plain,
            ReadLine = Console.In.ReadLine,
        };
    }
}
