using System.Xml.Linq;

namespace Godwit.House.Tests;

/// <summary>A package is there because somebody uses it and somebody wrote down why.</summary>
public class PackageTests
{
    private static readonly string[] Packages = [.. Included("Directory.Packages.props", "PackageVersion")];

    [Fact]
    public void Every_package_has_a_reason_and_every_reason_a_package() =>
        Violations.Differences(
            "Directory.Packages.props", Packages,
            "docs/decisions/dependencies.md", [.. Reasons(House.Read("docs/decisions/dependencies.md"))]);

    [Fact]
    public void Every_package_is_used() =>
        Violations.Differences(
            "Directory.Packages.props", Packages, "any project",
            [.. House.Files(".csproj", ".props").SelectMany(path => Included(path, "PackageReference"))]);

    [Fact]
    public void Reasons_are_rows_of_a_table()
    {
        const string Page = """
            A.Package is not mentioned in a row.

            | Dependency | Used by | Why |
            |---|---|---|
            | B.Package | Host | It parses. |
            | `libc.so.1` | Host | No package of ours. |
            """;
        Assert.Equal(["B.Package"], Reasons(Page));
    }

    private static IEnumerable<string> Included(string path, string element) =>
        XDocument.Parse(House.Read(path)).Descendants(element)
            .Select(package => package.Attribute("Include")!.Value);

    // The first cell of each row but the table's two head rows. Libraries of the system stand there as code.
    private static IEnumerable<string> Reasons(string page) => page.Split('\n')
        .Where(line => line.StartsWith('|'))
        .Skip(2)
        .Select(line => line.Split('|')[1].Trim())
        .Where(name => !name.StartsWith('`'));
}
