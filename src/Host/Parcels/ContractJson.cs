using System.Text.Json;
using System.Text.Json.Serialization;
using Godwit.ChunkStore.Parcels;
using Godwit.Host.Qemu;
using Godwit.Migration;

namespace Godwit.Host.Parcels;

/// <summary>A machine's contract as a manifest holds it. A new property needs a default; none is renamed.</summary>
[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull)]
[JsonSerializable(typeof(MachineContract))]
public sealed partial class ContractJson : JsonSerializerContext
{
    public static JsonElement Write(MachineContract contract) =>
        JsonSerializer.SerializeToElement(contract, Default.MachineContract);

    /// <exception cref="GodwitException"><c>contract-invalid</c>.</exception>
    public static MachineContract Read(ParcelManifest manifest)
    {
        try
        {
            MachineContract? contract = manifest.Contract.Deserialize(Default.MachineContract);
            return contract is { Name: not null, Disks: not null, Interfaces: not null }
                && contract.Uuid.ToString() == manifest.Guest
                ? contract : throw new JsonException("it is not the guest's");
        }
        catch (JsonException e)
        {
            throw new GodwitException("contract-invalid",
                $"The contract in parcel {manifest.Id} cannot be read: {e.Message}",
                "Compare the versions of both daemons with 'godwit host list'.", e);
        }
    }
}
