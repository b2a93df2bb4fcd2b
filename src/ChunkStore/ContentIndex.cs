using System.Buffers.Binary;
using System.IO.Hashing;
using System.Text;

namespace Godwit.ChunkStore;

/// <summary>What an index is of, and in which state: it has to match before the index is worth using.</summary>
/// <param name="Of">Names the indexed file, for instance by its path.</param>
/// <param name="Length">Bytes of the indexed file.</param>
/// <param name="Stamp">When it was last changed, in ticks of 100 ns; anything that differs after a change.</param>
/// <param name="Label">What to call it before people; at most 4096 bytes of UTF-8.</param>
public readonly record struct IndexSubject(ContentName Of, long Length, long Stamp, string Label)
{
    /// <summary>Longest <see cref="Label"/>, in bytes of UTF-8: a path fits.</summary>
    public const int LabelBytesMax = 4096;
}

/// <summary>The blocks of one file by name: where a content of 4096 bytes lies in it.</summary>
/// <remarks>
/// <para>docs/formats/inventory.md is the layout. The bytes may be a mapped file.</para>
/// <para>
/// An index is a hint: what lies where it points has to be read and named again before it is used. One that is damaged
/// is refused as a whole by <see cref="TryOpen"/>, one that is out of date costs a vain look and nothing else.
/// </para>
/// </remarks>
public sealed class ContentIndex
{
    internal const int HeaderBytes = 64;
    internal const int EntryBytes = ContentName.Size + Fingerprint.Size + LocationBytes;
    internal const int LocationBytes = 4;
    internal const ushort Version = 1;

    /// <summary>Bytes of a block.</summary>
    public const int BlockBytes = 4096;

    /// <summary>Blocks in an index at most: 256 GiB of content that is not zero, in less than 2 GiB of index.</summary>
    public const int CountMax = 1 << 26;

    private readonly ReadOnlyMemory<byte> _bytes;
    private readonly int _count;

    private ContentIndex(ReadOnlyMemory<byte> bytes, int count, IndexSubject subject)
    {
        _bytes = bytes;
        _count = count;
        Subject = subject;
    }

    internal static ReadOnlySpan<byte> Magic => "GDWX"u8;

    /// <summary>Blocks with a name of their own.</summary>
    public int Count => _count;

    /// <summary>What the index was made of.</summary>
    public IndexSubject Subject { get; }

    private ReadOnlySpan<byte> Names => _bytes.Span.Slice(HeaderBytes, _count * ContentName.Size);

    /// <summary>Little-endian fingerprints of the blocks, 8 bytes each, in no order that means anything.</summary>
    public ReadOnlyMemory<byte> Fingerprints =>
        _bytes.Slice(HeaderBytes + (_count * ContentName.Size), _count * Fingerprint.Size);

    private ReadOnlySpan<byte> Locations =>
        _bytes.Span.Slice(HeaderBytes + (_count * (ContentName.Size + Fingerprint.Size)), _count * LocationBytes);

    /// <summary>Checks an index as a whole.</summary>
    /// <param name="bytes">The file; they have to stay as they are as long as the index is used.</param>
    /// <param name="index">The index; null if it is refused.</param>
    /// <param name="why">What is wrong with it; empty if nothing is.</param>
    public static bool TryOpen(ReadOnlyMemory<byte> bytes, out ContentIndex? index, out string why)
    {
        index = null;
        ReadOnlySpan<byte> span = bytes.Span;
        if (span.Length < HeaderBytes || !span[..4].SequenceEqual(Magic))
        {
            why = "it does not begin as an index";
            return false;
        }

        ushort version = BinaryPrimitives.ReadUInt16LittleEndian(span[4..]);
        if (version != Version)
        {
            why = $"it is of version {version}; this build reads version {Version}";
            return false;
        }

        uint count = BinaryPrimitives.ReadUInt32LittleEndian(span[8..]);
        int label = BinaryPrimitives.ReadUInt16LittleEndian(span[6..]);
        if (count > CountMax || label > IndexSubject.LabelBytesMax
            || span.Length != HeaderBytes + (count * (long)EntryBytes) + label)
        {
            why = $"it announces {count} blocks and a label of {label} bytes, and has {span.Length} bytes";
            return false;
        }

        if (BinaryPrimitives.ReadUInt64LittleEndian(span[56..]) != Checksum(span))
        {
            why = "its checksum is wrong";
            return false;
        }

        var subject = new IndexSubject(
            ContentName.Read(span[32..]), BinaryPrimitives.ReadInt64LittleEndian(span[16..]),
            BinaryPrimitives.ReadInt64LittleEndian(span[24..]), Encoding.UTF8.GetString(span[^label..]));
        index = new ContentIndex(bytes, (int)count, subject);
        why = "";
        return true;
    }

    /// <summary>Finds where a content lies.</summary>
    /// <param name="block">The number of the block that had this name when the index was made.</param>
    public bool TryFind(ContentName name, out uint block)
    {
        int at = LowerBound(name);
        if (at < _count && NameAt(at) == name)
        {
            block = BinaryPrimitives.ReadUInt32LittleEndian(Locations[(at * LocationBytes)..]);
            return true;
        }

        block = 0;
        return false;
    }

    /// <summary>Blocks that the index points to; several names may lie in one.</summary>
    public int CountBlocks()
    {
        uint[] blocks = new uint[_count];
        for (int i = 0; i < _count; i++)
        {
            blocks[i] = BinaryPrimitives.ReadUInt32LittleEndian(Locations[(i * LocationBytes)..]);
        }

        Array.Sort(blocks);
        int count = 0;
        for (int i = 0; i < _count; i++)
        {
            count += i == 0 || blocks[i] != blocks[i - 1] ? 1 : 0;
        }

        return count;
    }

    internal static ulong Checksum(ReadOnlySpan<byte> bytes)
    {
        var hash = new XxHash3();
        hash.Append(bytes[..56]);
        hash.Append(bytes[HeaderBytes..]);
        return hash.GetCurrentHashAsUInt64();
    }

    private ContentName NameAt(int index) => ContentName.Read(Names[(index * ContentName.Size)..]);

    // Names are spread evenly, so where one would lie is known to a few entries; from there the steps double.
    private int LowerBound(ContentName name)
    {
        int guess = (int)Math.BigMul((ulong)(name.Value >> 64), (ulong)_count, out _);
        int low = guess;
        int high = guess;
        for (int step = 1; low > 0 && NameAt(low - 1) >= name; step *= 2)
        {
            high = low;
            low = Math.Max(0, low - step);
        }

        for (int step = 1; high < _count && NameAt(high) < name; step *= 2)
        {
            low = high + 1;
            high = Math.Min(_count, high + step);
        }

        while (low < high)
        {
            int middle = (int)(((uint)low + (uint)high) / 2);
            if (NameAt(middle) < name)
            {
                low = middle + 1;
            }
            else
            {
                high = middle;
            }
        }

        return low;
    }
}
