using System.Buffers.Binary;
using System.Security.Cryptography;

namespace Godwit.ChunkStore;

/// <summary>The name of a content: the first 16 bytes of its SHA-256.</summary>
/// <remarks>
/// Equal names mean equal contents, also when somebody has tried to make it otherwise; docs/decisions/content-names.md
/// says why 16 bytes are enough and why it is this hash.
/// </remarks>
public readonly record struct ContentName(UInt128 Value) : IComparable<ContentName>
{
    /// <summary>Bytes of a name, on the wire and on disk.</summary>
    public const int Size = 16;

    /// <summary>Names a content of any length.</summary>
    public static ContentName Of(ReadOnlySpan<byte> content)
    {
        Span<byte> digest = stackalloc byte[SHA256.HashSizeInBytes];
        SHA256.HashData(content, digest);
        return Read(digest);
    }

    /// <summary>Reads a name from its 16 bytes.</summary>
    public static ContentName Read(ReadOnlySpan<byte> bytes) => new(BinaryPrimitives.ReadUInt128BigEndian(bytes));

    /// <summary>Writes the 16 bytes. Names sort as their bytes do.</summary>
    public void Write(Span<byte> bytes) => BinaryPrimitives.WriteUInt128BigEndian(bytes, Value);

    public int CompareTo(ContentName other) => Value.CompareTo(other.Value);

    public static bool operator <(ContentName left, ContentName right) => left.Value < right.Value;

    public static bool operator >(ContentName left, ContentName right) => left.Value > right.Value;

    public static bool operator <=(ContentName left, ContentName right) => left.Value <= right.Value;

    public static bool operator >=(ContentName left, ContentName right) => left.Value >= right.Value;

    public override string ToString() => Value.ToString("x32", System.Globalization.CultureInfo.InvariantCulture);
}
