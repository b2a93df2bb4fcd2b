using System.Buffers;
using System.Buffers.Binary;
using System.Globalization;
using System.Security.Cryptography;

namespace Godwit.ChunkStore;

/// <summary>The name of a chunk in a store: the whole SHA-256 of its bytes.</summary>
/// <remarks>
/// All 32 bytes, where pages on the wire make do with 16 (<see cref="ContentName"/>): a parcel's signature covers its
/// trees' roots alone, so it is worth no more than the hash below it; docs/decisions/chunk-granularity.md.
/// The default value stands for "nothing but zeros", which is never stored.
/// </remarks>
public readonly record struct ChunkId(UInt128 High, UInt128 Low) : IComparable<ChunkId>
{
    private static readonly SearchValues<char> Digits = SearchValues.Create("0123456789abcdef");

    /// <summary>Bytes of an id.</summary>
    public const int Size = 32;

    /// <summary>Stands for a page, or a whole tree, of zeros.</summary>
    public bool IsZeros => this == default;

    /// <summary>Names a chunk.</summary>
    public static ChunkId Of(ReadOnlySpan<byte> content)
    {
        Span<byte> digest = stackalloc byte[SHA256.HashSizeInBytes];
        SHA256.HashData(content, digest);
        return Read(digest);
    }

    /// <summary>Reads an id from its 32 bytes.</summary>
    public static ChunkId Read(ReadOnlySpan<byte> bytes) => new(
        BinaryPrimitives.ReadUInt128BigEndian(bytes), BinaryPrimitives.ReadUInt128BigEndian(bytes[16..]));

    /// <summary>Writes the 32 bytes. Ids sort as their bytes do.</summary>
    public void Write(Span<byte> bytes)
    {
        BinaryPrimitives.WriteUInt128BigEndian(bytes, High);
        BinaryPrimitives.WriteUInt128BigEndian(bytes[16..], Low);
    }

    /// <summary>Reads an id from 64 lower-case hexadecimal digits.</summary>
    public static bool TryParse(ReadOnlySpan<char> text, out ChunkId id)
    {
        id = default;
        if (text.Length != 2 * Size || text.ContainsAnyExcept(Digits))
        {
            return false;
        }

        id = new ChunkId(
            UInt128.Parse(text[..Size], NumberStyles.HexNumber, CultureInfo.InvariantCulture),
            UInt128.Parse(text[Size..], NumberStyles.HexNumber, CultureInfo.InvariantCulture));
        return true;
    }

    public int CompareTo(ChunkId other) =>
        High.CompareTo(other.High) is not 0 and var order ? order : Low.CompareTo(other.Low);

    public static bool operator <(ChunkId left, ChunkId right) => left.CompareTo(right) < 0;

    public static bool operator >(ChunkId left, ChunkId right) => left.CompareTo(right) > 0;

    public static bool operator <=(ChunkId left, ChunkId right) => left.CompareTo(right) <= 0;

    public static bool operator >=(ChunkId left, ChunkId right) => left.CompareTo(right) >= 0;

    // It is a hash already.
    public override int GetHashCode() => (int)(uint)Low;

    public override string ToString() =>
        High.ToString("x32", CultureInfo.InvariantCulture) + Low.ToString("x32", CultureInfo.InvariantCulture);
}
