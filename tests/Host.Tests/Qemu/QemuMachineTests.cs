using System.Diagnostics;
using System.Text.Json.Nodes;
using Godwit.Host.Qemu;
using Godwit.Migration;
using Godwit.Pages;

namespace Godwit.Host.Tests.Qemu;

/// <summary>Real QEMU processes without an operating system.</summary>
public sealed class QemuMachineTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task A_started_machine_runs_reports_events_and_quits()
    {
        await using RealQemu qemu = await RealQemu.OpenAsync();
        QemuMachine machine = await qemu.StartAsync(qemu.Contract());
        TaskCompletionSource stopped = new(TaskCreationOptions.RunContinuationsAsynchronously);
        TaskCompletionSource shutDown = new(TaskCreationOptions.RunContinuationsAsynchronously);
        machine.EventReceived += qmpEvent =>
        {
            switch (qmpEvent.Name)
            {
                case "STOP": stopped.TrySetResult(); break;
                case "SHUTDOWN": shutDown.TrySetResult(); break;
            }
        };

        Assert.Equal("running", await machine.QueryStateAsync(Token));
        Assert.Equal(qemu.Installation.Version.ToString(), machine.Version.ToString(3));
        await machine.ExecuteAsync("stop", null, Token);
        await stopped.Task.WaitAsync(TimeSpan.FromSeconds(120), Token);
        Assert.Equal("paused", await machine.QueryStateAsync(Token));

        await machine.QuitAsync(TimeSpan.FromSeconds(30), Token);
        Assert.True(machine.Exited.IsCompletedSuccessfully);
        // The end of the process and its last words come by two ways, in any order.
        await shutDown.Task.WaitAsync(TimeSpan.FromSeconds(120), Token);
        GodwitException ended = await Assert.ThrowsAsync<GodwitException>(() => machine.QueryStateAsync(Token));
        Assert.Equal("qemu-ended", ended.Code);

        // Who watches a guest and who receives it both see it end, and let go of it.
        await machine.DisposeAsync();
        await machine.KillAsync();
        await machine.DisposeAsync();
    }

    [Fact]
    public async Task A_refused_command_carries_QEMUs_class_and_words()
    {
        await using RealQemu qemu = await RealQemu.OpenAsync();
        QemuMachine machine = await qemu.StartAsync(qemu.Contract());
        QmpException refusal = await Assert.ThrowsAsync<QmpException>(
            () => machine.ExecuteAsync("no-such", null, Token));
        Assert.Equal("CommandNotFound", refusal.ErrorClass);
        Assert.Contains("no-such", refusal.Description, StringComparison.Ordinal);
    }

    // Goal: a killed QEMU leaves no command waiting for its timeout.
    [Fact]
    public async Task Pending_commands_fail_when_QEMU_dies()
    {
        await using RealQemu qemu = await RealQemu.OpenAsync();
        QemuMachine machine = await qemu.StartAsync(qemu.Contract());
        // SIGSTOP first, so that the command is surely pending when the end comes.
        using (Process stop = Process.Start("kill", ["-STOP", $"{machine.ProcessId}"]))
        {
            await stop.WaitForExitAsync(Token);
        }
        Task<string> pending = machine.QueryStateAsync(Token);
        await machine.KillAsync();
        GodwitException e = await Assert.ThrowsAsync<GodwitException>(() => pending);
        Assert.Equal("qemu-ended", e.Code);
        Assert.Contains("query-status", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Shared_memory_is_the_guests_own_both_ways()
    {
        await using RealQemu qemu = await RealQemu.OpenAsync();
        QemuMachine machine = await qemu.StartAsync(qemu.Contract());
        using GuestMemory block = Assert.Single(machine.OpenMemory());
        // What QEMU's vCPU writes by itself arrives here: SeaBIOS's interrupt table at address 0.
        while (!Read(block, 0).ContainsAnyExcept((byte)0))
        {
            await Task.Delay(10, Token);
        }
        await machine.ExecuteAsync("stop", null, Token);
        Assert.Equal("pc.ram", block.Name);
        Assert.Equal(machine.Contract.MemoryBytes, block.Length);

        PageNumber page = new(2048);   // 8 MiB, where SeaBIOS has no business
        byte[] pattern = new byte[4096];
        Random.Shared.NextBytes(pattern);
        block.Write(page, pattern);
        Assert.Equal(pattern, await SaveAsync(machine, qemu, page));
        Assert.Equal(pattern, Read(block, page.Value));

        Assert.Equal(await SaveAsync(machine, qemu, new PageNumber(0)), Read(block, 0));

        block.Clear(page, 1);
        Assert.Equal(new byte[4096], await SaveAsync(machine, qemu, page));
        Assert.Equal(new byte[4096], Read(block, page.Value));

        // Runs, up to the very end and not beyond it.
        byte[] run = [.. pattern, .. pattern, .. pattern];
        block.Write(new PageNumber(4093), run);
        Assert.Equal(pattern, await SaveAsync(machine, qemu, new PageNumber(4095)));
        block.Clear(new PageNumber(4092), 3);
        Assert.Equal(new byte[4096], await SaveAsync(machine, qemu, new PageNumber(4094)));
        Assert.Equal(pattern, Read(block, 4095));
        Assert.Throws<ArgumentOutOfRangeException>(() => block.Write(new PageNumber(4094), run));
        Assert.Throws<ArgumentOutOfRangeException>(() => block.Write(new PageNumber(-1), pattern));
        Assert.Throws<ArgumentOutOfRangeException>(() => block.Clear(new PageNumber(4096), 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => block.Clear(new PageNumber(0), int.MaxValue));
        Assert.Throws<ArgumentOutOfRangeException>(() => Read(block, long.MaxValue));
        Assert.Throws<ArgumentException>(() => block.Write(page, pattern.AsSpan(1)));
        Assert.Equal(new byte[4096], Read(block, page.Value));
    }

    // Goal: zeros written over memory nobody has touched cost no memory.
    [Fact]
    public async Task Zeros_over_holes_allocate_nothing()
    {
        await using RealQemu qemu = await RealQemu.OpenAsync();
        QemuMachine machine = await qemu.StartAsync(
            qemu.Contract(contract => contract with { MemoryBytes = 256 << 20 }), incoming: true);
        using GuestMemory block = Assert.Single(machine.OpenMemory());
        long before = SharedBytes(machine.ProcessId);
        for (long page = 0; page < block.Length / 4096; page++)
        {
            block.Clear(new PageNumber(page), 1);
        }
        block.Clear(new PageNumber(0), (int)(block.Length / 4096));
        // Less is fine: the kernel counts roughly, and may take some back.
        Assert.InRange(SharedBytes(machine.ProcessId) - before, long.MinValue, 4 << 20);
    }

    [Fact]
    public async Task Private_memory_cannot_be_opened()
    {
        await using RealQemu qemu = await RealQemu.OpenAsync();
        QemuMachine machine = await qemu.StartAsync(qemu.Contract(contract => contract with { SharedMemory = false }));
        Assert.Empty(machine.OpenMemory());
    }

    // Goal: a daemon's restart finds the guest, by process, monitor and memory, and its end afterwards.
    [Fact]
    public async Task A_machine_that_was_let_go_of_runs_on_and_is_adopted()
    {
        await using RealQemu qemu = await RealQemu.OpenAsync();
        MachineContract contract = qemu.Contract();
        QemuMachine first = await qemu.StartAsync(contract);
        await first.DisposeAsync();

        string directory = Path.Combine(qemu.Root, "guest");
        QemuMachine? second = await QemuMachine.AdoptAsync(contract, directory, Token);
        Assert.NotNull(second);
        qemu.Track(second);
        Assert.Equal(first.ProcessId, second.ProcessId);
        Assert.Equal("running", await second.QueryStateAsync(Token));
        Assert.Single(second.OpenMemory()).Dispose();

        GodwitException running = await Assert.ThrowsAsync<GodwitException>(() => qemu.StartAsync(contract));
        Assert.Equal("guest-running", running.Code);

        Assert.Null(await QemuMachine.AdoptAsync(contract with { Uuid = Guid.NewGuid() },
            Path.Combine(qemu.Root, "other"), Token));
        await second.KillAsync();
        Assert.Null(await QemuMachine.AdoptAsync(contract, directory, Token));
    }

    // Goal: a pidfile whose number now belongs to somebody else leads neither to an adoption nor to a kill.
    [Fact]
    public async Task A_strangers_process_is_not_adopted()
    {
        await using RealQemu qemu = await RealQemu.OpenAsync();
        string directory = Directory.CreateDirectory(Path.Combine(qemu.Root, "guest")).FullName;
        await File.WriteAllTextAsync(Path.Combine(directory, "qemu.pid"), $"{Environment.ProcessId}\n", Token);
        Assert.Null(await QemuMachine.AdoptAsync(qemu.Contract(), directory, Token));
    }

    [Fact]
    public async Task A_start_that_fails_says_what_QEMU_said_and_leaves_nothing()
    {
        await using RealQemu qemu = await RealQemu.OpenAsync();
        string disk = Path.Combine(qemu.Root, "absent.img");
        GodwitException e = await Assert.ThrowsAsync<GodwitException>(() => qemu.StartAsync(
            qemu.Contract(contract => contract with { Disks = [new DiskContract(disk, "raw", false)] })));
        Assert.Equal("qemu-start", e.Code);
        Assert.Contains(disk, e.Message, StringComparison.Ordinal);
        Assert.False(File.Exists(Path.Combine(qemu.Root, "guest", "qmp.sock")));

        e = await Assert.ThrowsAsync<GodwitException>(() => qemu.StartAsync(
            qemu.Contract(contract => contract with { Machine = "pc-i440fx-99.9" })));
        Assert.Equal("qemu-start", e.Code);
        Assert.Contains("machine", e.Message, StringComparison.OrdinalIgnoreCase);
    }

    [Fact]
    public async Task An_incoming_machine_waits_holds_no_disk_and_can_be_abandoned()
    {
        await using RealQemu qemu = await RealQemu.OpenAsync();
        string disk = Path.Combine(qemu.Root, "disk.img");
        await File.WriteAllBytesAsync(disk, new byte[1 << 20], Token);
        MachineContract contract = qemu.Contract(c => c with { Disks = [new DiskContract(disk, "raw", false)] });
        QemuMachine source = await qemu.StartAsync(contract, directory: "source");
        QemuMachine destination = await qemu.StartAsync(contract, incoming: true, directory: "destination");
        Assert.Equal("inmigrate", await destination.QueryStateAsync(Token));
        await destination.QuitAsync(TimeSpan.FromSeconds(30), Token);
        Assert.Equal("running", await source.QueryStateAsync(Token));
    }

    // Goal: the two ends build the same machine, video memory, disk, ROMs and all: QEMU itself is the judge.
    // Method: a plain move over a Unix socket, then the source's stream has been loaded without a complaint.
    [Theory]
    [InlineData("pc-i440fx", true)]
    [InlineData("pc-q35", true)]
    [InlineData("pc-i440fx", false)]
    public async Task QEMUs_own_migration_accepts_the_pair(string family, bool shared)
    {
        await using RealQemu qemu = await RealQemu.OpenAsync();
        string disk = Path.Combine(qemu.Root, "disk.img");
        await File.WriteAllBytesAsync(disk, new byte[1 << 20], Token);
        MachineContract contract = qemu.Contract(c => c with
        {
            Machine = qemu.Installation.NewestMachine(family)!,
            Disks = [new DiskContract(disk, "raw", false)],
            Video = true,
            Cpus = 2,
            SharedMemory = shared,
        });
        await MoveAsync(qemu, qemu, contract);
    }

    // Goal: the oldest QEMU we drive starts, maps and hands its guest to the host's newer one.
    [Fact]
    public async Task The_oldest_QEMU_is_driven_and_moves_to_this_one()
    {
        await using RealQemu older = await RealQemu.OpenOldestAsync();
        await using RealQemu newer = await RealQemu.OpenAsync();
        Assert.Equal(new Version(7, 2), new Version(older.Installation.Version.ToString(2)));
        MachineContract contract = older.Contract(c => c with { Video = true });
        Assert.Equal("pc-i440fx-7.2", contract.Machine);
        Assert.Empty(await older.Installation.CheckAsync(contract, null, Token));
        Assert.Empty(await newer.Installation.CheckAsync(contract, null, Token));
        await MoveAsync(older, newer, contract);
    }

    private static async Task MoveAsync(RealQemu from, RealQemu to, MachineContract contract)
    {
        QemuMachine source = await from.StartAsync(contract, directory: "source");
        QemuMachine destination = await to.StartAsync(contract, incoming: true, directory: "destination");
        string uri = "unix:" + Path.Combine(from.Root, "move.sock");
        await destination.ExecuteAsync("migrate-incoming", new JsonObject { ["uri"] = uri }, Token);
        await source.ExecuteAsync("migrate", new JsonObject { ["uri"] = uri }, Token);
        string status;
        do
        {
            await Task.Delay(20, Token);
            status = (await source.ExecuteAsync("query-migrate", null, Token))?["status"]?.GetValue<string>() ?? "none";
        }
        while (status is "none" or "setup" or "active" or "device");
        Assert.Equal("completed", status);
        using GuestMemory? sent = source.OpenMemory().SingleOrDefault();
        while (await destination.QueryStateAsync(Token) == "inmigrate")
        {
            await Task.Delay(20, Token);
        }
        using GuestMemory? arrived = destination.OpenMemory().SingleOrDefault();
        for (long page = 0; sent is not null && page < sent.Length / 4096; page++)
        {
            Assert.True(Read(sent, page).SequenceEqual(Read(arrived!, page)), $"page {page} differs");
        }
        await source.QuitAsync(TimeSpan.FromSeconds(30), Token);
        await destination.ExecuteAsync("cont", null, Token);
        Assert.Equal("running", await destination.QueryStateAsync(Token));
    }

    private static async Task<byte[]> SaveAsync(QemuMachine machine, RealQemu qemu, PageNumber page)
    {
        string path = Path.Combine(qemu.Root, "page.bin");
        await machine.ExecuteAsync("pmemsave", new JsonObject
        {
            ["val"] = page.Value * 4096, ["size"] = 4096, ["filename"] = path,
        }, Token);
        return await File.ReadAllBytesAsync(path, Token);
    }

    private static byte[] Read(GuestMemory memory, long page)
    {
        byte[] content = new byte[4096];
        memory.Read(new PageNumber(page), content);
        return content;
    }

    private static long SharedBytes(int processId) => long.Parse(
        File.ReadLines($"/proc/{processId}/status")
            .First(line => line.StartsWith("RssShmem:", StringComparison.Ordinal))
            .Split(' ', StringSplitOptions.RemoveEmptyEntries)[1],
        System.Globalization.CultureInfo.InvariantCulture) * 1024;
}
