using Godwit.Lab;
using Godwit.Lab.Faults;

namespace Godwit.EndToEnd.Tests;

// A third of the lab's fault matrix, on one stage; `godwit lab run faults` plays the whole. Every cell judges itself:
// one QEMU, one host that has the guest, every acknowledged write of the client there, nothing left over.
public sealed class FaultTests
{
    private static readonly string[] _third =
    [
        "fault-source-daemon-preparing-kill",
        "fault-source-daemon-copying-stop",
        "fault-source-daemon-switchover-kill",
        "fault-source-daemon-committed-kill",
        "fault-source-daemon-resumed-kill",
        "fault-destination-daemon-copying-kill",
        "fault-destination-daemon-switchover-kill",
        "fault-destination-daemon-committed-stop",
        "fault-destination-daemon-resumed-kill",
        "fault-both-daemons-switchover-stop",
        "fault-both-daemons-committed-kill",
        "fault-both-daemons-resumed-kill",
        "fault-source-qemu-copying-kill",
        "fault-source-qemu-switchover-stop",
        "fault-source-qemu-committed-kill",
        "fault-destination-qemu-preparing-kill",
        "fault-destination-qemu-switchover-kill",
        "fault-destination-qemu-committed-kill",
        "fault-destination-qemu-resumed-stop",
        "fault-both-qemus-resumed-kill",
        "fault-source-host-switchover-kill",
        "fault-source-host-resumed-kill",
        "fault-destination-host-committed-kill",
        "fault-link-switchover-cut-1s",
        "fault-link-copying-cut-60s",
        "fault-link-committed-for-ever",
        "fault-link-resumed-cut-1s",
        "fault-link+source-daemon-committed-cut-1s",
        "fault-link+destination-host-resumed-overruled",
        "fault-source-daemon-fetching-kill",
        "fault-destination-daemon-fetching-kill",
        "fault-source-qemu-fetching-kill",
        "fault-source-host-fetching-kill",
        "fault-link-fetching-cut-1s",
    ];

    [Fact]
    public void One_host_has_the_guest_and_nothing_is_lost_or_left_over()
    {
        LabForTests.SkipWithoutTheMeans();
        FaultCell[] cells = [.. FaultCell.All.Where(cell => _third.Contains(cell.Name))];
        Assert.Equal(_third.Length, cells.Length);

        FaultMatrixResult result = FaultMatrix.Perform(
            cells, fresh: false, LabForTests.Gigabit, new Display(json: true), out _);

        TestContext.Current.TestOutputHelper?.WriteLine(FaultTable.Write(result));
        Assert.Equal(cells.Length, result.Cells.Count);
        Assert.All(result.Cells, cell => Assert.Empty(cell.Failures));
    }

    // The third is chosen by what it covers.
    [Fact]
    public void The_third_has_every_victim_every_phase_and_every_strike()
    {
        FaultCell[] cells = [.. FaultCell.All.Where(cell => _third.Contains(cell.Name))];

        Assert.Equal(FaultCell.All.SelectMany(cell => cell.Victims).Distinct().Order(),
            cells.SelectMany(cell => cell.Victims).Distinct().Order());
        Assert.Equal(FaultCell.All.Select(cell => cell.Phase).Distinct().Order(),
            cells.Select(cell => cell.Phase).Distinct().Order());
        Assert.Equal(FaultCell.All.Select(cell => cell.Strike).Distinct().Order(),
            cells.Select(cell => cell.Strike).Distinct().Order());
        Assert.InRange(cells.Length, FaultCell.All.Count / 3, (FaultCell.All.Count / 3) + 1);
    }
}
