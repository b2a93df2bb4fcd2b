using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;

namespace Godwit.ChunkStore.Storage;

/// <summary>The key of an encrypted store: every object is sealed under a key of its own, derived from it.</summary>
/// <remarks>
/// AES-256-GCM. The object's key comes from 16 random bytes in its header, so the number of a part within its object is
/// all that a nonce has to tell apart. Any thread may use it.
/// </remarks>
public sealed class StoreKey
{
    /// <summary>Bytes of the key.</summary>
    public const int Size = 32;

    /// <summary>Random bytes in the header of each object.</summary>
    public const int SaltBytes = 16;

    /// <summary>What sealing adds to a part.</summary>
    public const int TagBytes = 16;

    private readonly byte[] _key;

    /// <param name="key">32 bytes, random.</param>
    public StoreKey(ReadOnlySpan<byte> key)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(key.Length, Size);
        _key = key.ToArray();
    }

    /// <summary>Tells a store's right key from a wrong one, and nothing else about it.</summary>
    public string CheckValue(string storeId) =>
        Convert.ToHexStringLower(HMACSHA256.HashData(_key, Encoding.UTF8.GetBytes($"godwit-store/{storeId}")));

    /// <summary>The cipher of one object; the caller disposes it.</summary>
    internal ObjectCipher ForObject(ReadOnlySpan<byte> salt)
    {
        Span<byte> derived = stackalloc byte[Size];
        HKDF.DeriveKey(HashAlgorithmName.SHA256, _key, derived, salt, "godwit-object"u8);
        return new ObjectCipher(derived);
    }
}

/// <summary>Seals and opens the parts of one object.</summary>
internal sealed class ObjectCipher(ReadOnlySpan<byte> key) : IDisposable
{
    private readonly AesGcm _cipher = new(key, StoreKey.TagBytes);

    /// <summary>Seals a part.</summary>
    /// <param name="number">The part's, unique in its object.</param>
    /// <param name="plain">What to seal.</param>
    /// <param name="header">Bytes that go with it in clear and may not be changed either.</param>
    /// <param name="to">As long as the plain text and a tag.</param>
    public void Seal(long number, ReadOnlySpan<byte> plain, ReadOnlySpan<byte> header, Span<byte> to) =>
        _cipher.Encrypt(Nonce(number, stackalloc byte[12]), plain, to[..plain.Length], to[plain.Length..], header);

    /// <summary>Opens a part; false if it, its number or its header are not what was sealed.</summary>
    public bool TryOpen(long number, ReadOnlySpan<byte> stored, ReadOnlySpan<byte> header, Span<byte> plain)
    {
        if (stored.Length != plain.Length + StoreKey.TagBytes)
        {
            return false;
        }

        try
        {
            _cipher.Decrypt(
                Nonce(number, stackalloc byte[12]), stored[..plain.Length], stored[plain.Length..], plain, header);
            return true;
        }
        catch (AuthenticationTagMismatchException)
        {
            return false;
        }
    }

    public void Dispose() => _cipher.Dispose();

    private static ReadOnlySpan<byte> Nonce(long number, Span<byte> nonce)
    {
        nonce.Clear();
        BinaryPrimitives.WriteInt64LittleEndian(nonce, number);
        return nonce;
    }
}
