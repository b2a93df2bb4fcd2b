namespace Godwit.EndToEnd.Tests;

// A third of the lab's fault matrix; `godwit lab run --list` names the rest. Every cell judges itself: one QEMU, one
// host that runs the guest, every acknowledged write of the client there.
public sealed class FaultTests
{
    [Theory]
    [InlineData("fault-source-daemon-copying-kill")]
    [InlineData("fault-source-daemon-switchover-kill")]
    [InlineData("fault-source-daemon-committed-kill")]
    [InlineData("fault-destination-daemon-switchover-kill")]
    [InlineData("fault-destination-daemon-committed-stop")]
    [InlineData("fault-source-qemu-copying-kill")]
    [InlineData("fault-source-qemu-switchover-stop")]
    [InlineData("fault-destination-qemu-switchover-kill")]
    [InlineData("fault-destination-qemu-committed-kill")]
    [InlineData("fault-link-committed-cut")]
    public void One_host_runs_the_guest_and_nothing_is_lost(string cell) =>
        Assert.Empty(LabForTests.Play(cell).Failures);
}
