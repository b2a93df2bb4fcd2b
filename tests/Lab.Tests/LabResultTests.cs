using Godwit.Lab.Scenarios;

namespace Godwit.Lab.Tests;

public class LabResultTests
{
    private static readonly LabResult _result = new(
        "demo", "1Gbit",
        [
            new MoveResult(
                "guest1", "a", "b", "precopy", "completed", 2.5, 123_456_789, 41.5, 58.2,
                new Dictionary<string, double> { ["lastRoundMs"] = 12.5 },
                new Dictionary<string, long> { ["zero"] = 1048576 },
                [new RoundResult(65536, 120_000_000, 2.1, 8_388_608)]),
        ],
        new ClientResult(16, 0, 57), new CheckResult(12288, 0), new CheckResult(2041, 0), []);

    // Others read this: names and units may be added to, never changed.
    [Fact]
    public void The_machine_readable_result_keeps_its_shape() => Assert.Equal(
        """
        {
          "scenario": "demo",
          "link": "1Gbit",
          "moves": [
            {
              "guest": "guest1",
              "from": "a",
              "to": "b",
              "method": "precopy",
              "outcome": "completed",
              "totalSeconds": 2.5,
              "wireBytes": 123456789,
              "downtimeMs": 41.5,
              "blackoutMs": 58.2,
              "blackoutParts": {
                "lastRoundMs": 12.5
              },
              "savedBytes": {
                "zero": 1048576
              },
              "rounds": [
                {
                  "pages": 65536,
                  "bytes": 120000000,
                  "seconds": 2.1,
                  "dirtyBytesPerSecond": 8388608
                }
              ]
            }
          ],
          "client": {
            "connectionsOpened": 16,
            "connectionsLost": 0,
            "packetsLost": 57
          },
          "memory": {
            "checked": 12288,
            "wrong": 0
          },
          "disk": {
            "checked": 2041,
            "wrong": 0
          },
          "failures": []
        }
        """,
        _result.ToJson());

    [Fact]
    public void The_text_says_what_a_person_wants_to_know()
    {
        string text = ResultText.Write(_result);

        Assert.Contains("took 2.50 s, 117.7 MiB on the wire", text, StringComparison.Ordinal);
        Assert.Contains("blackout of 58 ms", text, StringComparison.Ordinal);
        Assert.EndsWith("Nothing was lost.", text, StringComparison.Ordinal);
    }

    [Fact]
    public void The_text_says_what_the_move_cost_the_guest()
    {
        MoveResult move = _result.Moves[0] with { GuestPagesPerSecond = new PaceResult(2000, 1700, 2010) };
        string text = ResultText.Write(_result with { Moves = [move] });
        Assert.Contains("the guest wrote 1700 pages/s meanwhile, 85% of before", text, StringComparison.Ordinal);
    }

    [Fact]
    public void The_text_never_says_that_nothing_was_lost_when_something_failed()
    {
        string text = ResultText.Write(_result with { Failures = ["1 pages of memory are wrong"] });

        Assert.DoesNotContain("Nothing was lost", text, StringComparison.Ordinal);
        Assert.Contains("FAILED: 1 pages of memory are wrong", text, StringComparison.Ordinal);
    }
}
