using Godwit.Host.Qemu;
using Godwit.Migration;

namespace Godwit.Daemon.Guests;

/// <summary>This host's QEMU and the accelerator that new guests get, found out once at start.</summary>
internal sealed class QemuFacts(DaemonSettings settings)
{
    /// <summary>
    /// New guests get this family's newest version: PCI Express and a clean slot per device. A guest keeps its version
    /// for life, so a cluster with an older QEMU names that version at creation.
    /// </summary>
    private const string MachineFamily = "pc-q35";
    private const string Kvm = "kvm";
    private const string Tcg = "tcg";
    private QemuInstallation? _installation;

    public string VersionText => _installation?.Version.ToString() ?? "";
    public string Path => _installation?.Path ?? settings.Qemu;
    public string DefaultMachine => _installation?.NewestMachine(MachineFamily) ?? "";

    /// <summary>What new guests get, kvm or tcg.</summary>
    public string Accelerator { get; private set; } = Tcg;

    /// <summary>Why guests run under TCG; empty under KVM.</summary>
    public string KvmDetail { get; private set; } = "";

    /// <summary>Why no guest can start here; empty if guests can.</summary>
    public string Missing { get; private set; } = "it has not been looked for yet";

    /// <exception cref="GodwitException"><c>qemu-missing</c>.</exception>
    public QemuInstallation Require() => _installation ?? throw new GodwitException("qemu-missing",
        $"No guest can start on host '{settings.HostName}': {Missing}",
        "Install QEMU: apt install qemu-system-x86; or set qemu in the configuration to its path. "
        + "Then restart godwitd.");

    public async Task ProbeAsync(CancellationToken cancellationToken)
    {
        try
        {
            _installation = await QemuInstallation.FindAsync(
                settings.Qemu.Length > 0 ? settings.Qemu : null, cancellationToken);
            Missing = "";
        }
        catch (GodwitException exception)
        {
            Missing = exception.Message;
            return;
        }

        if (settings.Accelerator == Tcg)
        {
            KvmDetail = "the configuration says accelerator tcg";
            return;
        }

        // Kept in the state directory: the race costs up to two seconds, and its result lasts until the next boot.
        var verdict = await AcceleratorProbe.RunAsync(
            _installation, System.IO.Path.Combine(settings.StateDirectory, "accelerator"), cancellationToken);
        KvmDetail = verdict.Accelerator == Kvm ? "" : verdict.Reason;
        Accelerator = settings.Accelerator == Kvm ? Kvm : verdict.Accelerator;
    }

    /// <summary>Why a guest with this contract cannot run here; empty if it can.</summary>
    public Task<IReadOnlyList<ContractRefusal>> CheckAsync(
        MachineContract contract, IReadOnlyCollection<string>? featuresMissing, CancellationToken cancellationToken) =>
        Require().CheckAsync(contract, featuresMissing, cancellationToken);
}
