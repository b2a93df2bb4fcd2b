using System.Text.RegularExpressions;
using Godwit.Api;

namespace Godwit.House.Tests;

/// <summary>Every code that a person can meet is explained, and none is explained that nobody can meet.</summary>
public partial class ErrorCodeTests
{
    private static readonly string[] Sources = [.. House.Files(".cs")
        .Where(path => path.StartsWith("src/", StringComparison.Ordinal)
            && !path.StartsWith("src/Api/", StringComparison.Ordinal))];

    [Fact]
    public void Every_code_that_is_said_is_in_the_catalog() =>
        Violations.None(AllSaid().Where(said => ErrorCatalog.Find(said.Code) is null)
            .Select(said => $"{said.Place}: {said.Code} is not in the catalog"));

    [Fact]
    public void Every_code_in_the_catalog_is_said()
    {
        var said = AllSaid().Select(said => said.Code).ToHashSet();
        Violations.None(ErrorCatalog.All.Where(entry => !said.Contains(entry.Code))
            .Select(entry => $"{entry.Code} is in the catalog, and nothing in src says it"));
    }

    // Goal: the two rules above see every way in which the sources say a code; a new way has to be taught to Said().
    // Method: wherever the sources write a code of the catalog, they must have seen it; to compare with one is not to
    // say it.
    [Fact]
    public void Every_way_of_saying_a_code_is_known() =>
        Violations.None(Sources.SelectMany(path =>
        {
            string text = House.Read(path);
            var seen = Said().Matches(text).Select(match => match.Groups["code"].Index).ToHashSet();
            return Literal().Matches(text)
                .Where(match => ErrorCatalog.Find(match.Groups["code"].Value) is not null
                    && !seen.Contains(match.Groups["code"].Index))
                .Select(match => $"{Place(path, text, match)}: {match.Value}");
        }));

    [Theory]
    [InlineData("throw new GodwitException(\n    \"guest-state\", $\"Guest {name} runs.\");", "guest-state")]
    [InlineData("_ => new CommandException(\"usage\", \"no token.\"),", "usage")]
    [InlineData("private static GodwitException Refuse(string why) => new(\"key-mode\", why);", "key-mode")]
    [InlineData("refuse(\"mac-in-use\", $\"{mac}\", \"Another.\");", "mac-in-use")]
    [InlineData("Fail(MigrationOutcome.Failed, \"link-lost\", text);", "link-lost")]
    [InlineData("return new PeerVerdict(\"\", \"certificate-missing\", \"none\");", "certificate-missing")]
    [InlineData("yield return (\"guest-exists\", text, remedy);", "guest-exists")]
    [InlineData("NotConverged => (\"migration-not-converged\", 6),", "migration-not-converged")]
    [InlineData("_errorCode = \"migration-unsettled\";", "migration-unsettled")]
    [InlineData("snapshot with { ErrorCode = \"daemon-ended\" }", "daemon-ended")]
    [InlineData("catch (GodwitException e) when (e.Code == \"qemu-ended\")", null)]
    [InlineData("Set(\"return-path\", true);", null)]
    [InlineData("Bad(exception.Code, \"keys\", exception.Message)", null)]
    public void A_code_is_seen_where_it_is_said(string text, string? code) =>
        Assert.Equal(code, Said().Match(text) is { Success: true } match ? match.Groups["code"].Value : null);

    [Fact]
    public void Every_code_is_words_and_hyphens_and_says_what_to_do()
    {
        var exitCodes = typeof(ExitCodes).GetFields().Select(field => (int)field.GetRawConstantValue()!).ToHashSet();
        Violations.None(ErrorCatalog.All.Where(entry => !Shape().IsMatch(entry.Code)).Select(entry => entry.Code));
        Violations.None(ErrorCatalog.All.Where(entry => !exitCodes.Contains(entry.ExitCode))
            .Select(entry => entry.Code));
        Violations.None(ErrorCatalog.All.Where(entry => !entry.Meaning.EndsWith('.') || !entry.Remedy.EndsWith('.'))
            .Select(entry => entry.Code));
    }

    private static IEnumerable<(string Place, string Code)> AllSaid() => Sources.SelectMany(path =>
    {
        string text = House.Read(path);
        return Said().Matches(text).Select(match => (Place(path, text, match), match.Groups["code"].Value));
    });

    private static string Place(string path, string text, Match match) =>
        $"{path}:{text.AsSpan(0, match.Groups["code"].Index).Count('\n') + 1}";

    // By an exception, by a check, by doctor, by whoever ends a move or turns a connection away, or with other values:
    // there a word alone may be anything.
    [GeneratedRegex("""
        (?: (?:GodwitException|CommandException|\bnew|[Rr]efuse|CheckPath|Warn|Bad)\(\s*
          | (?:Fail|Failed|RunHereAsync|End|Refused|PeerVerdict)\( (?:[^"()]*(?:"")?,)? \s*
          | (?:return|=>)[ ]\( (?="[a-z0-9]+-)
          | _?[eE]rrorCode[ ]=[ ] )
        "(?<code>[a-z0-9]+(?:-[a-z0-9]+)*)"
        """, RegexOptions.IgnorePatternWhitespace)]
    private static partial Regex Said();

    [GeneratedRegex("""(?<!== )"(?<code>[a-z0-9-]+)(?=")""")]
    private static partial Regex Literal();

    [GeneratedRegex("^[a-z]+[a-z0-9]*(-[a-z0-9]+)*$")]
    private static partial Regex Shape();
}
