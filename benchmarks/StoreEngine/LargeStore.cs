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

    public static void Make(string folder, int chunks)
    {
        var storage = new DirectoryStorage(folder);
        storage.Prepare();
        Store.Create(storage, Guid.NewGuid().ToString(), key: null);
        var packs = new List<(ChunkId, IReadOnlyList<(ChunkId, ChunkPlace)>)>();
        for (int first = 0; first < chunks; first += ChunksOfPack)
        {
            ChunkId pack = Id(-1 - first);
            storage.PutIfAbsent($"packs/{pack.ToString()[..2]}/{pack}", new byte[1]);
            packs.Add((pack, [.. Enumerable.Range(first, Math.Min(ChunksOfPack, chunks - first))
                .Select(i => (Id(i), new ChunkPlace((uint)(i % ChunksOfPack * 2000), 2000, 0)))]));
        }

        byte[] index = ChunkIndexBuilder.Build(packs, key: null, new byte[StoreKey.SaltBytes]);
        storage.PutIfAbsent($"indexes/{ChunkId.Of(index)}", index);
    }

    public static void Open(string folder)
    {
        long began = Stopwatch.GetTimestamp();
        Store store = Store.Open(new DirectoryStorage(folder), key: null, () => new SegmentCoder());
        double opened = Stopwatch.GetElapsedTime(began).TotalSeconds;
        int chunks = (int)store.Chunks;
        ChunkId[] ids = [.. Enumerable.Range(0, Looks).Select(i => Id((int)((long)i * chunks / Looks)))];
        began = Stopwatch.GetTimestamp();
        int found = ids.Count(store.Contains);
        double looked = Stopwatch.GetElapsedTime(began).TotalSeconds;
        using var process = Process.GetCurrentProcess();
        Console.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"{chunks} chunks: opened in {opened:0.00} s, {process.WorkingSet64 >> 20} MiB resident, "
            + $"{Looks / looked / 1e3:0} thousand look-ups a second, {found} of {Looks} found"));
    }

    private static ChunkId Id(int number)
    {
        Span<byte> digest = stackalloc byte[ChunkId.Size];
        SHA256.HashData(BitConverter.GetBytes(number), digest);
        return ChunkId.Read(digest);
    }
}
