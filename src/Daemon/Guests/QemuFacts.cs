namespace Godwit.Daemon.Guests;

/// <summary>This host's QEMU and accelerator, looked at once at start.</summary>
#pragma warning disable CA1822
internal sealed class QemuFacts(DaemonSettings settings)
{
    public string VersionText { get; private set; } = "";
    public string Accelerator { get; private set; } = "tcg";
    public string DefaultMachine { get; private set; } = "";
    /// <summary>Why guests run under TCG; empty under KVM.</summary>
    public string KvmDetail { get; private set; } = "";
    /// <summary>Why no guest can start here; empty if guests can.</summary>
    public string Missing { get; private set; } = "not probed yet";

    public bool HasMachine(string machine) => machine == DefaultMachine;
    public bool HasCpuModel(string model) => model.Length > 0;
    public bool HasAccelerator(string accelerator) => accelerator == "tcg" || accelerator == Accelerator;

    public Task ProbeAsync(CancellationToken cancellationToken)
    {
        Missing = $"{settings.Qemu} is not supported by this build";
        return Task.CompletedTask;
    }
}
