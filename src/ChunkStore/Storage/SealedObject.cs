namespace Godwit.ChunkStore.Storage;

/// <summary>An object of one part: in clear, or sealed in an encrypted store.</summary>
internal static class SealedObject
{
    /// <summary>Bytes of the largest one.</summary>
    public const int BytesMax = 64 << 20;

    public static byte[] Write(
        ReadOnlySpan<byte> magic, ReadOnlySpan<byte> content, StoreKey? key, Action<Span<byte>> random)
    {
        byte[] bytes = new byte[ObjectHeader.Size + content.Length + (key is null ? 0 : StoreKey.TagBytes)];
        Span<byte> salt = stackalloc byte[StoreKey.SaltBytes];
        random(salt);
        ObjectHeader.Write(bytes, magic, salt, key is not null);
        if (key is null)
        {
            content.CopyTo(bytes.AsSpan(ObjectHeader.Size));
            return bytes;
        }

        using ObjectCipher cipher = key.ForObject(salt);
        cipher.Seal(0, content, bytes.AsSpan(0, ObjectHeader.Size), bytes.AsSpan(ObjectHeader.Size));
        return bytes;
    }

    /// <exception cref="StoreFormatException">It is not what was written.</exception>
    public static ReadOnlySpan<byte> Read(
        string name, ReadOnlySpan<byte> bytes, ReadOnlySpan<byte> magic, StoreKey? key)
    {
        if (bytes.Length > BytesMax)
        {
            throw new StoreFormatException(name, $"it has {bytes.Length} bytes; {BytesMax} are possible");
        }

        using ObjectCipher? cipher = ObjectHeader.Read(name, bytes, magic).Cipher(name, key);
        ReadOnlySpan<byte> content = bytes[ObjectHeader.Size..];
        if (cipher is null)
        {
            return content;
        }

        byte[] opened = new byte[Math.Max(0, content.Length - StoreKey.TagBytes)];
        return cipher.TryOpen(0, content, bytes[..ObjectHeader.Size], opened)
            ? opened : throw new StoreFormatException(name, "it does not open with the store's key");
    }
}
