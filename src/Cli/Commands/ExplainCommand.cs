using System.CommandLine;
using System.Text.Json.Nodes;
using Godwit.Api;
using Godwit.Cli.Output;

namespace Godwit.Cli.Commands;

/// <summary><c>godwit explain CODE</c>: what an error code means and what to do; needs no daemon.</summary>
internal static class ExplainCommand
{
    public static Command Build(GodwitCommand godwit)
    {
        var code = new Argument<string?>("CODE")
        {
            Description = "The code after 'error'; without one, all are listed.",
            Arity = ArgumentArity.ZeroOrOne,
        };
        return godwit.Verb(
            "explain", "Explain an error code.", ["godwit explain guest-unknown", "godwit explain"], [code],
            (session, _) =>
            {
                session.Answer(session.Get(code) is { } given ? One(Find(given)) : All());
                return Task.FromResult(0);
            });
    }

    private static ErrorEntry Find(string code)
    {
        if (ErrorCatalog.Find(code) is { } entry)
        {
            return entry;
        }

        string[] near = [.. ErrorCatalog.All.Select(known => known.Code)
            .OrderBy(known => Misuse.Distance(code, known))
            .ThenBy(known => known, StringComparer.Ordinal)
            .Where(known => known.Contains(code, StringComparison.OrdinalIgnoreCase)
                || Misuse.Distance(code, known) <= code.Length / 2)
            .Take(5)];
        throw new CommandException(
            "code-unknown",
            $"'{code}' is not an error code of this version.",
            near.Length > 0 ? $"Near it: {string.Join(", ", near)}." : "");
    }

    private static Answer One(ErrorEntry entry) => new()
    {
        Data = Data(entry),
        Names = [entry.Code],
        Text = _ =>
        [
            new Line(entry.Code),
            new Line(""),
            new Line(entry.Meaning),
            new Line(entry.Remedy),
            new Line(""),
            new Line(Units.Invariant($"Exit code {entry.ExitCode}: {Meaning(entry.ExitCode)}.")),
        ],
    };

    private static Answer All()
    {
        ErrorEntry[] entries = [.. ErrorCatalog.All.OrderBy(entry => entry.Code, StringComparer.Ordinal)];
        return new Answer
        {
            Data = Json.Array(entries.Select(entry => (JsonNode)Data(entry))),
            Names = [.. entries.Select(entry => entry.Code)],
            Text = _ => [new Table(
                ["CODE", "EXIT", "MEANING"],
                [.. entries.Select(entry => (IReadOnlyList<string>)
                    [entry.Code, Units.Invariant($"{entry.ExitCode}"), entry.Meaning])])],
        };
    }

    private static JsonObject Data(ErrorEntry entry) => new()
    {
        ["code"] = entry.Code,
        ["exitCode"] = entry.ExitCode,
        ["meaning"] = entry.Meaning,
        ["remedy"] = entry.Remedy,
    };

    /// <summary>The exit codes in words.</summary>
    public static string Meaning(int exitCode) => exitCode switch
    {
        ExitCodes.Ok => "done",
        ExitCodes.Failed => "failed; the guest runs where it was",
        ExitCodes.Usage => "wrong usage",
        ExitCodes.Refused => "refused by a check beforehand; nothing was touched",
        ExitCodes.NotFound => "no such guest, host, migration or code",
        ExitCodes.Authentication => "not allowed or not authenticated",
        ExitCodes.NotConverged => "timed out or did not converge; the guest runs where it was",
        ExitCodes.Cancelled => "cancelled; the guest runs where it was",
        ExitCodes.NeedsOperator => "the state is not proved; an operator has to look",
        ExitCodes.Interrupted => "interrupted",
        _ => "unknown",
    };
}
