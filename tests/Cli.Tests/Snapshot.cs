namespace Godwit.Cli.Tests;

/// <summary>Compares text that people or programs read with the file that was reviewed.</summary>
/// <remarks>Run the tests with GODWIT_UPDATE_SNAPSHOTS=1 to write the files anew, then review the difference.</remarks>
internal static class Snapshot
{
    private static readonly string Folder = Path.Combine(Repository.Root, "tests/Cli.Tests/Snapshots");

    public static void Check(string name, string text)
    {
        string path = Path.Combine(Folder, name);
        if (Environment.GetEnvironmentVariable("GODWIT_UPDATE_SNAPSHOTS") == "1")
        {
            File.WriteAllText(path, text);
            return;
        }

        Assert.True(File.Exists(path), $"{path} is missing; run with GODWIT_UPDATE_SNAPSHOTS=1 and review it.");
        Assert.Equal(File.ReadAllText(path), text);
    }
}
