using Godwit.Host.Qemu;

namespace Godwit.Host.Tests.Qemu;

public class PostcopySupportTests
{
    private const int NotPermitted = 1;
    private const int NoSuchCall = 38;

    private static readonly Version _qemu = new(10, 0, 2);

    private static MachineContract Contract(bool shared = true, bool video = false) => new()
    {
        Name = "web1", Uuid = Guid.NewGuid(), Machine = "pc-q35-7.2", Accelerator = "kvm", CpuModel = "qemu64",
        Cpus = 1, MemoryBytes = 256 << 20, SharedMemory = shared, Video = video,
    };

    [Fact]
    public void This_machine_is_asked_and_not_only_guessed_about()
    {
        ContractRefusal? refusal = PostcopySupport.CheckDestination("b", _qemu);
        // Tests need not run where postcopy can; where they do not, the refusal has to say why and what to do.
        Assert.True(
            refusal is null || (refusal.Code.StartsWith("postcopy-", StringComparison.Ordinal)
                && refusal.Message.Contains("'b'", StringComparison.Ordinal) && refusal.Remedy.Length > 0),
            refusal?.ToString());
        Assert.Equal("postcopy-qemu", PostcopySupport.CheckDestination("b", new Version(8, 0, 2))?.Code);
    }

    [Fact]
    public void Memory_that_is_private_or_locked_cannot_follow_the_guest()
    {
        Assert.Null(PostcopySupport.CheckSource(Contract(), _qemu, "VmLck:\t       0 kB\n"));
        Assert.Equal("postcopy-memory", PostcopySupport.CheckSource(Contract(shared: false), _qemu)?.Code);
        Assert.Equal("postcopy-memory", PostcopySupport.CheckSource(Contract(video: true), _qemu)?.Code);
        ContractRefusal? locked = PostcopySupport.CheckSource(
            Contract(), _qemu, "VmPeak:\t 900 kB\nVmLck:\t  262144 kB\nVmPin:\t 0 kB\n");
        Assert.Equal("postcopy-locked-memory", locked?.Code);
        Assert.Contains("262144 KiB", locked!.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(NotPermitted, false, "vm.unprivileged_userfaultfd=1")]
    [InlineData(NotPermitted, true, "SystemCallFilter=userfaultfd")]
    [InlineData(NoSuchCall, true, "SystemCallFilter=userfaultfd")]
    [InlineData(NoSuchCall, false, "CONFIG_USERFAULTFD")]
    public void A_kernel_that_lets_nobody_wait_for_pages_is_told_how_to(int error, bool filtered, string remedy)
    {
        ContractRefusal refusal = PostcopySupport.UserFaultRefused("b", error, filtered);
        Assert.Equal("postcopy-userfaultfd", refusal.Code);
        Assert.Contains(remedy, refusal.Remedy, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("0\n", false, 0, null)]
    [InlineData("1\n", true, 0, null)]
    [InlineData("2\n", true, 0, null)]
    [InlineData("1\n", false, 0, "CAP_SYS_PTRACE")]
    [InlineData("2\n", false, 0, "ptrace_scope=0")]
    [InlineData("3\n", true, 0, "at most 2")]
    [InlineData("0\n", true, NoSuchCall, "Linux 5.6")]
    public void A_daemon_that_could_not_take_up_a_stream_takes_no_guest_by_postcopy(
        string scope, bool mayTrace, int error, string? remedy)
    {
        ContractRefusal? refusal = PostcopySupport.TakingUpRefused("b", scope, mayTrace, error, isFiltered: false);
        Assert.Equal(remedy is null ? null : "postcopy-recovery", refusal?.Code);
        Assert.Contains(remedy ?? "", refusal?.Remedy ?? "", StringComparison.Ordinal);
        if (error != 0)
        {
            Assert.Contains(
                "pidfd_getfd",
                PostcopySupport.TakingUpRefused("b", scope, mayTrace, error, isFiltered: true)!.Remedy,
                StringComparison.Ordinal);
        }
    }

    [Fact]
    public void What_a_process_may_do_is_read_as_the_kernel_writes_it()
    {
        Assert.True(PostcopySupport.MayTrace("CapPrm:\t0\nCapEff:\t000001ffffffffff\n"));
        Assert.False(PostcopySupport.MayTrace("CapEff:\t0000000000000400\n"));
        Assert.False(PostcopySupport.MayTrace(""));
        Assert.True(PostcopySupport.IsFiltered("NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        Assert.False(PostcopySupport.IsFiltered("Seccomp:\t0\n"));
    }
}
