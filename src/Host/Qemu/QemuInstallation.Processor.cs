using System.Diagnostics;
using System.Text.Json.Nodes;
using Godwit.Migration;

namespace Godwit.Host.Qemu;

// What processor a guest gets from this QEMU on this host.
public sealed partial class QemuInstallation
{
    private readonly Dictionary<(string Machine, string Accelerator, string Model), Task<IReadOnlyList<string>>>
        _featuresMissing = [];

    /// <summary>
    /// Features that a guest with this CPU does not get here, though its model has them or they are named beside it:
    /// QEMU leaves out, with a warning that nobody reads, what the processor or TCG does not have. Asked once each.
    /// </summary>
    /// <exception cref="GodwitException"><c>qemu-start</c>: QEMU has no such CPU, machine or accelerator.</exception>
    public async Task<IReadOnlyList<string>> FeaturesMissingAsync(
        string machine, string accelerator, string cpuModel, CancellationToken cancellationToken)
    {
        Task<IReadOnlyList<string>>? missing;
        lock (_featuresMissing)
        {
            // A failure is not kept: /dev/kvm may be there the next time.
            if (!_featuresMissing.TryGetValue((machine, accelerator, cpuModel), out missing) || missing.IsFaulted)
            {
                _featuresMissing[(machine, accelerator, cpuModel)] =
                    missing = AskFeaturesMissingAsync(machine, accelerator, cpuModel);
            }
        }
        return await missing.WaitAsync(cancellationToken);
    }

    /// <summary>The same of the processor behind a monitor, by QEMU's own account of what it left out.</summary>
    internal static async Task<IReadOnlyList<string>> ReadFeaturesMissingAsync(
        QmpClient monitor, CancellationToken cancellationToken)
    {
        JsonNode? processors = await monitor.ExecuteAsync(
            "query-cpus-fast", null, QmpClient.CommandTimeout, cancellationToken);
        // All are alike; the first stands for the rest.
        JsonNode? missing = await monitor.ExecuteAsync("qom-get", new JsonObject
        {
            ["path"] = processors?[0]?["qom-path"]?.GetValue<string>(),
            ["property"] = "unavailable-features",
        }, QmpClient.CommandTimeout, cancellationToken);
        return [.. (missing as JsonArray ?? []).Select(feature => feature?.GetValue<string>() ?? "").Distinct()];
    }

    private async Task<ContractRefusal?> CheckProcessorAsync(
        MachineContract contract, IReadOnlyCollection<string>? featuresMissing, CancellationToken cancellationToken)
    {
        // What a peer sends reaches no command line before it has been held against the rules, which refuse it.
        if (!MachineContractRules.IsMachineSound(contract))
        {
            return null;
        }
        // A machine type that is refused for itself must not hide what is wrong with the processor.
        string machine = Machines.Contains(contract.Machine) ? contract.Machine : NewestMachine("pc-q35") ?? "none";
        IReadOnlyList<string> missing;
        try
        {
            missing = await FeaturesMissingAsync(machine, contract.Accelerator, contract.CpuModel, cancellationToken);
        }
        catch (GodwitException e) when (e.Message.Contains("CPU model", StringComparison.Ordinal)
            || e.Message.Contains("-cpu.", StringComparison.Ordinal))
        {
            return new("cpu-unknown",
                $"QEMU {Version} of this host has no CPU model {contract.CpuModel}: {e.Message}",
                $"'{Path} -cpu help' lists them.");
        }
        catch (GodwitException e)
        {
            return new("accelerator-missing",
                $"QEMU {Version} of this host does not run with accelerator {contract.Accelerator}: {e.Message}",
                "'godwit doctor' tells what keeps KVM from working; a guest with accelerator tcg runs anywhere.");
        }

        // TCG emulates no model whole, and a new guest never sees what it lacks; what is asked for by name is meant.
        IEnumerable<string> lost = featuresMissing is not null ? missing.Except(featuresMissing)
            : contract.Accelerator == "kvm" ? missing
            : missing.Where(FeaturesNamed(contract.CpuModel).Contains);
        string[] features = [.. lost];
        return features.Length == 0 ? null : new("cpu-feature",
            $"With QEMU {Version} and accelerator {contract.Accelerator} this host lacks " +
            $"{string.Join(", ", features)}, which CPU model {contract.CpuModel} has.",
            "Create the guest with a model that all its hosts support, or without these features: " +
            $"{contract.CpuModel.Split(',')[0]}{string.Concat(features.Select(feature => $",-{feature}"))}.");
    }

    private static IEnumerable<string> FeaturesNamed(string cpuModel) => cpuModel.Split(',').Skip(1)
        .Where(part => part.StartsWith('+') || part.EndsWith("=on", StringComparison.Ordinal))
        .Select(part => part.TrimStart('+').Split('=')[0].Replace('_', '-'));

    private async Task<IReadOnlyList<string>> AskFeaturesMissingAsync(
        string machine, string accelerator, string cpuModel)
    {
        using Process process = Start(Path,
            ["-nodefaults", "-no-user-config", "-display", "none", "-machine", machine, "-accel", accelerator,
                "-cpu", cpuModel, "-m", "8", "-qmp", "stdio", "-S"]);
        Task<string> words = process.StandardError.ReadToEndAsync();
        try
        {
            using QmpClient monitor = await QmpClient.OpenAsync(
                "a probe", new StandardStreams(process), null, CancellationToken.None);
            return await ReadFeaturesMissingAsync(monitor, CancellationToken.None);
        }
        catch (GodwitException e) when (e.Code == "qemu-ended")
        {
            // It warns before it fails: the last line is the reason.
            throw new GodwitException("qemu-start", (await words).Trim().Split('\n')[^1], "", e);
        }
        finally
        {
            process.Kill();
            await process.WaitForExitAsync(CancellationToken.None);
        }
    }
}
