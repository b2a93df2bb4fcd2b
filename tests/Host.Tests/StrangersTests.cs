using System.Net;
using Godwit.Host.Trust;

namespace Godwit.Host.Tests;

public sealed class StrangersTests
{
    private readonly List<string> _dropped = [];

    private Strangers.Place Enter(Strangers strangers, string address, string name) =>
        strangers.Enter(new IPEndPoint(IPAddress.Parse(address), 1), () => _dropped.Add(name));

    [Fact]
    public void A_flood_displaces_itself_and_nobody_else()
    {
        using var strangers = new Strangers(4, TimeSpan.FromHours(1), (_, _) => { });
        Enter(strangers, "10.0.0.1", "honest");
        for (int number = 0; number < 100; number++)
        {
            Enter(strangers, "10.0.0.66", $"{number}");
        }

        Assert.Equal(Enumerable.Range(0, 97).Select(number => $"{number}"), _dropped);
        Assert.Equal(4, strangers.Count);
    }

    [Fact]
    public void Many_addresses_displace_the_oldest()
    {
        using var strangers = new Strangers(4, TimeSpan.FromHours(1), (_, _) => { });
        for (int number = 0; number < 10; number++)
        {
            Enter(strangers, $"10.0.0.{number}", $"{number}");
        }

        Assert.Equal(["0", "1", "2", "3", "4", "5"], _dropped);
    }

    [Fact]
    public void Whoever_has_proved_itself_is_not_dropped_and_takes_no_place()
    {
        using var strangers = new Strangers(4, TimeSpan.FromHours(1), (_, _) => { });
        for (int number = 0; number < 100; number++)
        {
            Strangers.Place place = Enter(strangers, "10.0.0.1", "member");
            place.Dispose();
            place.Dispose();
        }

        Assert.Empty(_dropped);
        Assert.Equal(0, strangers.Count);
    }

    [Fact]
    public async Task Whoever_takes_too_long_is_dropped_and_told_why()
    {
        using var strangers = new Strangers(4, TimeSpan.FromMilliseconds(100), (_, _) => { });
        var dropped = new TaskCompletionSource();
        using Strangers.Place place = strangers.Enter(null, dropped.SetResult);
        await dropped.Task.WaitAsync(TimeSpan.FromSeconds(60), TestContext.Current.CancellationToken);
        Assert.Contains("within 0 s", place.WhyDropped, StringComparison.Ordinal);
    }

    [Fact]
    public void A_flood_has_twenty_lines_in_the_log()
    {
        using var strangers = new Strangers(4, TimeSpan.FromHours(1), (_, _) => { });
        Assert.Equal(20, Enumerable.Range(0, 1000).Count(_ => strangers.MayTell()));
    }
}
