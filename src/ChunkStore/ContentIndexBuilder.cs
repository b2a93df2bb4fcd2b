using System.Buffers.Binary;
using System.Text;

namespace Godwit.ChunkStore;

/// <summary>Makes a <see cref="ContentIndex"/> of the blocks of one file.</summary>
/// <param name="blocksMax">Blocks taken in at most; what comes after is left out of the index.</param>
public sealed class ContentIndexBuilder(int blocksMax = ContentIndex.CountMax)
{
    private readonly record struct Entry(ContentName Name, ulong Fingerprint, uint Block) : IComparable<Entry>
    {
        // By block last: of blocks with one content the first is kept, so that an index of the same file is the same.
        public int CompareTo(Entry other) => Name.CompareTo(other.Name) is not 0 and var order
            ? order : Block.CompareTo(other.Block);
    }

    private readonly List<Entry> _entries = [];

    /// <summary>Blocks taken in, equal ones counted each.</summary>
    public int Blocks => _entries.Count;

    /// <summary>True when no more blocks are taken in.</summary>
    public bool IsFull => _entries.Count >= blocksMax;

    /// <summary>Names a block and takes it in. A block of zeros is left out: nobody asks for it.</summary>
    /// <param name="block">Its number in the file.</param>
    /// <param name="content">4096 bytes.</param>
    public void Add(uint block, ReadOnlySpan<byte> content)
    {
        if (!IsFull && content.ContainsAnyExcept((byte)0))
        {
            Add(block, ContentName.Of(content), Fingerprint.Of(content));
        }
    }

    /// <summary>Takes in a block that has been named before.</summary>
    public void Add(uint block, ContentName name, ulong fingerprint)
    {
        if (!IsFull)
        {
            _entries.Add(new Entry(name, fingerprint, block));
        }
    }

    /// <summary>Writes the index as a file's bytes.</summary>
    public byte[] Build(IndexSubject subject)
    {
        _entries.Sort();
        int count = 0;
        for (int i = 0; i < _entries.Count; i++)
        {
            if (i == 0 || _entries[i].Name != _entries[i - 1].Name)
            {
                _entries[count++] = _entries[i];
            }
        }

        _entries.RemoveRange(count, _entries.Count - count);
        byte[] label = Encoding.UTF8.GetBytes(subject.Label);
        if (label.Length > IndexSubject.LabelBytesMax)
        {
            throw new ArgumentException(
                $"The label has {label.Length} bytes; the limit is {IndexSubject.LabelBytesMax}.", nameof(subject));
        }

        byte[] bytes = new byte[ContentIndex.HeaderBytes + (count * ContentIndex.EntryBytes) + label.Length];
        label.CopyTo(bytes.AsSpan(bytes.Length - label.Length));
        ContentIndex.Magic.CopyTo(bytes);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(4), ContentIndex.Version);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(6), (ushort)label.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(8), (uint)count);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(16), subject.Length);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(24), subject.Stamp);
        subject.Of.Write(bytes.AsSpan(32));
        Span<byte> names = bytes.AsSpan(ContentIndex.HeaderBytes, count * ContentName.Size);
        Span<byte> rest = bytes.AsSpan(ContentIndex.HeaderBytes + names.Length);
        Span<byte> locations = rest[(count * Fingerprint.Size)..];
        for (int i = 0; i < count; i++)
        {
            _entries[i].Name.Write(names[(i * ContentName.Size)..]);
            BinaryPrimitives.WriteUInt64LittleEndian(rest[(i * Fingerprint.Size)..], _entries[i].Fingerprint);
            BinaryPrimitives.WriteUInt32LittleEndian(locations[(i * ContentIndex.LocationBytes)..], _entries[i].Block);
        }

        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(56), ContentIndex.Checksum(bytes));
        return bytes;
    }
}
