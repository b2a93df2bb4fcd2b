using System.Buffers.Binary;
using Godwit.ChunkStore.Storage;

namespace Godwit.ChunkStore.Packs;

/// <summary>Makes index objects: of new packs, and of older indexes that become one.</summary>
internal static class ChunkIndexBuilder
{
    /// <summary>Entries in one index: it has to fit what a process can map as one piece.</summary>
    public const int CountMax = 40_000_000;

    /// <summary>An index of packs just written.</summary>
    public static byte[] Build(
        IReadOnlyList<(ChunkId Pack, IReadOnlyList<(ChunkId Id, ChunkPlace Place)> Chunks)> packs, StoreKey? key,
        ReadOnlySpan<byte> salt)
    {
        var entries = new List<(ChunkId Id, int Pack, ChunkPlace Place)>(packs.Sum(pack => pack.Chunks.Count));
        for (int i = 0; i < packs.Count; i++)
        {
            entries.AddRange(packs[i].Chunks.Select(chunk => (chunk.Id, i, chunk.Place)));
        }

        entries.Sort((left, right) => left.Id.CompareTo(right.Id));
        byte[] bytes = Allocate(packs.Count, entries.Count, key);
        Span<byte> span = bytes;
        for (int i = 0; i < packs.Count; i++)
        {
            packs[i].Pack.Write(span[(ChunkIndex.FixedBytes + (i * ChunkId.Size))..]);
        }

        int ids = ChunkIndex.FixedBytes + (packs.Count * ChunkId.Size);
        int places = ids + (entries.Count * ChunkId.Size);
        for (int i = 0; i < entries.Count; i++)
        {
            entries[i].Id.Write(span[(ids + (i * ChunkId.Size))..]);
            ChunkIndex.WritePlace(
                span[(places + (i * ChunkIndex.PlaceBytes))..], entries[i].Pack, entries[i].Place);
        }

        Finish(bytes, packs.Count, entries.Count, key, salt);
        return bytes;
    }

    /// <summary>One index in place of several.</summary>
    /// <param name="without">Packs that are left out, with all that only they hold.</param>
    /// <returns>Null if nothing is left.</returns>
    public static byte[]? Merge(
        IReadOnlyList<ChunkIndex> indexes, IReadOnlySet<ChunkId> without, StoreKey? key, ReadOnlySpan<byte> salt)
    {
        ChunkId[] packs =
            [.. indexes.SelectMany(index => index.Packs).Distinct().Where(pack => !without.Contains(pack)).Order()];
        int[][] numbers = [.. indexes.Select(index => index.Packs.Select(
            pack => Array.BinarySearch(packs, pack)).ToArray())];
        int count = 0;
        Walk(indexes, numbers, (_, _, _) => count++);
        if (count == 0)
        {
            return null;
        }

        if (count > CountMax)
        {
            throw new StoreFormatException(
                "the index", $"it would have {count} chunks; {CountMax} fit into one", isNewer: false);
        }

        byte[] bytes = Allocate(packs.Length, count, key);
        for (int i = 0; i < packs.Length; i++)
        {
            packs[i].Write(bytes.AsSpan(ChunkIndex.FixedBytes + (i * ChunkId.Size)));
        }

        int ids = ChunkIndex.FixedBytes + (packs.Length * ChunkId.Size);
        int places = ids + (count * ChunkId.Size);
        int at = 0;
        Walk(indexes, numbers, (id, pack, place) =>
        {
            id.Write(bytes.AsSpan(ids + (at * ChunkId.Size)));
            ChunkIndex.WritePlace(bytes.AsSpan(places + (at * ChunkIndex.PlaceBytes)), pack, place);
            at++;
        });
        Finish(bytes, packs.Length, count, key, salt);
        return bytes;
    }

    // Every entry whose pack stays, in the order of ids; what two indexes both say comes once.
    private static void Walk(
        IReadOnlyList<ChunkIndex> indexes, int[][] numbers, Action<ChunkId, int, ChunkPlace> visit)
    {
        var heads = new PriorityQueue<int, (ChunkId Id, int Index)>();
        int[] next = new int[indexes.Count];
        for (int i = 0; i < indexes.Count; i++)
        {
            if (indexes[i].Count > 0)
            {
                heads.Enqueue(i, (indexes[i].IdAt(0), i));
            }
        }

        ChunkId current = default;
        var packsOfCurrent = new HashSet<int>();
        while (heads.TryDequeue(out int i, out (ChunkId Id, int Index) head))
        {
            if (head.Id != current)
            {
                current = head.Id;
                packsOfCurrent.Clear();
            }

            int entry = next[i]++;
            if (next[i] < indexes[i].Count)
            {
                heads.Enqueue(i, (indexes[i].IdAt(next[i]), i));
            }

            int own = indexes[i].PackOf(entry);
            int pack = (uint)own < (uint)numbers[i].Length ? numbers[i][own] : -1;
            if (pack >= 0 && packsOfCurrent.Add(pack))
            {
                visit(head.Id, pack, indexes[i].PlaceOf(entry));
            }
        }
    }

    private static byte[] Allocate(int packs, int count, StoreKey? key) => new byte[checked(
        ChunkIndex.FixedBytes + (packs * ChunkId.Size) + (count * (ChunkId.Size + ChunkIndex.PlaceBytes))
        + (key is null ? 0 : StoreKey.TagBytes))];

    private static void Finish(byte[] bytes, int packs, int count, StoreKey? key, ReadOnlySpan<byte> salt)
    {
        int length = bytes.Length - (key is null ? 0 : StoreKey.TagBytes);
        Span<byte> span = bytes.AsSpan(0, length);
        ObjectHeader.Write(span, ChunkIndex.Magic, salt, key is not null);
        BinaryPrimitives.WriteInt32LittleEndian(span[(ObjectHeader.Size + 8)..], packs);
        BinaryPrimitives.WriteInt32LittleEndian(span[(ObjectHeader.Size + 12)..], count);
        BinaryPrimitives.WriteUInt64LittleEndian(span[ObjectHeader.Size..], ChunkIndex.Checksum(span));
        if (key is not null)
        {
            using ObjectCipher cipher = key.ForObject(salt);
            byte[] plain = bytes.AsSpan(ObjectHeader.Size, length - ObjectHeader.Size).ToArray();
            cipher.Seal(0, plain, bytes.AsSpan(0, ObjectHeader.Size), bytes.AsSpan(ObjectHeader.Size));
        }
    }
}
