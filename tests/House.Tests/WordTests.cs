using System.Text.RegularExpressions;

namespace Godwit.House.Tests;

/// <summary>Words that hide what a thing is.</summary>
public partial class WordTests
{
    [Fact]
    public void No_folder_or_file_is_named_after_nothing()
    {
        string[] code = [.. House.Files(".cs", ".csproj", ".sh", ".proto")];
        Assert.NotEmpty(code);
        Violations.None(code
            .SelectMany(path => path.Split('/').Select(part => (path, part)))
            .Where(named => EmptyWord().IsMatch(Path.GetFileNameWithoutExtension(named.part)))
            .Select(named => named.path).Distinct());
    }

    [Fact]
    public void No_type_is_named_after_nothing()
    {
        Violations.None(Matches(TypeName()).Where(found => EmptyWord().IsMatch(found.Match.Groups[1].Value))
            .Select(found => $"{found.Place}: {found.Match.Value}"));
    }

    [Fact]
    public void Source_and_destination_are_written_in_full()
    {
        Violations.None(Matches(Abbreviation()).Select(found => $"{found.Place}: {found.Match.Value}"));
    }

    [Fact]
    public void Nothing_in_the_sources_is_left_unwritten()
    {
        Violations.None(Matches(Unwritten()).Where(found => !found.Place.StartsWith("tests/", StringComparison.Ordinal))
            .Select(found => found.Place));
    }

    [Theory]
    [InlineData("Utils", true)]
    [InlineData("PageUtil", true)]
    [InlineData("UtilityBelt", true)]
    [InlineData("CommonTerms", true)]
    [InlineData("StreamHelpers", true)]
    [InlineData("LockManager", true)]
    [InlineData("Utilization", false)]
    [InlineData("PageQueue", false)]
    public void A_name_that_says_nothing_is_seen(string name, bool found) =>
        Assert.Equal(found, EmptyWord().IsMatch(name));

    [Theory]
    [InlineData("internal sealed class LockManager(int x) : IDisposable;", "LockManager")]
    [InlineData("public readonly record struct Helper<T>;", "Helper")]
    [InlineData("public interface ICommon;", "ICommon")]
    [InlineData("where T : class, new()", null)]
    public void A_type_s_name_is_found(string text, string? name) =>
        Assert.Equal(name, TypeName().Match(text) is { Success: true } match ? match.Groups[1].Value : null);

    [Theory]
    [InlineData("throw new NotImplementedException();", true)]
    [InlineData("throw new NotSupportedException(\"NotImplementedException\");", false)]
    public void What_is_left_unwritten_is_seen(string text, bool found) =>
        Assert.Equal(found, Unwritten().IsMatch(CSharpText.CodeOnly(text)));

    // Goal: the rules speak of code, and a word in a message or a comment is not code.
    [Theory]
    [InlineData("int srcPage = 1;", true)]
    [InlineData("var x = dst;", true)]
    [InlineData("CopyToDst(page);", true)]
    [InlineData("var s = \"src/Cli\"; // dst", false)]
    [InlineData("/* src */ var s = @\"a\"\"src\";", false)]
    [InlineData("var s = \"\"\" \"src\" \"\"\"; char c = '\"'; int sources = 1;", false)]
    [InlineData("char c = '\"'; int src = 1;", true)]
    [InlineData("var s = \"\\\"\"; int dst = 1;", true)]
    public void The_rules_see_code_alone(string text, bool found) =>
        Assert.Equal(found, Abbreviation().IsMatch(CSharpText.CodeOnly(text)));

    private static IEnumerable<(string Place, Match Match)> Matches(Regex pattern)
    {
        foreach (string path in House.Files(".cs"))
        {
            string code = CSharpText.CodeOnly(House.Read(path));
            foreach (Match match in pattern.Matches(code))
            {
                yield return ($"{path}:{code.AsSpan(0, match.Index).Count('\n') + 1}", match);
            }
        }
    }

    [GeneratedRegex("Util(s|ity|ities)?([A-Z.]|$)|Common|Helper|Manager", RegexOptions.None)]
    private static partial Regex EmptyWord();

    [GeneratedRegex(@"\b(?:class|record|struct|interface|enum)\s+([A-Z]\w*)")]
    private static partial Regex TypeName();

    [GeneratedRegex(
        @"\b_?(?:src|dst)(?:[A-Z_]\w*)?\b|\b\w*[a-z](?:Src|Dst)(?:[A-Z]\w*)?\b|\b(?:Src|Dst)(?:[A-Z]\w*)?\b")]
    private static partial Regex Abbreviation();

    [GeneratedRegex(@"\bNotImplementedException\b")]
    private static partial Regex Unwritten();
}
