using System.Text.Json.Nodes;
using Godwit.Api.V1;

namespace Godwit.Cli.Output;

/// <summary>Hosts, join tokens and findings as answers.</summary>
internal static class HostAnswers
{
    public static Answer List(IReadOnlyList<HostInfo> hosts) => new()
    {
        Data = Json.Array(hosts.Select(Data)),
        Names = [.. hosts.Select(host => host.Name)],
        Text = wide => [new Table(
            wide
                ? ["NAME", "ADDRESS", "STATE", "GUESTS", "CPUS", "FREE", "MEMORY", "VERSION", "QEMU", "ACCEL",
                    "BRIDGES", "CA", "CERTIFICATE UNTIL", "DETAIL"]
                : ["NAME", "ADDRESS", "STATE", "GUESTS", "CPUS", "FREE", "MEMORY"],
            [.. hosts.Select(host => Row(host, wide))])],
    };

    public static Answer Show(HostInfo host) => new()
    {
        Data = Data(host),
        Names = [host.Name],
        Text = wide => [new Fields(
        [
            ("name", host.Name),
            ("address", host.Address),
            ("state", State(host)),
            ("detail", host.Detail),
            ("guests running", Answered(host) ? Units.Invariant($"{host.GuestsRunning}") : ""),
            ("cpus", Answered(host) ? Units.Invariant($"{host.Cpus}") : ""),
            ("memory", Answered(host)
                ? $"{Units.Bytes(host.MemoryFreeBytes, wide)} free of {Units.Bytes(host.MemoryTotalBytes, wide)}"
                : ""),
            ("bridges", string.Join(", ", host.Bridges)),
            ("version", Version(host).Version),
            ("wire versions", Version(host).WireVersionMax == 0
                ? ""
                : Units.Invariant($"{Version(host).WireVersionMin} to {Version(host).WireVersionMax}")),
            ("qemu", Version(host).QemuVersion),
            ("accelerator", Version(host).Accelerator),
            ("certificate", host.CertificateSha256),
            ("certificate until", Json.LocalTime(host.CertificateExpiresUnixMs)),
            ("holds CA key", host.HoldsCa ? "yes" : "no"),
        ])],
    };

    public static Answer Joined(HostInfo host) => new()
    {
        Data = Data(host),
        Names = [host.Name],
        Text = _ => [new Line($"{host.Name} joined the cluster as {host.Address}")],
    };

    public static Answer Removed(string host, IReadOnlyList<string> notTold) => new()
    {
        Data = new JsonObject
        {
            ["removed"] = host,
            ["notTold"] = Json.Array(notTold),
        },
        Names = [host],
        Text = _ => [new Line($"{host} removed; its certificates are refused from now on")],
    };

    /// <summary>The token alone, so that a script can hand it on.</summary>
    public static Answer Invitation(JoinToken token) => new()
    {
        Data = new JsonObject { ["token"] = token.Token, ["expiresUnixMs"] = token.ExpiresUnixMs },
        Names = [token.Token],
        Text = _ => [new Line(token.Token)],
    };

    public static Answer Findings(IReadOnlyList<Finding> findings) => new()
    {
        Data = Json.Array(findings.Select(finding => (JsonNode)new JsonObject
        {
            ["code"] = finding.Code,
            ["severity"] = Json.Word(finding.Severity),
            ["subject"] = finding.Subject,
            ["detail"] = finding.Detail,
            ["remedy"] = Json.Text(finding.Remedy),
        })),
        Names = [.. findings.Select(finding => finding.Code)],
        Text = _ => FindingsText(findings),
    };

    private static IEnumerable<TextBlock> FindingsText(IReadOnlyList<Finding> findings)
    {
        foreach (var finding in findings)
        {
            string mark = finding.Severity == Severity.Ok ? "ok     " : $"{Json.Word(finding.Severity),-7}";
            yield return new Line($"{mark}  {finding.Subject}: {finding.Detail} ({finding.Code})");
            if (finding.Severity != Severity.Ok && finding.Remedy.Length > 0)
            {
                yield return new Line($"         {finding.Remedy}");
            }
        }

        int errors = findings.Count(finding => finding.Severity == Severity.Error);
        int warnings = findings.Count(finding => finding.Severity == Severity.Warning);
        yield return new Line(Units.Invariant(
            $"{findings.Count} check{(findings.Count == 1 ? "" : "s")}, {errors} error{(errors == 1 ? "" : "s")}, ")
            + Units.Invariant($"{warnings} warning{(warnings == 1 ? "" : "s")}"));
    }

    public static JsonObject Data(HostInfo host) => new()
    {
        ["name"] = host.Name,
        ["address"] = host.Address,
        ["self"] = host.Self,
        ["reachable"] = host.Reachable,
        ["memoryTotalBytes"] = Answered(host) ? host.MemoryTotalBytes : null,
        ["memoryFreeBytes"] = Answered(host) ? host.MemoryFreeBytes : null,
        ["cpus"] = Answered(host) ? host.Cpus : null,
        ["guestsRunning"] = Answered(host) ? host.GuestsRunning : null,
        ["bridges"] = Json.Array(host.Bridges),
        ["version"] = Json.Text(Version(host).Version),
        ["wireVersionMin"] = Version(host).WireVersionMin,
        ["wireVersionMax"] = Version(host).WireVersionMax,
        ["qemuVersion"] = Json.Text(Version(host).QemuVersion),
        ["accelerator"] = Json.Text(Version(host).Accelerator),
        ["certificateSha256"] = Json.Text(host.CertificateSha256),
        ["certificateExpiresUnixMs"] = Json.UnixMs(host.CertificateExpiresUnixMs),
        ["holdsCa"] = host.HoldsCa,
        ["detail"] = Json.Text(host.Detail),
    };

    private static List<string> Row(HostInfo host, bool wide)
    {
        List<string> row =
        [
            host.Name, host.Address, State(host),
            Answered(host) ? Units.Invariant($"{host.GuestsRunning}") : "-",
            Answered(host) ? Units.Invariant($"{host.Cpus}") : "-",
            Answered(host) ? Units.Bytes(host.MemoryFreeBytes, wide) : "-",
            Answered(host) ? Units.Bytes(host.MemoryTotalBytes, wide) : "-",
        ];
        if (wide)
        {
            row.AddRange(
            [
                Dash(Version(host).Version), Dash(Version(host).QemuVersion), Dash(Version(host).Accelerator),
                Dash(string.Join(",", host.Bridges)), host.HoldsCa ? "yes" : "no",
                Dash(Json.LocalTime(host.CertificateExpiresUnixMs)), Dash(host.Detail),
            ]);
        }

        return row;
    }

    private static VersionInfo Version(HostInfo host) => host.Version ?? new VersionInfo();

    // Of a host that does not answer only what the registry holds is known; its zeros mean nothing.
    private static bool Answered(HostInfo host) => host.Self || host.Reachable;

    private static string State(HostInfo host) =>
        host.Self ? "this host" : host.Reachable ? "reachable" : "unreachable";

    private static string Dash(string text) => text.Length == 0 ? "-" : text;
}
