using System.Text.RegularExpressions;

namespace Godwit.House.Tests;

/// <summary>What links out of a Markdown page, and where links may lead into one.</summary>
internal static partial class Markdown
{
    /// <summary>Targets of links and pictures, as written, apart from those with a scheme (https:, mailto:).</summary>
    public static IEnumerable<string> Links(string page) =>
        Link().Matches(InlineCode().Replace(WithoutBlocks(page), ""))
            .Select(match => match.Groups["target"].Value)
            .Where(target => !Scheme().IsMatch(target));

    /// <summary>What may follow a # in a link to this page.</summary>
    public static IReadOnlyList<string> Anchors(string page)
    {
        var anchors = new List<string>();
        var seen = new Dictionary<string, int>(StringComparer.Ordinal);
        foreach (Match heading in Heading().Matches(WithoutBlocks(page)))
        {
            string text = LinkedText().Replace(heading.Groups[1].Value, "$1");
            string anchor = Dropped().Replace(text.ToLowerInvariant(), "").Replace(' ', '-');
            int before = seen.GetValueOrDefault(anchor);
            anchors.Add(before == 0 ? anchor : $"{anchor}-{before}");
            seen[anchor] = before + 1;
        }

        return anchors;
    }

    private static string WithoutBlocks(string page) => Block().Replace(page, "");

    [GeneratedRegex(@"^ *```.*?^ *```[^\S\n]*$", RegexOptions.Multiline | RegexOptions.Singleline)]
    private static partial Regex Block();

    [GeneratedRegex(@"`[^`]*`")]
    private static partial Regex InlineCode();

    [GeneratedRegex(
        @"\]\((?:<(?<target>[^>\n]+)>|(?<target>[^)\s]+))(?:\s+""[^""]*"")?\)|^\[[^\]]+\]:\s+(?<target>\S+)",
        RegexOptions.Multiline)]
    private static partial Regex Link();

    [GeneratedRegex("^[a-z][a-z0-9+.-]*:", RegexOptions.IgnoreCase)]
    private static partial Regex Scheme();

    [GeneratedRegex(@"^#{1,6}[^\S\n]+(.+?)[^\S\n]*$", RegexOptions.Multiline)]
    private static partial Regex Heading();

    [GeneratedRegex(@"\[([^\]]*)\]\([^)]*\)")]
    private static partial Regex LinkedText();

    // GitHub keeps underscores, but those around emphasised words are gone before it looks.
    [GeneratedRegex(@"(?<![\p{L}\p{N}])_|_(?![\p{L}\p{N}])|[^\p{L}\p{N}_ -]")]
    private static partial Regex Dropped();
}
