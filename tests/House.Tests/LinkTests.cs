namespace Godwit.House.Tests;

/// <summary>A link from one page to another leads somewhere.</summary>
public class LinkTests
{
    [Fact]
    public void Every_relative_link_leads_to_a_file_and_its_heading()
    {
        var files = House.Files("").ToHashSet(StringComparer.Ordinal);
        string[] pages = [.. House.Files(".md")];
        var links = pages.SelectMany(page => Markdown.Links(House.Read(page)).Select(link => (page, link))).ToList();
        Assert.Contains(("docs/HACKING.md", "../ARCHITECTURE.md"), links);
        Violations.None(links.Where(found => !Leads(found.page, found.link))
            .Select(found => $"{found.page}: {found.link}"));

        bool Leads(string page, string link)
        {
            string[] parts = link.Split('#', 2);
            string target = parts[0].Length == 0 ? page : Path.GetRelativePath(
                House.Root, Path.Combine(House.Root, Path.GetDirectoryName(page)!, Uri.UnescapeDataString(parts[0])));
            bool isFile = files.Contains(target);
            return parts is [_, var anchor]
                ? isFile && Markdown.Anchors(House.Read(target)).Contains(anchor)
                : isFile || files.Any(file => file.StartsWith($"{target.TrimEnd('/')}/", StringComparison.Ordinal));
        }
    }

    [Fact]
    public void Links_are_found_in_the_text_and_not_in_code()
    {
        const string Page = """
            See [one](a.md), ![a picture](b/c.png "its title") and [both](<d e.md#f>), [not](https://example.org/x.md),
            [nor](mailto:a@example.org); `[code](g.md)` neither.
            ```
            [block](h.md)
            ```
            [by name]: i.md
            """;
        Assert.Equal(["a.md", "b/c.png", "d e.md#f", "i.md"], Markdown.Links(Page));
    }

    // Goal: the anchors are those that GitHub gives: lower case, hyphens for spaces, punctuation dropped, numbers for
    // headings that come again.
    [Fact]
    public void Anchors_are_those_of_the_headings()
    {
        const string Page = """
            # Who owns what?
            ## The `--json` option, _now_ & [then](a.md)
            ```
            # no heading
            ```
            ## Who owns what?
            #no heading either
            # Who owns what
            """;
        Assert.Equal(
            ["who-owns-what", "the---json-option-now--then", "who-owns-what-1", "who-owns-what-2"],
            Markdown.Anchors(Page));
    }
}
