namespace Godwit.House.Tests;

public class ViolationsTests
{
    [Fact]
    public void Every_place_is_named()
    {
        Violations.None([]);
        Exception failure = Assert.ThrowsAny<Exception>(() => Violations.None(["a.cs:1", "b.cs:2"]));
        Assert.Contains("a.cs:1\nb.cs:2", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Every_difference_is_named()
    {
        Violations.Differences("code", ["a", "b"], "text", ["b", "a"]);
        Exception failure = Assert.ThrowsAny<Exception>(
            () => Violations.Differences("code", ["a", "b"], "text", ["b", "c"]));
        Assert.Contains(
            "a is in code and not in text\nc is in text and not in code", failure.Message, StringComparison.Ordinal);
    }
}
