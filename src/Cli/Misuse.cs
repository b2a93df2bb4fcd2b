using System.CommandLine;
using Godwit.Api;

namespace Godwit.Cli;

/// <summary>Says what is wrong with a command line, the nearest word that would be right, and where help is.</summary>
internal static class Misuse
{
    public static int Report(ParseResult parsed, RootCommand root, TextWriter error)
    {
        var command = parsed.CommandResult.Command;
        string[] path = [.. PathOf(command)];
        bool lacksVerb = command.Subcommands.Count > 0;
        if (lacksVerb && parsed.UnmatchedTokens.Count == 0 && parsed.Errors.Count == 1)
        {
            // A noun without its verb: the list of verbs is the best answer.
            root.Parse([.. path.Skip(1), "--help"])
                .Invoke(new InvocationConfiguration { Output = error, Error = error });
            return ExitCodes.Usage;
        }

        // An argument that takes many words takes an option that does not exist for one of them.
        string? taken = parsed.CommandResult.Tokens.FirstOrDefault(token => token.Value.StartsWith('-'))?.Value;
        if ((parsed.UnmatchedTokens is [var first, ..] ? first : taken) is { } unknown)
        {
            // What follows the first word that is not understood was read in the wrong place: silence about it.
            string kind = unknown.StartsWith('-') ? "option" : lacksVerb ? "command" : "argument";
            string near = Nearest(unknown, command) is { } found ? $" Did you mean '{found}'?" : "";
            error.WriteLine($"error usage: '{string.Join(' ', path)}' has no {kind} '{unknown}'.{near}");
        }
        else
        {
            foreach (var wrong in parsed.Errors)
            {
                error.WriteLine($"error usage: {wrong.Message}");
            }
        }

        error.WriteLine($"Try '{string.Join(' ', path)} --help'.");
        error.Flush();
        return ExitCodes.Usage;
    }

    /// <summary>The words that lead to a command, for example <c>godwit vm list</c>.</summary>
    public static IEnumerable<string> PathOf(Command command) => command is RootCommand
        ? ["godwit"]
        : [.. command.Parents.OfType<Command>().Take(1).SelectMany(PathOf), command.Name];

    private static string? Nearest(string word, Command command)
    {
        IEnumerable<string> candidates = word.StartsWith('-')
            ? AllOptions(command).Select(option => option.Name)
            : command.Subcommands.Select(verb => verb.Name);
        var best = candidates
            .Select(name => (Name: name, Distance: Distance(word, name)))
            .OrderBy(candidate => candidate.Distance)
            .ThenBy(candidate => candidate.Name, StringComparer.Ordinal)
            .FirstOrDefault();
        // A third of the word may be wrong; beyond that it is another word.
        return best.Name is not null && best.Distance <= Math.Max(1, word.Length / 3) ? best.Name : null;
    }

    private static IEnumerable<Option> AllOptions(Command command) =>
        [.. command.Options, .. command.Parents.OfType<Command>().SelectMany(AllOptions)
            .Where(option => option.Recursive)];

    /// <summary>How many letters must be added, removed or replaced to make one word of the other.</summary>
    public static int Distance(string left, string right)
    {
        int[] row = [.. Enumerable.Range(0, right.Length + 1)];
        for (int i = 1; i <= left.Length; i++)
        {
            int diagonal = row[0];
            row[0] = i;
            for (int j = 1; j <= right.Length; j++)
            {
                int above = row[j];
                int replaced = diagonal + (left[i - 1] == right[j - 1] ? 0 : 1);
                row[j] = Math.Min(replaced, Math.Min(above, row[j - 1]) + 1);
                diagonal = above;
            }
        }

        return row[^1];
    }
}
