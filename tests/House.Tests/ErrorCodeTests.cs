using System.Text.RegularExpressions;
using Godwit.Api;

namespace Godwit.House.Tests;

/// <summary>Every code that a person can meet is explained.</summary>
public partial class ErrorCodeTests
{
    [Fact]
    public void Every_thrown_code_is_in_the_catalog()
    {
        var thrown = Sources().SelectMany(path => Thrown().Matches(House.Read(path))
            .Select(match => (path, code: match.Groups[1].Value))).ToList();
        Assert.NotEmpty(thrown);
        Violations.None(thrown.Where(found => ErrorCatalog.Find(found.code) is null)
            .Select(found => $"{found.path}: {found.code}").Distinct());
    }

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

    private static IEnumerable<string> Sources() => House.Files(".cs")
        .Where(path => path.StartsWith("src/", StringComparison.Ordinal)
            && !path.StartsWith("src/Api/", StringComparison.Ordinal));

    [GeneratedRegex(@"(?:GodwitException|CommandException)\(\s*(?:code:\s*)?""([^""]+)""")]
    private static partial Regex Thrown();

    [GeneratedRegex("^[a-z]+[a-z0-9]*(-[a-z0-9]+)*$")]
    private static partial Regex Shape();
}
