using System.Buffers.Binary;

namespace Godwit.ChunkStore.Storage;

/// <summary>
/// The 32 bytes at the front of every binary object: what it is, its version, and the salt of its key.
/// </summary>
internal readonly ref struct ObjectHeader
{
    public const int Size = 32;
    private const ushort Version = 1;
    private const ushort FlagSealed = 1;

    private ObjectHeader(ReadOnlySpan<byte> salt, bool isSealed)
    {
        Salt = salt;
        IsSealed = isSealed;
    }

    public ReadOnlySpan<byte> Salt { get; }

    public bool IsSealed { get; }

    public static void Write(Span<byte> to, ReadOnlySpan<byte> magic, ReadOnlySpan<byte> salt, bool isSealed)
    {
        to[..Size].Clear();
        magic.CopyTo(to);
        BinaryPrimitives.WriteUInt16LittleEndian(to[4..], Version);
        BinaryPrimitives.WriteUInt16LittleEndian(to[6..], isSealed ? FlagSealed : (ushort)0);
        salt.CopyTo(to[8..]);
    }

    /// <exception cref="StoreFormatException">It is something else, or of a version that is not known.</exception>
    public static ObjectHeader Read(string name, ReadOnlySpan<byte> bytes, ReadOnlySpan<byte> magic)
    {
        if (bytes.Length < Size || !bytes[..4].SequenceEqual(magic))
        {
            throw new StoreFormatException(name, "it does not begin as an object of its kind");
        }

        ushort version = BinaryPrimitives.ReadUInt16LittleEndian(bytes[4..]);
        if (version != Version)
        {
            throw new StoreFormatException(
                name, $"it is of version {version}; this build reads version {Version}", version > Version);
        }

        ushort flags = BinaryPrimitives.ReadUInt16LittleEndian(bytes[6..]);
        if (flags > FlagSealed)
        {
            throw new StoreFormatException(name, $"it has unknown flags {flags:x4}", isNewer: true);
        }

        return new ObjectHeader(bytes.Slice(8, StoreKey.SaltBytes), flags == FlagSealed);
    }

    /// <summary>The cipher of an object that was read; null if it is not sealed.</summary>
    /// <exception cref="StoreFormatException">It is sealed and there is no key, or the other way round.</exception>
    public ObjectCipher? Cipher(string name, StoreKey? key) => IsSealed switch
    {
        true when key is null => throw new StoreFormatException(name, "it is encrypted and the store has no key"),
        // In an encrypted store everything is sealed: what is not was put there by somebody else.
        false when key is not null => throw new StoreFormatException(name, "it is not encrypted as its store is"),
        true => key!.ForObject(Salt),
        _ => null,
    };
}
