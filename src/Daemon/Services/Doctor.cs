using Godwit.Api.V1;
using Godwit.Daemon.Cluster;
using Godwit.Daemon.Guests;
using Godwit.Host.Registry;
using Godwit.Host.Trust;
using Godwit.Migration;

namespace Godwit.Daemon.Services;

/// <summary>Looks at everything that a guest or a move would need, and says what to do about what is missing.</summary>
internal sealed class Doctor(
    DaemonSettings settings, QemuFacts qemu, ClusterTrust trust, Membership membership, TimeProvider clock)
{
    private const long MemoryLow = 512L << 20;
    private const long DiskLow = 256L << 20;
    private static readonly TimeSpan ExpirySoon = TimeSpan.FromDays(30);
    private static readonly TimeSpan SkewMax = TimeSpan.FromSeconds(60);

    public async Task<IReadOnlyList<Finding>> ExamineAsync(CancellationToken cancellationToken)
    {
        var findings = new List<Finding>();
        findings.AddRange(Qemu());
        findings.AddRange(Network());
        findings.AddRange(Space());
        findings.Add(Lz4());
        findings.Add(Zstd());
        findings.AddRange(Trust());
        var hosts = await membership.ListAsync(cancellationToken);
        findings.AddRange(await Task.WhenAll(hosts.Where(host => host.Name != settings.HostName)
            .Select(host => PeerAsync(host, cancellationToken))));
        return findings;
    }

    private IEnumerable<Finding> Qemu()
    {
        yield return qemu.Missing.Length == 0
            ? Good("qemu", $"QEMU {qemu.VersionText} at {qemu.Path}, newest machine type {qemu.DefaultMachine}")
            : Bad("qemu-missing", "qemu", qemu.Missing, "Install QEMU: apt install qemu-system-x86.");
        if (qemu.Missing.Length > 0)
        {
            // Whether KVM works is found out with QEMU.
            yield break;
        }

        yield return qemu.Accelerator == "kvm"
            ? Good("kvm", "KVM runs guests; a test guest was started to be sure")
            : Warn("kvm-unusable", "kvm", $"Guests run under TCG, about ten times slower: {qemu.KvmDetail}",
                settings.Accelerator == "tcg"
                    ? "If KVM works here, set accelerator to auto in the configuration."
                    : "Switch virtualization on in the firmware, load kvm_intel or kvm_amd, "
                        + "and let this user open /dev/kvm.");
    }

    private static IEnumerable<Finding> Network()
    {
        const string Tun = "/dev/net/tun";
        yield return File.Exists(Tun)
            ? Good("tun", $"{Tun} is there")
            : Bad("tun-missing", "tun", $"{Tun} is missing: guests cannot have network interfaces",
                "Load the module: modprobe tun; in a container pass the device through.");
        var bridges = HostFacts.Bridges();
        yield return bridges.Count > 0
            ? Good("bridge", $"bridges: {string.Join(", ", bridges)}")
            : Warn("bridge-unknown", "bridge", "There is no bridge: guests with a network interface cannot come here",
                "Make one: ip link add br0 type bridge && ip link set br0 up.");
    }

    private IEnumerable<Finding> Space()
    {
        var (total, available) = HostFacts.Memory();
        yield return available - ((long)settings.MemoryReserveMebibytes << 20) > MemoryLow
            ? Good("memory", $"{available >> 20} of {total >> 20} MiB available")
            : Warn("memory-short", "memory", $"{available >> 20} of {total >> 20} MiB available, "
                + $"{settings.MemoryReserveMebibytes} MiB of them kept for the host",
                "Move guests away or stop what else needs memory.");
        foreach (var directory in new[] { settings.StateDirectory, settings.RuntimeDirectory })
        {
            var free = new DriveInfo(directory).AvailableFreeSpace;
            yield return free > DiskLow
                ? Good("disk", $"{free >> 20} MiB free in {directory}")
                : Warn("disk-full", "disk", $"{free >> 20} MiB free in {directory}", "Free some space.");
        }
    }

    private static Finding Lz4() => HostFacts.HasLz4()
        ? Good("lz4", "liblz4 can be loaded")
        : Bad("lz4-missing", "lz4", "liblz4.so.1 cannot be loaded: no guest can leave this host or come to it",
            "Install it: apt install liblz4-1.");

    private static Finding Zstd() => HostFacts.HasZstd()
        ? Good("zstd", "libzstd can be loaded")
        : Bad("zstd-missing", "zstd", "libzstd.so.1 cannot be loaded: no guest can leave this host or come to it",
            "Install it: apt install libzstd1.");

    private IEnumerable<Finding> Trust()
    {
        var left = trust.Identity.Expires - clock.GetUtcNow();
        yield return left > ExpirySoon
            ? Good("certificate", $"this host's certificate is valid for {left.TotalDays:F0} days")
            : left > TimeSpan.Zero
                ? Warn("certificate-expires-soon", "certificate",
                    $"This host's certificate expires in {left.TotalDays:F0} days",
                    "Renew it: join again with a new token.")
                : Bad("certificate-expired", "certificate",
                    $"This host's certificate expired on {trust.Identity.Expires:u}",
                    "Renew it: join again with a new token.");
        foreach (var path in Directory.EnumerateFiles(settings.PkiDirectory, "*.key"))
        {
            Finding? finding = null;
            try
            {
                KeyFile.CheckMode(path);
            }
            catch (GodwitException exception)
            {
                finding = Bad(exception.Code, "keys", exception.Message, exception.Remedy);
            }

            yield return finding ?? Good("keys", $"{path} has mode 0600");
        }
    }

    private async Task<Finding> PeerAsync(HostRecord host, CancellationToken cancellationToken)
    {
        var subject = $"host {host.Name}";
        try
        {
            var asked = clock.GetUtcNow();
            var answer = await membership.GreetAsync(host, cancellationToken);
            var roundTrip = clock.GetUtcNow() - asked;
            var skew = DateTimeOffset.FromUnixTimeMilliseconds(answer.ClockUnixMs) - (asked + (roundTrip / 2));
            return skew.Duration() <= SkewMax
                ? Good(subject, $"reachable at {host.Address} in {roundTrip.TotalMilliseconds:F0} ms, "
                    + $"clock {skew.TotalMilliseconds:+0;-0} ms, godwitd {answer.Host.Version.Version}")
                : Warn("clock-skew", subject, $"Its clock differs by {skew.TotalSeconds:+0;-0} s; certificates and "
                    + $"tokens are judged by the clock, at most {SkewMax.TotalSeconds:F0} s are fine",
                    "Run a time service on both hosts: apt install chrony.");
        }
        catch (GodwitException exception)
        {
            return Bad(exception.Code, subject, exception.Message, exception.Remedy);
        }
    }

    private static Finding Good(string subject, string detail) =>
        new() { Code = "ok", Severity = Severity.Ok, Subject = subject, Detail = detail };

    private static Finding Warn(string code, string subject, string detail, string remedy) => new()
    {
        Code = code,
        Severity = Severity.Warning,
        Subject = subject,
        Detail = detail,
        Remedy = remedy,
    };

    private static Finding Bad(string code, string subject, string detail, string remedy) => new()
    {
        Code = code,
        Severity = Severity.Error,
        Subject = subject,
        Detail = detail,
        Remedy = remedy,
    };
}
