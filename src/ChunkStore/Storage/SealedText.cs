using System.Text.Json;
using System.Text.Json.Serialization.Metadata;

namespace Godwit.ChunkStore.Storage;

/// <summary>Small objects that are JSON.</summary>
internal static class SealedText
{
    public static ReadOnlySpan<byte> Magic => "GDWJ"u8;

    public static byte[] Write<T>(T value, JsonTypeInfo<T> type, StoreKey? key, Action<Span<byte>> random) =>
        SealedObject.Write(Magic, JsonSerializer.SerializeToUtf8Bytes(value, type), key, random);

    /// <exception cref="StoreFormatException">It is not what was written.</exception>
    public static T Read<T>(string name, ReadOnlySpan<byte> bytes, JsonTypeInfo<T> type, StoreKey? key)
        where T : class
    {
        try
        {
            return JsonSerializer.Deserialize(SealedObject.Read(name, bytes, Magic, key), type)
                ?? throw new StoreFormatException(name, "it says nothing");
        }
        catch (JsonException e)
        {
            throw new StoreFormatException(name, $"it cannot be read ({e.Message})");
        }
    }
}
