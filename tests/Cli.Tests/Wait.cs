namespace Godwit.Cli.Tests;

/// <summary>Waits for something to become true, with a bound that only a failure reaches.</summary>
internal static class Wait
{
    public static async Task UntilAsync(Func<bool> condition)
    {
        for (int i = 0; i < 1500 && !condition(); i++)
        {
            await Task.Delay(20, TestContext.Current.CancellationToken);
        }

        Assert.True(condition(), "waited 30 s in vain");
    }
}
