namespace Godwit.Cli.Tests;

/// <summary>Waits for something to become true, with a bound that only a failure reaches.</summary>
internal static class Wait
{
    public static async Task UntilAsync(Func<bool> condition)
    {
        for (int i = 0; i < 6000; i++)
        {
            if (condition())
            {
                return;
            }

            await Task.Delay(20, TestContext.Current.CancellationToken);
        }

        Assert.Fail("waited two minutes in vain");
    }
}
