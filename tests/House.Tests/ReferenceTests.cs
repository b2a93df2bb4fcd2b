using System.Xml.Linq;

namespace Godwit.House.Tests;

/// <summary>Who may know whom; any other edge between projects fails here.</summary>
public class ReferenceTests
{
    private static readonly Dictionary<string, string[]> Allowed = new()
    {
        ["src/Pages"] = [],
        ["src/GuestStreams"] = ["Pages"],
        ["src/Migration"] = ["Pages", "GuestStreams"],
        ["src/Host"] = ["Pages", "GuestStreams", "Migration"],
        ["src/Api"] = [],
        ["src/Daemon"] = ["Pages", "GuestStreams", "Migration", "Host", "Api"],
        ["src/Cli"] = ["Api"],
        ["lab"] = ["Api"],
        ["bench"] = ["Api", "Lab"],
    };

    [Fact]
    public void No_project_knows_more_than_its_row_allows()
    {
        string[] projects =
            [.. House.Files(".csproj").Where(path => !path.StartsWith("tests/", StringComparison.Ordinal)
            && !path.StartsWith("fuzz/", StringComparison.Ordinal))];
        Assert.Contains("src/Cli/Cli.csproj", projects);
        var wrong = new List<string>();
        foreach (string project in projects)
        {
            string folder = Path.GetDirectoryName(project)!;
            if (!Allowed.TryGetValue(folder, out string[]? allowed))
            {
                wrong.Add($"{project} has no row in the reference table");
                continue;
            }

            wrong.AddRange(References(project).Where(name => !allowed.Contains(name))
                .Select(name => $"{project} references {name}"));
        }

        Violations.None(wrong);
    }

    [Fact]
    public void A_test_project_references_no_other_test_project()
    {
        Violations.None(House.Files(".csproj")
            .Where(path => path.StartsWith("tests/", StringComparison.Ordinal))
            .SelectMany(path => References(path).Where(name => name.EndsWith(".Tests", StringComparison.Ordinal))
                .Select(name => $"{path} references {name}")));
    }

    [Fact]
    public void Every_project_is_built_with_the_solution()
    {
        string solution = House.Read("Godwit.slnx");
        Violations.None(House.Files(".csproj")
            .Where(path => !path.StartsWith("fuzz/", StringComparison.Ordinal))
            .Where(path => !solution.Contains($"\"{path}\"", StringComparison.Ordinal)));
    }

    [Fact]
    public void Every_package_has_a_reason()
    {
        string reasons = House.Read("docs/decisions/dependencies.md");
        string[] packages = [.. XDocument.Parse(House.Read("Directory.Packages.props")).Descendants("PackageVersion")
            .Select(package => package.Attribute("Include")!.Value)];
        Assert.NotEmpty(packages);
        // The test framework's package is named by its family in the text; the first two parts are enough to find it.
        Violations.None(packages.Where(package => !reasons.Split('\n').Any(line =>
            line.StartsWith('|') && line.Contains(package.Replace(".mtp-v2", "", StringComparison.Ordinal),
                StringComparison.Ordinal))));
    }

    [Fact]
    public void Every_package_is_used()
    {
        string uses = string.Concat(House.Files(".csproj", ".props").Where(path => path != "Directory.Packages.props")
            .Select(House.Read));
        Violations.None(XDocument.Parse(House.Read("Directory.Packages.props")).Descendants("PackageVersion")
            .Select(package => package.Attribute("Include")!.Value)
            .Where(package => !uses.Contains($"\"{package}\"", StringComparison.Ordinal)));
    }

    private static IEnumerable<string> References(string project) =>
        XDocument.Parse(House.Read(project)).Descendants("ProjectReference")
            .Select(reference => Path.GetFileNameWithoutExtension(
                reference.Attribute("Include")!.Value.Replace('\\', '/')));
}
