namespace Godwit.House.Tests;

/// <summary>Two files fit beside each other on a screen.</summary>
public class LineTests
{
    private const int ColumnsMax = 120;

    [Fact]
    public void No_line_is_too_long()
    {
        string[] written = [.. House.Files("").Where(IsWrittenByHand)];
        Assert.Superset(
            new HashSet<string>(["lab/guest/agent.c", "lab/guest/init", "src/Api/godwit.proto", "test"]),
            written.ToHashSet());
        Violations.None(written.SelectMany(path => TooLong(House.ReadLines(path)).Select(line => $"{path}:{line}")));
    }

    [Fact]
    public void The_rule_names_the_line_and_its_columns() =>
        Assert.Equal(
            ["2: 121 columns, 120 are allowed"],
            TooLong([new string('a', 120), new string('b', 121), ""]));

    private static bool IsWrittenByHand(string path) => Path.GetExtension(path) switch
    {
        ".cs" or ".proto" or ".c" or ".h" or ".sh" => true,
        "" => House.ReadLines(path) is [var first, ..] && first.StartsWith("#!", StringComparison.Ordinal),
        _ => false,
    };

    private static IEnumerable<string> TooLong(IReadOnlyList<string> lines) => lines.Index()
        .Where(line => line.Item.Length > ColumnsMax)
        .Select(line => $"{line.Index + 1}: {line.Item.Length} columns, {ColumnsMax} are allowed");
}
