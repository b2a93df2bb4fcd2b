using Godwit.Api.V1;

namespace Godwit.Daemon.Tests.Moves;

/// <summary>
/// Moves that cannot be: each is refused with a code, the thing, the limit and the remedy, and the guest counts on.
/// </summary>
public sealed class MoveRefusalTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task An_unknown_guest_or_host_and_a_guest_that_does_not_run_are_named()
    {
        await using var pair = await MovePair.StartAsync();
        var unknown = await Refusals.RefusedAsync("host-unknown", () => pair.StartMoveAsync(pair.A, "c"));
        Assert.Contains("'c'", unknown, StringComparison.Ordinal);
        Assert.Contains("a, b", unknown, StringComparison.Ordinal);
        await Refusals.RefusedAsync("host-self", () => pair.StartMoveAsync(pair.A, "a"));
        Assert.Contains("'web9'", await Refusals.RefusedAsync("guest-unknown", async () =>
            await pair.A.Control.StartMigrationAsync(
                new StartMigrationRequest { Guest = "web9", To = "b", Policy = new MigrationPolicy() },
                cancellationToken: Token)), StringComparison.Ordinal);
        await pair.IsUntouchedAsync();
        await pair.A.Control.StopGuestAsync(
            new StopGuestRequest { Name = "counting", Force = true }, cancellationToken: Token);
        await Refusals.RefusedAsync("guest-state", () => pair.StartMoveAsync(pair.A, "b"));
    }

    [Fact]
    public async Task A_destination_with_another_disk_of_the_same_name_is_found_out()
    {
        await using var pair = await MovePair.StartAsync(prepareB: pair =>
        {
            var other = Path.Combine(pair.Folder("b"), "other.raw");
            File.WriteAllBytes(other, new byte[2 << 20]);
            return $"mount --bind {other} {pair.Program.Disk}";
        });
        var message = await pair.RefusedAsync("disk-different");
        Assert.Contains($"{2 << 20} bytes on host 'b' and {1 << 20}", message, StringComparison.Ordinal);
    }

    // Goal: a network that the destination does not have is found before the guest would fall silent there.
    // Method: the hosts are two network namespaces with a cable between them, and only one of them has the bridge.
    [Fact]
    public async Task A_destination_without_the_bridge_names_those_it_has()
    {
        await using var pair = await MovePair.StartAsync(
            isCabled: true,
            prepareA: _ => "ip link add br7 type bridge && ip link set br7 up",
            prepareB: _ => "ip link add br8 type bridge && ip link set br8 up",
            spec: spec => spec.Interfaces.Add(new NetworkInterface { Bridge = "br7" }));
        var message = await pair.RefusedAsync("bridge-unknown");
        Assert.Contains("no bridge named br7; it has br8", message, StringComparison.Ordinal);
    }

    // Goal: a guest does not lose what it has found, on a host whose older QEMU emulates less or knows fewer machines.
    [Theory]
    [InlineData("", "", "machine-unknown", "no machine type pc-q35-")]
    [InlineData("pc-q35-7.2", "EPYC-v3", "cpu-feature", "lacks rdseed, sha-ni, 3dnowprefetch")]
    [InlineData("pc-q35-7.2", "Nehalem-v1,+sha-ni", "cpu-feature", "lacks sha-ni")]
    public async Task A_destination_with_an_older_QEMU_names_what_it_lacks(
        string machine, string model, string code, string expected)
    {
        var older = await OldestQemu.PathAsync();
        await using var pair = await MovePair.StartAsync(
            b: settings => settings with { Qemu = older },
            spec: spec => (spec.Machine, spec.CpuModel) = (machine, model));
        var message = await pair.RefusedAsync(code);
        Assert.Contains("On host 'b': ", message, StringComparison.Ordinal);
        Assert.Contains("QEMU 7.2", message, StringComparison.Ordinal);
        Assert.Contains(expected, message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_destination_without_the_memory_and_the_disk_says_both_at_once()
    {
        const int Terabyte = 1 << 20;
        await using var pair = await MovePair.StartAsync(
            b: settings => settings with { MemoryReserveMebibytes = Terabyte },
            prepareB: pair => $"mount -t tmpfs none {pair.Program.Folder}");
        var message = await pair.RefusedAsync("migration-refused");
        Assert.Contains("for 2 reasons:", message, StringComparison.Ordinal);
        Assert.Contains("\n  memory-short: Guest 'counting' has 16 MiB of memory; host 'b' has 0 MiB to give", message,
            StringComparison.Ordinal);
        Assert.Contains($"\n  disk-missing: On host 'b': Disk {pair.Program.Disk} is not", message,
            StringComparison.Ordinal);
    }

    // Goal: QEMU's words at the destination reach the operator at the source.
    // Method: a QEMU that answers every question, and fails only when it is to wait for a guest.
    [Fact]
    public async Task A_destination_whose_QEMU_does_not_start_quotes_it()
    {
        var program = Path.Combine(Directory.CreateTempSubdirectory("gw-qemu-").FullName, "qemu");
        await File.WriteAllTextAsync(program, """
            #!/bin/sh
            case "$*" in *-incoming*) echo 'qemu: cannot set up guest memory: no luck' >&2; exit 1;; esac
            exec qemu-system-x86_64 "$@"
            """, Token);
        File.SetUnixFileMode(program, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        await using var pair = await MovePair.StartAsync(b: settings => settings with { Qemu = program });
        var failed = await MovePair.EndAsync(pair.A, await pair.StartMoveAsync(pair.A, "b"));
        Assert.Equal((MigrationOutcome.Failed, "qemu-start", "a"),
            (failed.Outcome, failed.ErrorCode, failed.GuestRunsOn));
        Assert.StartsWith("On host 'b': QEMU of counting does not start: ", failed.Error, StringComparison.Ordinal);
        Assert.Contains("cannot set up guest memory: no luck. Its log is ", failed.Error, StringComparison.Ordinal);
        Assert.Contains("counting runs on a", failed.Error, StringComparison.Ordinal);
        await pair.IsUntouchedAsync();
        Directory.Delete(Path.GetDirectoryName(program)!, recursive: true);
    }

    [Fact]
    public async Task A_destination_that_does_not_answer_is_named_with_its_address()
    {
        await using var pair = await MovePair.StartAsync();
        await pair.B.EndAsync(Processes.Terminate);
        var message = await Refusals.RefusedAsync("host-unreachable", () => pair.StartMoveAsync(pair.A, "b"));
        Assert.Contains(pair.B.Settings.PeerAddress, message, StringComparison.Ordinal);
        await pair.RestartBAsync();
        await pair.IsUntouchedAsync();
    }

    // Not libzstd: Debian's QEMU does not start without it.
    [Fact]
    public async Task Each_host_without_a_coder_is_named()
    {
        await using var pair = await MovePair.StartAsync(
            prepareA: _ => DoctorTests.Hide("liblz4"), prepareB: _ => DoctorTests.Hide("liblz4"));
        var message = await pair.RefusedAsync("migration-refused");
        Assert.Contains("\n  lz4-missing: Host 'a' cannot load liblz4", message, StringComparison.Ordinal);
        Assert.Contains("\n  lz4-missing: Host 'b' cannot load liblz4", message, StringComparison.Ordinal);
    }
}
