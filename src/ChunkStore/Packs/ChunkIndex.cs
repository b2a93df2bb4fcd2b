using System.Buffers.Binary;
using System.IO.Hashing;
using Godwit.ChunkStore.Storage;

namespace Godwit.ChunkStore.Packs;

/// <summary>An index object: which pack holds which chunk, sorted; docs/formats/chunk-store.md.</summary>
/// <remarks>Read where it lies, which may be a mapped file. Any thread may look up.</remarks>
internal sealed class ChunkIndex
{
    /// <summary>Bytes before the first pack's name: header, checksum, counts.</summary>
    internal const int FixedBytes = ObjectHeader.Size + 16;
    internal const int PlaceBytes = 12;
    private const int LengthBits = 24;
    private readonly ReadOnlyMemory<byte> _bytes;
    private readonly int _idsAt;

    private ChunkIndex(string name, ReadOnlyMemory<byte> bytes, int packs, int count)
    {
        Name = name;
        _bytes = bytes;
        Count = count;
        Packs = new ChunkId[packs];
        for (int i = 0; i < packs; i++)
        {
            Packs[i] = ChunkId.Read(bytes.Span[(FixedBytes + (i * ChunkId.Size))..]);
        }

        _idsAt = FixedBytes + (packs * ChunkId.Size);
    }

    internal static ReadOnlySpan<byte> Magic => "GDWI"u8;

    /// <summary>Of the object.</summary>
    public string Name { get; }

    /// <summary>Entries; a chunk may have one for each pack that holds it.</summary>
    public int Count { get; }

    public ChunkId[] Packs { get; }

    public long Bytes => _bytes.Length;

    private ReadOnlySpan<byte> Ids => _bytes.Span.Slice(_idsAt, Count * ChunkId.Size);

    private ReadOnlySpan<byte> Places => _bytes.Span[(_idsAt + (Count * ChunkId.Size))..];

    /// <summary>Checks an index as a whole.</summary>
    /// <param name="bytes">The object; it stays as it is as long as the index is used.</param>
    /// <exception cref="StoreFormatException">It is not what was written.</exception>
    public static ChunkIndex Open(string name, ReadOnlyMemory<byte> bytes, StoreKey? key)
    {
        using ObjectCipher? cipher = ObjectHeader.Read(name, bytes.Span, Magic).Cipher(name, key);
        if (cipher is not null)
        {
            byte[] plain = new byte[Math.Max(ObjectHeader.Size, bytes.Length - StoreKey.TagBytes)];
            bytes.Span[..ObjectHeader.Size].CopyTo(plain);
            if (!cipher.TryOpen(
                0, bytes.Span[ObjectHeader.Size..], plain.AsSpan(0, ObjectHeader.Size),
                plain.AsSpan(ObjectHeader.Size)))
            {
                throw new StoreFormatException(name, "it does not open with the store's key");
            }

            bytes = plain;
        }

        ReadOnlySpan<byte> span = bytes.Span;
        if (span.Length < FixedBytes)
        {
            throw new StoreFormatException(name, $"it has {span.Length} bytes, too few for an index");
        }

        uint packs = BinaryPrimitives.ReadUInt32LittleEndian(span[(ObjectHeader.Size + 8)..]);
        uint count = BinaryPrimitives.ReadUInt32LittleEndian(span[(ObjectHeader.Size + 12)..]);
        if (FixedBytes + ((long)packs * ChunkId.Size) + ((long)count * (ChunkId.Size + PlaceBytes)) != span.Length)
        {
            throw new StoreFormatException(
                name, $"it announces {packs} packs and {count} chunks, and has {span.Length} bytes");
        }

        return BinaryPrimitives.ReadUInt64LittleEndian(span[ObjectHeader.Size..]) == Checksum(span)
            ? new ChunkIndex(name, bytes, (int)packs, (int)count)
            : throw new StoreFormatException(name, "its checksum is wrong");
    }

    /// <summary>Finds where a chunk lies.</summary>
    /// <param name="entry">The first of its entries; the chunk's others follow it.</param>
    public bool TryFind(ChunkId id, out int entry)
    {
        entry = LowerBound(id);
        return entry < Count && IdAt(entry) == id;
    }

    public ChunkId IdAt(int entry) => ChunkId.Read(Ids[(entry * ChunkId.Size)..]);

    /// <summary>Number of the entry's pack; a damaged index may name one that it does not have.</summary>
    public int PackOf(int entry) => BinaryPrimitives.ReadInt32LittleEndian(Places[(entry * PlaceBytes)..]);

    public ChunkPlace PlaceOf(int entry)
    {
        ReadOnlySpan<byte> place = Places.Slice(entry * PlaceBytes, PlaceBytes);
        uint lengthAndSlot = BinaryPrimitives.ReadUInt32LittleEndian(place[8..]);
        return new ChunkPlace(
            BinaryPrimitives.ReadUInt32LittleEndian(place[4..]), (int)(lengthAndSlot & ((1 << LengthBits) - 1)),
            (byte)(lengthAndSlot >> LengthBits));
    }

    internal static ulong Checksum(ReadOnlySpan<byte> bytes) =>
        XxHash3.HashToUInt64(bytes[(ObjectHeader.Size + sizeof(ulong))..]);

    internal static void WritePlace(Span<byte> to, int pack, ChunkPlace place)
    {
        BinaryPrimitives.WriteInt32LittleEndian(to, pack);
        BinaryPrimitives.WriteUInt32LittleEndian(to[4..], place.Offset);
        BinaryPrimitives.WriteUInt32LittleEndian(to[8..], (uint)place.Length | ((uint)place.Slot << LengthBits));
    }

    // Ids are spread evenly, so where one would lie is known to a few entries; from there the steps double.
    private int LowerBound(ChunkId id)
    {
        int guess = (int)Math.BigMul((ulong)(id.High >> 64), (ulong)Count, out _);
        int low = guess;
        int high = guess;
        for (int step = 1; low > 0 && IdAt(low - 1) >= id; step *= 2)
        {
            high = low;
            low = Math.Max(0, low - step);
        }

        for (int step = 1; high < Count && IdAt(high) < id; step *= 2)
        {
            low = high + 1;
            high = Math.Min(Count, high + step);
        }

        while (low < high)
        {
            int middle = (int)(((uint)low + (uint)high) / 2);
            if (IdAt(middle) < id)
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
