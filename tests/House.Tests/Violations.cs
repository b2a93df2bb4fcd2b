namespace Godwit.House.Tests;

/// <summary>Fails with every place at which a rule is broken, not with the first few.</summary>
internal static class Violations
{
    public static void None(IEnumerable<string> places)
    {
        string[] found = [.. places];
        Assert.True(found.Length == 0, string.Join('\n', found));
    }
}
