using System.Globalization;
using System.Security.Cryptography;
using Godwit.ChunkStore;
using Godwit.ChunkStore.Packs;
using Godwit.ChunkStore.Storage;
using Godwit.ChunkStore.Trees;
using Godwit.Host.Storage;
using Godwit.Pages;

namespace Godwit.StoreEngine;

/// <summary>Guests of one image in one store: what each adds to it.</summary>
internal static class Together
{
    public static void Measure(string image, string[] guests)
    {
        string folder = Path.GetFullPath(image) + ".store-engine";
        try
        {
            var storage = new DirectoryStorage(folder);
            storage.Prepare();
            Store.Create(storage, Guid.NewGuid().ToString(), key: null);
            Store store = Store.Open(storage, key: null, () => new SegmentCoder());
            Put(store, image, ChunkGroup.Base);
            long before = StoreUse.Of(storage).Bytes;
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"image {before / 1e6,8:0.0} MB"));
            long one = 0;
            foreach (string guest in guests)
            {
                Put(store, guest, ChunkGroup.Memory);
                long now = StoreUse.Of(storage).Bytes;
                Console.WriteLine(string.Create(
                    CultureInfo.InvariantCulture, $"guest {(now - before) / 1e6,8:0.0} MB more"));
                (one, before) = (one == 0 ? now : one, now);
            }

            Console.WriteLine(string.Create(
                CultureInfo.InvariantCulture,
                $"{guests.Length} guests take {before / 1e6:0.0} MB, {(double)before / one:0.00} times one of them"));
        }
        finally
        {
            if (Directory.Exists(folder))
            {
                Directory.Delete(folder, recursive: true);
            }
        }
    }

    private static void Put(Store store, string path, ChunkGroup group)
    {
        using var writer = new StoreWriter(store, new StoreWriterOptions(RandomNumberGenerator.Fill));
        using FileStream file = File.OpenRead(path);
        byte[] page = new byte[Page.Size];
        var ids = new List<ChunkId>();
        while (file.ReadAtLeast(page, page.Length, throwOnEndOfStream: false) == page.Length)
        {
            ids.Add(ZeroTest.IsZero(page) ? default : writer.Put(page, group));
        }

        ChunkTree.Build(ids.ToArray(), node => writer.Put(node, ChunkGroup.Nodes));
        writer.Flush();
    }
}
