using System.Text.Json.Serialization;
using Godwit.Host.Qemu;
using Godwit.Migration;

namespace Godwit.Host.Registry;

/// <summary>The documents stored in the registry. A new property needs a default; none is renamed.</summary>
[JsonSourceGenerationOptions(
    UseStringEnumConverter = true, DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull)]
[JsonSerializable(typeof(MachineContract))]
[JsonSerializable(typeof(MigrationPolicy))]
[JsonSerializable(typeof(ParcelNote))]
[JsonSerializable(typeof(MigrationSnapshot))]
internal sealed partial class RegistryJson : JsonSerializerContext;
