using System.Diagnostics;
using Godwit.Host.Qemu;

namespace Godwit.Host.Tests.Qemu;

/// <summary>The QEMU the tests run (GODWIT_TEST_QEMU, or the host's) and a machine of 16 MiB.</summary>
internal sealed class RealQemu : IAsyncDisposable
{
    private readonly List<QemuMachine> _machines = [];

    private RealQemu(QemuInstallation installation) => Installation = installation;

    public QemuInstallation Installation { get; }

    public string Root { get; } = Directory.CreateTempSubdirectory("godwit-test-").FullName;

    public static CancellationToken Token => TestContext.Current.CancellationToken;

    public static async Task<RealQemu> OpenAsync()
    {
        string? path = Environment.GetEnvironmentVariable("GODWIT_TEST_QEMU");
        try
        {
            return new RealQemu(await QemuInstallation.FindAsync(path, Token));
        }
        catch (Godwit.Migration.GodwitException e) when (path is null && e.Code == "qemu-missing")
        {
            Assert.Skip("no QEMU here: " + e.Message);
            throw;
        }
    }

    /// <summary>Debian 12's own QEMU 7.2, the oldest that Godwit drives.</summary>
    public static async Task<RealQemu> OpenOldestAsync()
    {
        string lab = Path.Combine(AppContext.BaseDirectory, "..", "..", "Lab", "release", "godwit-lab");
        using Process fetch = Process.Start(new ProcessStartInfo(lab, ["qemu72"])
        {
            RedirectStandardOutput = true, RedirectStandardError = true,
        })!;
        Task<string> words = fetch.StandardError.ReadToEndAsync(Token);
        string path = (await fetch.StandardOutput.ReadToEndAsync(Token)).Trim();
        await fetch.WaitForExitAsync(Token);
        Assert.SkipUnless(fetch.ExitCode == 0, $"no QEMU 7.2 here: {await words}");
        return new RealQemu(await QemuInstallation.FindAsync(path, Token));
    }

    /// <summary>SeaBIOS alone: it finds nothing to boot and stays at that.</summary>
    public MachineContract Contract(Func<MachineContract, MachineContract>? change = null)
    {
        MachineContract contract = new()
        {
            Name = "test",
            Uuid = Guid.NewGuid(),
            MemoryBytes = 16 << 20,
            Cpus = 1,
            Machine = Installation.NewestMachine("pc-i440fx")!,
            CpuModel = "qemu64",
            Accelerator = "tcg",
        };
        return change is null ? contract : change(contract);
    }

    public async Task<QemuMachine> StartAsync(
        MachineContract contract, bool incoming = false, string directory = "guest")
    {
        QemuMachine machine = await QemuMachine.StartAsync(
            Installation, contract, Path.Combine(Root, directory), incoming, Token);
        _machines.Add(machine);
        return machine;
    }

    public void Track(QemuMachine machine) => _machines.Add(machine);

    public async ValueTask DisposeAsync()
    {
        foreach (int id in _machines.Select(machine => machine.ProcessId).Distinct())
        {
            // By the number and the command line: the test may have let go of the machine.
            if (QemuProcess.CommandLine(id).Any(argument => argument.StartsWith(Root, StringComparison.Ordinal))
                && QemuProcess.Open(id) is { } process)
            {
                process.Kill();
                await process.Exited;
                process.Dispose();
            }
        }
        foreach (QemuMachine machine in _machines)
        {
            await machine.DisposeAsync();
        }
        Directory.Delete(Root, recursive: true);
    }
}
