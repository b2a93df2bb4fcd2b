using System.Text.Json;
using System.Text.Json.Serialization;

namespace Godwit.ChunkStore.Storage;

/// <summary>The object that makes a place a store: what it is, and whether it is encrypted.</summary>
/// <param name="Format">Version of everything in the store.</param>
/// <param name="Id">A UUID.</param>
/// <param name="KeyCheck"><see cref="StoreKey.CheckValue"/>; empty if the store is not encrypted.</param>
public sealed record StoreDescriptor(int Format, string Id, string KeyCheck)
{
    /// <summary>The version this build writes and reads.</summary>
    public const int FormatVersion = 1;

    internal byte[] Write() => JsonSerializer.SerializeToUtf8Bytes(this, StoreJson.Default.StoreDescriptor);

    /// <exception cref="StoreFormatException">It is none, or of a later version.</exception>
    internal static StoreDescriptor Read(ReadOnlySpan<byte> bytes)
    {
        try
        {
            StoreDescriptor? read = JsonSerializer.Deserialize(bytes, StoreJson.Default.StoreDescriptor);
            return read is not { Id.Length: > 0, KeyCheck: not null }
                ? throw new StoreFormatException(ObjectNames.Descriptor, "it says nothing")
                : read.Format == FormatVersion ? read
                : throw new StoreFormatException(
                    ObjectNames.Descriptor,
                    $"the store is of version {read.Format}; this build reads version {FormatVersion}",
                    read.Format > FormatVersion);
        }
        catch (JsonException e)
        {
            throw new StoreFormatException(ObjectNames.Descriptor, $"it cannot be read ({e.Message})");
        }
    }
}

/// <summary>Somebody works on the store; what it may need is not removed meanwhile.</summary>
internal sealed record SessionNote(string Host, long StartedUnixMs);

/// <summary>Packs that nobody may build on any more.</summary>
internal sealed record CondemnedNote(IReadOnlyList<string> Packs);

/// <summary>Sessions that were under way after packs had been condemned: they may have built on them before.</summary>
internal sealed record WaitNote(IReadOnlyList<string> Sessions);

[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, WriteIndented = true)]
[JsonSerializable(typeof(StoreDescriptor))]
[JsonSerializable(typeof(SessionNote))]
[JsonSerializable(typeof(CondemnedNote))]
[JsonSerializable(typeof(WaitNote))]
[JsonSerializable(typeof(Parcels.ParcelManifest))]
[JsonSerializable(typeof(Parcels.ParcelClaim))]
[JsonSerializable(typeof(Parcels.ParcelVoucher))]
internal sealed partial class StoreJson : JsonSerializerContext;
