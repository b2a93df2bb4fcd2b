using System.Diagnostics;
using Godwit.Host.Qemu;
using Godwit.Migration;

namespace Godwit.Host.Tests.Qemu;

public sealed class QemuInstallationTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task It_knows_versioned_machines_and_CPU_models()
    {
        await using RealQemu qemu = await RealQemu.OpenAsync();
        Assert.True(qemu.Installation.Version >= QemuInstallation.VersionMin);
        Assert.DoesNotContain("pc", qemu.Installation.Machines);
        string newest = Assert.IsType<string>(qemu.Installation.NewestMachine("pc-q35"));
        Assert.Equal($"pc-q35-{qemu.Installation.Version.ToString(2)}", newest);
        Assert.Empty(await qemu.Installation.CheckAsync(qemu.Contract(), null, Token));
        MachineContract unknown = qemu.Contract(c => c with { Machine = "pc-q35-99.1", CpuModel = "Pentium9" });
        Assert.Equal(["machine-unknown", "cpu-unknown"],
            (await qemu.Installation.CheckAsync(unknown, null, Token)).Select(r => r.Code));
        // An alias has one thing wrong with it, which the contract's rules say.
        Assert.Empty(await qemu.Installation.CheckAsync(qemu.Contract(c => c with { Machine = "q35" }), null, Token));
    }

    // Goal: a guest gets the features it asks for by name, and loses none of those it has.
    [Fact]
    public async Task It_knows_which_features_a_guest_would_lack()
    {
        await using RealQemu qemu = await RealQemu.OpenAsync();
        MachineContract whole = qemu.Contract(c => c with { CpuModel = "Nehalem-v1" });
        Assert.Empty(await qemu.Installation.FeaturesMissingAsync(whole.Machine, "tcg", whole.CpuModel, Token));
        // TCG emulates no AVX-512. A new guest of the model never sees it and may run; one that names it may not.
        MachineContract part = whole with { CpuModel = "Icelake-Server-v1" };
        IReadOnlyList<string> missing =
            await qemu.Installation.FeaturesMissingAsync(part.Machine, "tcg", part.CpuModel, Token);
        Assert.Contains("avx512f", missing);
        Assert.Empty(await qemu.Installation.CheckAsync(part, null, Token));
        ContractRefusal named = Assert.Single(await qemu.Installation.CheckAsync(
            whole with { CpuModel = "Nehalem-v1,+avx512f" }, null, Token));
        Assert.Equal("cpu-feature", named.Code);
        Assert.Contains("lacks avx512f", named.Message, StringComparison.Ordinal);
        Assert.Equal("cpu-unknown", Assert.Single(await qemu.Installation.CheckAsync(
            whole with { CpuModel = "Nehalem-v1,+warp-drive" }, null, Token)).Code);

        // One that comes from elsewhere may lack there what it lacks here, and nothing besides.
        Assert.Empty(await qemu.Installation.CheckAsync(part, missing, Token));
        ContractRefusal lost = Assert.Single(await qemu.Installation.CheckAsync(
            part, [.. missing.Where(feature => feature != "avx512f")], Token));
        Assert.Equal("cpu-feature", lost.Code);
        Assert.Contains("lacks avx512f,", lost.Message, StringComparison.Ordinal);
        Assert.Contains("Icelake-Server-v1,-avx512f", lost.Remedy, StringComparison.Ordinal);
        QemuMachine machine = await qemu.StartAsync(part);
        Assert.Equal(missing, await machine.FeaturesMissingAsync(Token));
    }

    [Fact]
    public async Task A_path_without_QEMU_is_refused()
    {
        Assert.Equal("qemu-missing", (await Assert.ThrowsAsync<GodwitException>(
            () => QemuInstallation.FindAsync("/nonexistent/qemu", Token))).Code);
        Assert.Equal("qemu-start", (await Assert.ThrowsAsync<GodwitException>(
            () => QemuInstallation.FindAsync("/bin/false", Token))).Code);
        Assert.Equal("qemu-start", (await Assert.ThrowsAsync<GodwitException>(
            () => QemuInstallation.FindAsync("/bin/true", Token))).Code);
    }

    // Goal: the probe's guest program is right. TCG runs it on every machine; KVM only where KVM works. A machine that
    // is too busy for the race says nothing of the program, which is either right or wrong each time it ends.
    [Fact]
    public async Task The_probes_guest_wins_its_race_under_TCG()
    {
        await using RealQemu qemu = await RealQemu.OpenAsync();
        AcceleratorVerdict verdict;
        long begun = Stopwatch.GetTimestamp();
        do
        {
            verdict = await AcceleratorProbe.RaceAsync(qemu.Installation, "tcg", Token);
        }
        while (verdict.Reason.Contains("was not done", StringComparison.Ordinal)
            && Stopwatch.GetElapsedTime(begun) < TimeSpan.FromSeconds(120));
        Assert.Equal("A probe guest ran correctly under tcg.", verdict.Reason);
        verdict = await AcceleratorProbe.RaceAsync(qemu.Installation, "nonsense", Token);
        Assert.Equal("tcg", verdict.Accelerator);
        Assert.Contains("nonsense", verdict.Reason, StringComparison.Ordinal);
    }

    [Fact]
    public async Task The_probes_result_is_kept_for_this_boot()
    {
        await using RealQemu qemu = await RealQemu.OpenAsync();
        string cache = Path.Combine(qemu.Root, "state", "accelerator");
        AcceleratorVerdict verdict = await AcceleratorProbe.RunAsync(qemu.Installation, cache, Token);
        TestContext.Current.SendDiagnosticMessage(verdict.Reason);
        Assert.Contains(verdict.Accelerator, new[] { "kvm", "tcg" });
        if (File.Exists("/dev/kvm"))
        {
            string[] lines = await File.ReadAllLinesAsync(cache, Token);
            await File.WriteAllLinesAsync(cache, [lines[0], "tcg", "from the cache"], Token);
            Assert.Equal("from the cache", (await AcceleratorProbe.RunAsync(qemu.Installation, cache, Token)).Reason);
            File.SetLastWriteTimeUtc(cache, DateTime.UtcNow.AddMinutes(-11));
            // What a race comes to depends on how busy the machine is; that it is run again does not.
            Assert.NotEqual(
                "from the cache", (await AcceleratorProbe.RunAsync(qemu.Installation, cache, Token)).Reason);
            await File.WriteAllLinesAsync(cache, [lines[0], "kvm", "from the cache"], Token);
            File.SetLastWriteTimeUtc(cache, DateTime.UtcNow.AddMinutes(-11));
            Assert.Equal("from the cache", (await AcceleratorProbe.RunAsync(qemu.Installation, cache, Token)).Reason);
            await File.WriteAllLinesAsync(cache, ["another boot", "tcg", "stale"], Token);
            AcceleratorVerdict again = await AcceleratorProbe.RunAsync(qemu.Installation, cache, Token);
            Assert.NotEqual("stale", again.Reason);
        }
    }
}
