using Godwit.Daemon.Moves;
using Godwit.Migration;
using Godwit.Migration.Convergence;

namespace Godwit.Daemon.Tests.Moves;

public sealed class PolicyTests : IDisposable
{
    private readonly string _file = Path.GetTempFileName();

    private LadderBook Book(string content)
    {
        File.WriteAllText(_file, content);
        return new LadderBook(new DaemonSettings { HostName = "a", Address = "10.0.0.1", PoliciesFile = _file });
    }

    public void Dispose() => File.Delete(_file);

    [Fact]
    public void Without_a_file_the_shipped_ladders_hold()
    {
        File.Delete(_file);
        var book = new LadderBook(new DaemonSettings { HostName = "a", Address = "10.0.0.1", PoliciesFile = _file });
        Assert.Equal(Ladder.Shipped.Select(ladder => ladder.Name), book.List().Select(entry => entry.Ladder.Name));
        MigrationPolicy policy = book.Resolve(new MigrationPolicy());
        Assert.Equal(("default", Ladder.Shipped[0].Steps), (policy.Ladder, policy.Steps));
        Assert.Equal(0, book.BandwidthAt(new TimeOnly(12, 0)));
    }

    [Fact]
    public void A_file_adds_ladders_and_replaces_shipped_ones()
    {
        var book = Book("""
            { // comments and a last comma are fine
              "policies": [
                { "name": "safe", "steps": [ { "do": "abort", "after": 5 } ] },
                { "name": "night", "description": "Slowly",
                  "steps": [ { "do": "throttle", "value": 20 }, { "do": "pause", "value": 2000 }, ] },
              ],
            }
            """);
        Assert.Equal(Ladder.Shipped.Count + 1, book.List().Count);
        Assert.Equal([new LadderStep(LadderAction.Abort, 0, 5)],
            book.Resolve(new MigrationPolicy { Ladder = "safe" }).Steps);
        Assert.Equal([new LadderStep(LadderAction.Throttle, 20), new LadderStep(LadderAction.Pause, 2000)],
            book.Resolve(new MigrationPolicy { Ladder = "night" }).Steps);
    }

    [Theory]
    [InlineData("[]")]
    [InlineData("{ \"policies\": [ { } ] }")]
    [InlineData("{ \"policies\": [ { \"name\": \"x\", \"steps\": [ { \"do\": \"dance\" } ] } ] }")]
    [InlineData("{ \"policies\": [ { \"name\": \"x\", \"steps\": [ { \"do\": \"throttle\", \"value\": 100 } ] } ] }")]
    [InlineData("{ \"policies\": [ { \"name\": \"x\", \"steps\": [ { \"do\": \"pause\", \"value\": \"long\" } ] } ] }")]
    [InlineData("not JSON")]
    public void A_file_that_makes_no_sense_is_refused_and_named(string content)
    {
        var refused = Assert.Throws<GodwitException>(() => Book(content).List());
        Assert.Equal("policy-invalid", refused.Code);
        Assert.Contains(_file, refused.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void An_unknown_policy_is_refused_with_those_that_are_known()
    {
        var refused = Assert.Throws<GodwitException>(
            () => Book("{}").Resolve(new MigrationPolicy { Ladder = "none" }));
        Assert.Equal("policy-unknown", refused.Code);
        Assert.Contains("gentle", refused.Remedy, StringComparison.Ordinal);
    }

    [Fact]
    public void A_policy_that_forbids_postcopy_is_not_overruled_by_a_method()
    {
        var book = Book("{}");
        var refused = Assert.Throws<GodwitException>(() => book.Resolve(
            new MigrationPolicy { Ladder = "safe", Method = MigrationMethod.Hybrid }));
        Assert.Equal("policy-forbids", refused.Code);
        Assert.True(book.Resolve(new MigrationPolicy { Method = MigrationMethod.Hybrid }).MayTurnToPostcopy);
        Assert.False(book.Resolve(new MigrationPolicy { Method = MigrationMethod.Precopy }).MayTurnToPostcopy);
        Assert.False(book.Resolve(new MigrationPolicy { Ladder = "safe" }).MayTurnToPostcopy);
    }

    [Fact]
    public void A_rate_holds_at_its_time_of_day_also_over_midnight()
    {
        var book = Book("""
            { "bandwidth": "1Gbit",
              "rates": [ { "from": "08:00", "to": "18:00", "bandwidth": "200Mbit" },
                         { "from": "23:00", "to": "01:00", "bandwidth": "2.5Gbit" } ] }
            """);
        Assert.Equal(200_000_000, book.BandwidthAt(new TimeOnly(8, 0)));
        Assert.Equal(1_000_000_000, book.BandwidthAt(new TimeOnly(18, 0)));
        Assert.Equal(2_500_000_000, book.BandwidthAt(new TimeOnly(0, 30)));
        Assert.Equal(2_500_000_000, book.BandwidthAt(new TimeOnly(23, 30)));
    }

    [Theory]
    [InlineData(0, 3, 0, 0)]
    [InlineData(900, 3, 0, 300)]
    [InlineData(900, 3, 200, 200)]
    [InlineData(900, 1, 1000, 900)]
    [InlineData(0, 2, 50, 50)]
    public void Moves_share_a_rate_and_keep_their_own_caps(long all, int moves, long wanted, long part) =>
        Assert.Equal(part, BandwidthShares.PartOf(all, moves, wanted));
}
