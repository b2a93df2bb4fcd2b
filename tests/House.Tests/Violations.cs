namespace Godwit.House.Tests;

/// <summary>Fails with every place at which a rule is broken, not with the first few.</summary>
internal static class Violations
{
    public static void None(IEnumerable<string> places)
    {
        string[] found = [.. places];
        Assert.True(found.Length == 0, string.Join('\n', found));
    }

    /// <summary>Two lists that have to name the same things.</summary>
    public static void Differences(
        string one, IReadOnlyCollection<string> inOne, string other, IReadOnlyCollection<string> inOther)
    {
        Assert.NotEmpty(inOne);
        None([
            .. inOne.Except(inOther).Select(name => $"{name} is in {one} and not in {other}"),
            .. inOther.Except(inOne).Select(name => $"{name} is in {other} and not in {one}"),
        ]);
    }
}
