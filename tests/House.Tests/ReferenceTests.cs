using System.Xml.Linq;

namespace Godwit.House.Tests;

/// <summary>Who may know whom; any other edge between projects fails here.</summary>
public class ReferenceTests
{
    private static readonly Dictionary<string, string[]> Allowed = new()
    {
        ["src/Pages"] = [],
        ["src/GuestStreams"] = ["Pages"],
        ["src/ChunkStore"] = [],
        ["src/Migration"] = ["Pages", "GuestStreams", "ChunkStore"],
        ["src/Host"] = ["Pages", "GuestStreams", "ChunkStore", "Migration"],
        ["src/Api"] = [],
        ["src/Daemon"] = ["Pages", "GuestStreams", "ChunkStore", "Migration", "Host", "Api"],
        ["src/Cli"] = ["Api"],
        ["lab"] = ["Api"],
        ["benchmarks/PageEngine"] = ["Pages"],
        ["benchmarks/StoreEngine"] = ["Host"],
    };

    private static readonly string[] Projects = [.. House.Files(".csproj")];

    [Fact]
    public void No_project_knows_more_than_its_row_allows() =>
        Violations.None(Projects.SelectMany(project => Forbidden(project, References(House.Read(project)))));

    [Fact]
    public void Every_row_is_a_project_s() =>
        Violations.Differences(
            "the table", Allowed.Keys, "the sources", [.. Projects.Select(Folder).Where(folder => !IsTest(folder))]);

    [Theory]
    [InlineData("src/Cli/Cli.csproj", "../Api/Api.csproj", null)]
    [InlineData("src/Cli/Cli.csproj", @"..\Host\Host.csproj", "src/Cli/Cli.csproj references Host")]
    [InlineData("src/Shared/Shared.csproj", "../Api/Api.csproj", "src/Shared/Shared.csproj has no row in the table")]
    [InlineData("tests/Host.Tests/Host.Tests.csproj", "../../src/Host/Host.csproj", null)]
    [InlineData(
        "tests/Host.Tests/Host.Tests.csproj", "../Cli.Tests/Cli.Tests.csproj",
        "tests/Host.Tests/Host.Tests.csproj references Cli.Tests")]
    public void A_forbidden_edge_is_named(string project, string reference, string? violation)
    {
        string text = $"""<Project><ItemGroup><ProjectReference Include="{reference}" /></ItemGroup></Project>""";
        Assert.Equal(violation, Forbidden(project, References(text)).SingleOrDefault());
    }

    [Fact]
    public void Every_project_is_built_with_the_solution() =>
        Violations.Differences(
            "the sources", Projects, "Godwit.slnx",
            [.. XDocument.Parse(House.Read("Godwit.slnx")).Descendants("Project")
                .Select(project => project.Attribute("Path")!.Value)]);

    // A test may use any room, but no other test.
    private static IEnumerable<string> Forbidden(string project, IEnumerable<string> references)
    {
        string folder = Folder(project);
        return IsTest(folder) || Allowed.ContainsKey(folder)
            ? references
                .Where(name => IsTest(folder) ? name.EndsWith(".Tests", StringComparison.Ordinal)
                    : !Allowed[folder].Contains(name))
                .Select(name => $"{project} references {name}")
            : [$"{project} has no row in the table"];
    }

    private static IEnumerable<string> References(string projectText) =>
        XDocument.Parse(projectText).Descendants("ProjectReference")
            .Select(reference => Path.GetFileNameWithoutExtension(
                reference.Attribute("Include")!.Value.Replace('\\', '/')));

    private static string Folder(string project) => Path.GetDirectoryName(project)!;

    private static bool IsTest(string folder) => folder.StartsWith("tests/", StringComparison.Ordinal);
}
