using System.Runtime.CompilerServices;

namespace Godwit.House.Tests;

/// <summary>The sources as files: what is ours, without what a build or a tool put there.</summary>
internal static class House
{
    private static readonly HashSet<string> NotOurs =
        new(StringComparer.Ordinal) { ".git", ".lab", ".vs", ".idea", "artifacts", "bin", "obj", "node_modules" };

    public static string Root { get; } = Path.GetFullPath(Path.Combine(Here(), "../.."));

    /// <summary>Files with one of these endings, as paths from the root with forward slashes.</summary>
    public static IReadOnlyList<string> Files(params string[] endings)
    {
        var found = new List<string>();
        Collect(Root, found);
        return [.. found
            .Where(path => endings.Any(ending => path.EndsWith(ending, StringComparison.Ordinal)))
            .Order(StringComparer.Ordinal)];
    }

    public static string Read(string path) => File.ReadAllText(Path.Combine(Root, path));

    public static string[] ReadLines(string path) => File.ReadAllLines(Path.Combine(Root, path));

    private static void Collect(string folder, List<string> found)
    {
        foreach (string file in Directory.EnumerateFiles(folder))
        {
            found.Add(Path.GetRelativePath(Root, file).Replace('\\', '/'));
        }

        foreach (string below in Directory.EnumerateDirectories(folder))
        {
            if (!NotOurs.Contains(Path.GetFileName(below)))
            {
                Collect(below, found);
            }
        }
    }

    private static string Here([CallerFilePath] string file = "") => Path.GetDirectoryName(file)!;
}
