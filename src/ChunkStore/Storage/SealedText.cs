using System.Text.Json;
using System.Text.Json.Serialization.Metadata;

namespace Godwit.ChunkStore.Storage;

/// <summary>Small objects that are JSON: in clear, or sealed in an encrypted store.</summary>
internal static class SealedText
{
    public const int BytesMax = 64 << 20;

    public static ReadOnlySpan<byte> Magic => "GDWJ"u8;

    public static byte[] Write<T>(T value, JsonTypeInfo<T> type, StoreKey? key, Action<Span<byte>> random)
    {
        byte[] json = JsonSerializer.SerializeToUtf8Bytes(value, type);
        byte[] bytes = new byte[ObjectHeader.Size + json.Length + (key is null ? 0 : StoreKey.TagBytes)];
        Span<byte> salt = stackalloc byte[StoreKey.SaltBytes];
        random(salt);
        ObjectHeader.Write(bytes, Magic, salt, key is not null);
        if (key is null)
        {
            json.CopyTo(bytes, ObjectHeader.Size);
            return bytes;
        }

        using ObjectCipher cipher = key.ForObject(salt);
        cipher.Seal(0, json, bytes.AsSpan(0, ObjectHeader.Size), bytes.AsSpan(ObjectHeader.Size));
        return bytes;
    }

    /// <exception cref="StoreFormatException">It is not what was written.</exception>
    public static T Read<T>(string name, ReadOnlySpan<byte> bytes, JsonTypeInfo<T> type, StoreKey? key)
        where T : class
    {
        if (bytes.Length > BytesMax)
        {
            throw new StoreFormatException(name, $"it has {bytes.Length} bytes; {BytesMax} are possible");
        }

        using ObjectCipher? cipher = ObjectHeader.Read(name, bytes, Magic).Cipher(name, key);
        ReadOnlySpan<byte> json = bytes[ObjectHeader.Size..];
        if (cipher is not null)
        {
            byte[] opened = new byte[Math.Max(0, json.Length - StoreKey.TagBytes)];
            if (!cipher.TryOpen(0, json, bytes[..ObjectHeader.Size], opened))
            {
                throw new StoreFormatException(name, "it does not open with the store's key");
            }

            json = opened;
        }

        try
        {
            return JsonSerializer.Deserialize(json, type) ?? throw new StoreFormatException(name, "it says nothing");
        }
        catch (JsonException e)
        {
            throw new StoreFormatException(name, $"it cannot be read ({e.Message})");
        }
    }
}
