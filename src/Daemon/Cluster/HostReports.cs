using Godwit.Api.V1;
using Godwit.Daemon.Guests;
using Godwit.Host.Registry;
using Godwit.Host.Transfers;
using Godwit.Host.Trust;
using Godwit.Migration;

namespace Godwit.Daemon.Cluster;

/// <summary>What each member says of itself, and what is known of one that does not answer.</summary>
internal sealed class HostReports(
    DaemonSettings settings, Membership membership, ClusterTrust trust, GuestKeeper guests, QemuFacts qemu)
{
    public VersionInfo Version() => new()
    {
        Version = VersionText.Own,
        Host = settings.HostName,
        WireVersionMin = WireVersions.Min,
        WireVersionMax = WireVersions.Max,
        QemuVersion = qemu.VersionText,
        Accelerator = qemu.Accelerator,
    };

    public HostInfo Self()
    {
        var report = Membership.Describe(membership.Self);
        var (total, available) = HostFacts.Memory();
        report.Self = true;
        report.Reachable = true;
        report.Version = Version();
        report.MemoryTotalBytes = (ulong)total;
        report.MemoryFreeBytes = (ulong)available;
        report.Cpus = (uint)Environment.ProcessorCount;
        report.GuestsRunning = (uint)guests.Running;
        report.Bridges.AddRange(HostFacts.Bridges());
        report.CertificateExpiresUnixMs = trust.Identity.Expires.ToUnixTimeMilliseconds();
        return report;
    }

    public async Task<HostInfo> OfAsync(HostRecord host, CancellationToken cancellationToken)
    {
        if (host.Name == settings.HostName)
        {
            return Self();
        }

        try
        {
            var report = (await membership.GreetAsync(host, cancellationToken)).Host;
            report.Self = false;
            report.Reachable = true;
            return report;
        }
        catch (GodwitException exception)
        {
            var report = Membership.Describe(host);
            report.Detail = $"{exception.Code}: {exception.Message}";
            return report;
        }
    }

    public async Task<IReadOnlyList<HostInfo>> AllAsync(CancellationToken cancellationToken) =>
        await Task.WhenAll(
            (await membership.ListAsync(cancellationToken)).Select(host => OfAsync(host, cancellationToken)));
}
