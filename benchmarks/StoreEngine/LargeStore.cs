using System.Diagnostics;
using System.Globalization;
using System.Security.Cryptography;
using Godwit.ChunkStore;
using Godwit.ChunkStore.Packs;
using Godwit.ChunkStore.Storage;
using Godwit.Host.Storage;

namespace Godwit.StoreEngine;

/// <summary>
/// A store whose index names millions of chunks that are not there: what is measured is finding them.
/// </summary>
internal static class LargeStore
{
    private const int ChunksOfPack = 4096;
    private const int Looks = 1_000_000;

    // A key that everybody knows is as fast as any other.
    private static StoreKey? Key(bool isSealed) => isSealed ? new StoreKey(new byte[StoreKey.Size]) : null;

    public static void Make(string folder, int chunks, bool isSealed)
    {
        StoreKey? key = Key(isSealed);
        var storage = new DirectoryStorage(folder);
        storage.Prepare();
        Store.Create(storage, Guid.NewGuid().ToString(), key);
        var packs = new List<(ChunkId, IReadOnlyList<(ChunkId, ChunkPlace)>)>();
        for (int first = 0; first < chunks; first += ChunksOfPack)
        {
            ChunkId pack = Id(-1 - first);
            storage.PutIfAbsent($"packs/{pack.ToString()[..2]}/{pack}", new byte[1]);
            packs.Add((pack, [.. Enumerable.Range(first, Math.Min(ChunksOfPack, chunks - first))
                .Select(i => (Id(i), new ChunkPlace((uint)(i % ChunksOfPack * 2000), 2000, 0)))]));
        }

        byte[] index = ChunkIndexBuilder.Build(packs, key, new byte[StoreKey.SaltBytes]);
        storage.PutIfAbsent($"indexes/{ChunkId.Of(index)}", index);
    }

    public static void Open(string folder)
    {
        var storage = new DirectoryStorage(folder);
        StoreKey? key = Key(Store.Find(storage)!.KeyCheck.Length > 0);
        long began = Stopwatch.GetTimestamp();
        Store store = Store.Open(storage, key, () => new SegmentCoder());
        double opened = Stopwatch.GetElapsedTime(began).TotalSeconds;
        int chunks = (int)store.Chunks;
        ChunkId[] ids = [.. Enumerable.Range(0, Looks).Select(i => Id((int)((long)i * chunks / Looks)))];
        began = Stopwatch.GetTimestamp();
        int found = ids.Count(store.Contains);
        double looked = Stopwatch.GetElapsedTime(began).TotalSeconds;
        Console.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"{chunks} chunks: opened in {opened:0.00} s, {PeakMebibytes()} MiB resident at most, "
            + $"{Looks / looked / 1e3:0} thousand look-ups a second, {found} of {Looks} found"));
    }

    private static long PeakMebibytes() => long.Parse(
        File.ReadLines("/proc/self/status").First(line => line.StartsWith("VmHWM:", StringComparison.Ordinal))
            .Split(' ', StringSplitOptions.RemoveEmptyEntries)[^2], CultureInfo.InvariantCulture) >> 10;

    private static ChunkId Id(int number)
    {
        Span<byte> digest = stackalloc byte[ChunkId.Size];
        SHA256.HashData(BitConverter.GetBytes(number), digest);
        return ChunkId.Read(digest);
    }
}
