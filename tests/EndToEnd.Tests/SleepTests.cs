using Godwit.Lab.Scenarios;

namespace Godwit.EndToEnd.Tests;

// A real guest under load, a store that both hosts reach. Each scenario has the guest verify its memory and its disk.
public class SleepTests
{
    [Fact]
    public void A_guest_sleeps_on_one_host_and_wakes_on_another()
    {
        LabResult result = LabForTests.Play("sleep");

        Assert.Empty(result.Failures);
        Assert.Equal(["suspend", "resume", "suspend", "resume"], result.Moves.Select(move => move.Method));
        Assert.InRange(result.Moves[2].WireBytes, 1, result.Moves[0].WireBytes / 2);
    }

    [Fact]
    public void A_guest_wakes_before_its_memory_has_arrived() =>
        Assert.Empty(LabForTests.Play("sleep-lazy").Failures);

    [Fact]
    public void A_host_that_hoarded_for_a_guest_fetches_nothing_when_it_wakes() =>
        Assert.Empty(LabForTests.Play("sleep-hoard").Failures);

    [Fact]
    public void A_guest_that_runs_on_is_kept() => Assert.Empty(LabForTests.Play("checkpoint").Failures);
}
