using System.Diagnostics;
using Godwit.Migration;

namespace Godwit.Host.Qemu;

/// <summary>Whether guests run under KVM on this host.</summary>
/// <param name="Accelerator"><c>kvm</c> or <c>tcg</c>: what new guests should use.</param>
/// <param name="Reason">What was found, for the operator.</param>
public sealed record AcceleratorVerdict(string Accelerator, string Reason);

/// <summary>Finds out whether KVM really runs a guest, which the mere existence of /dev/kvm does not tell.</summary>
/// <remarks>
/// On some virtual machines /dev/kvm opens and guests start, but the layer below carries out every guest instruction
/// in software, a hundred times slower than TCG: Linux does not come up in minutes. So the probe is a race: a guest
/// without an operating system enters long mode, adds up the numbers to five million through memory, and reports the
/// sum as right or wrong by the value that it writes to QEMU's exit device. Hardware needs some milliseconds.
/// </remarks>
public static class AcceleratorProbe
{
    private static readonly TimeSpan Deadline = TimeSpan.FromSeconds(2);

    // A host that was too busy for a moment loses the race as well, and must not go without KVM until it boots again.
    private static readonly TimeSpan LostFor = TimeSpan.FromMinutes(10);

    /// <summary>QEMU's exit status for the guest's verdict "right" (0x2a): twice the value plus one.</summary>
    private const int StatusRight = 85;

    // Assembled from AT&T syntax, loaded at f000:0000; the last 16 bytes of the ROM jump to it.
    private const string Program =
        "fa31c08ed88ec0fc" +                            // cli; xor %ax,%ax; mov %ax,%ds; mov %ax,%es; cld
        "bf0010b90018f3ab" +                            // zero 0x1000..0x3fff: three page tables
        "66b80320000066a30010" +                        // PML4[0] = 0x2003
        "66b80330000066a30020" +                        // PDPT[0] = 0x3003
        "66b88300000066a30030" +                        // PD[0]   = 0x83: 2 MiB at 0
        "66b8200000000f22e0" +                          // CR4 = PAE
        "66b8001000000f22d8" +                          // CR3 = 0x1000
        "66b9800000c00f32660d000100000f30" +            // EFER |= LME
        "2e660f0116b800" +                              // lgdtl %cs:0xb8
        "66b8010000800f22c0" +                          // CR0 = PG | PE
        "66ea68000f000800" +                            // ljmpl $8,$0xf0068
        "31d2b9404b4c00" +                              // long mode: sum = 0; count = 5,000,000
        "4801ca48891425008000004803142500800000482b142500800000e2e3" +  // 1: add, store, add, subtract, loop 1b
        "48b8a06d35625e0b00004839c2" +                  // sum == 12,500,002,500,000 ?
        "b02a7402b015e6f4f4ebfd" +                      // mov $0x2a,%al; je 2f; mov $0x15,%al; 2: out %al,$0xf4; hlt
        "8d742600" +                                    // padding; GDT: null,
        "0000000000000000" + "ffff0000009baf00" +       // code
        "0f00a8000f00";                                 // its limit and address

    /// <summary>
    /// Runs the race, or gives its result of earlier on in this boot; that KVM lost is believed for ten minutes.
    /// </summary>
    /// <param name="cacheFile">Where the result is kept; null to keep none.</param>
    public static async Task<AcceleratorVerdict> RunAsync(
        QemuInstallation qemu, string? cacheFile, CancellationToken cancellationToken)
    {
        if (!File.Exists("/dev/kvm"))
        {
            return new AcceleratorVerdict("tcg", "This host has no /dev/kvm.");
        }
        string key = $"{File.ReadAllText("/proc/sys/kernel/random/boot_id").Trim()} {qemu.Path} {qemu.Version}";
        if (cacheFile is not null && ReadCache(cacheFile, key) is { } known)
        {
            return known;
        }
        AcceleratorVerdict verdict = await RaceAsync(qemu, "kvm", cancellationToken);
        if (cacheFile is not null)
        {
            Directory.CreateDirectory(Path.GetDirectoryName(Path.GetFullPath(cacheFile))!);
            await File.WriteAllLinesAsync(cacheFile, [key, verdict.Accelerator, verdict.Reason], cancellationToken);
        }
        return verdict;
    }

    private static AcceleratorVerdict? ReadCache(string cacheFile, string key)
    {
        try
        {
            string[] lines = File.ReadAllLines(cacheFile);
            bool isLasting = DateTime.UtcNow - File.GetLastWriteTimeUtc(cacheFile) < LostFor;
            return lines.Length == 3 && lines[0] == key && (lines[1] == "kvm" || (lines[1] == "tcg" && isLasting))
                ? new AcceleratorVerdict(lines[1], lines[2])
                : null;
        }
        catch (IOException)
        {
            return null;
        }
    }

    /// <summary>The race under any accelerator; the verdict names it only if the guest won.</summary>
    internal static async Task<AcceleratorVerdict> RaceAsync(
        QemuInstallation qemu, string accelerator, CancellationToken cancellationToken)
    {
        string rom = Path.Combine(Path.GetTempPath(), $"godwit-probe-{Guid.NewGuid():N}.rom");
        try
        {
            await File.WriteAllBytesAsync(rom, Rom(), cancellationToken);
            ProcessStartInfo start = new(qemu.Path,
            [
                "-accel", accelerator, "-machine", "pc", "-cpu", "qemu64", "-nodefaults", "-no-user-config",
                "-display", "none", "-m", "4", "-no-reboot", "-bios", rom,
                "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
            ])
            { RedirectStandardError = true };
            using Process process = Process.Start(start)!;
            Task<string> words = process.StandardError.ReadToEndAsync(CancellationToken.None);
            using CancellationTokenSource deadline = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
            deadline.CancelAfter(Deadline);
            try
            {
                await process.WaitForExitAsync(deadline.Token);
            }
            catch (OperationCanceledException)
            {
                process.Kill();
                await process.WaitForExitAsync(CancellationToken.None);
                cancellationToken.ThrowIfCancellationRequested();
                return new AcceleratorVerdict("tcg",
                    $"{accelerator} opens, but a probe guest that needs some milliseconds was not done after " +
                    $"{Deadline.TotalSeconds:0} s: the layer below seems to carry out guests in software.");
            }
            return process.ExitCode == StatusRight
                ? new AcceleratorVerdict(accelerator, $"A probe guest ran correctly under {accelerator}.")
                : new AcceleratorVerdict("tcg",
                    $"A probe guest failed under {accelerator} (status {process.ExitCode}): {(await words).Trim()}");
        }
        catch (System.ComponentModel.Win32Exception e)
        {
            throw new GodwitException("qemu-start", $"{qemu.Path} cannot be run: {e.Message}.",
                "Configure the path of QEMU.", e);
        }
        finally
        {
            File.Delete(rom);
        }
    }

    private static byte[] Rom()
    {
        byte[] rom = new byte[64 << 10];
        Convert.FromHexString(Program).CopyTo(rom, 0);
        ((ReadOnlySpan<byte>)[0xea, 0x00, 0x00, 0x00, 0xf0]).CopyTo(rom.AsSpan(0xfff0));   // ljmp $0xf000,$0
        return rom;
    }
}
