using System.Globalization;
using System.Security.Cryptography;
using Godwit.ChunkStore;
using Godwit.ChunkStore.Packs;
using Godwit.ChunkStore.Storage;
using Godwit.Host.Storage;
using Godwit.Pages;
using Godwit.StoreEngine;

if (args is ["make", var place, var millions, .. var how] && how is [] or ["sealed"])
{
    LargeStore.Make(place, int.Parse(millions, CultureInfo.InvariantCulture) * 1_000_000, how.Length > 0);
    return 0;
}

if (args is ["open", var made])
{
    LargeStore.Open(made);
    return 0;
}

if (args is ["together", var image, .. { Length: > 0 } guests])
{
    Together.Measure(image, guests);
    return 0;
}

if (args.Length != 1 || args[0] is "-h" or "--help")
{
    Console.Error.WriteLine(
        "store-engine FILE: what a chunk store costs on one core, with the pages of FILE (a dump of guest memory, a\n"
        + "disk image) that are not zeros: their bytes in and out per second, by coding. A store is made beside FILE\n"
        + "and removed.\n"
        + "store-engine make DIRECTORY MILLIONS [sealed]: makes an index of as many million chunks, without\n"
        + "the chunks.\n"
        + "store-engine open DIRECTORY: opens it.\n"
        + "store-engine together IMAGE FILE...: what a store takes for an image and the memory (a dump of it) of one\n"
        + "guest, and of all of them.");
    return args.Length == 0 ? 2 : 0;
}

byte[] dump = ReadPages(args[0]);
string folder = Path.GetFullPath(args[0]) + ".store-engine";
try
{
    Console.WriteLine(
        $"{"coding",-8}{"in",10}{"again",10}{"out",10}{"takes",10}   MB/s of one core, of {dump.Length >> 20} MiB");
    foreach (SegmentCoding coding in (SegmentCoding[])[SegmentCoding.None, SegmentCoding.Lz4, SegmentCoding.Zstd])
    {
        Measure(coding);
    }

    return 0;
}
finally
{
    Clear();
}

// Pages of zeros cost next to nothing: with them a store would look faster than it is.
static byte[] ReadPages(string path)
{
    byte[] page = new byte[Page.Size];
    using var pages = new MemoryStream();
    using FileStream file = File.OpenRead(path);
    while (file.ReadAtLeast(page, page.Length, throwOnEndOfStream: false) == page.Length)
    {
        if (!ZeroTest.IsZero(page))
        {
            pages.Write(page);
        }
    }

    return pages.ToArray();
}

void Clear()
{
    if (Directory.Exists(folder))
    {
        Directory.Delete(folder, recursive: true);
    }
}

Store Make()
{
    Clear();
    var storage = new DirectoryStorage(folder);
    storage.Prepare();
    Store.Create(storage, Guid.NewGuid().ToString(), key: null);
    return Store.Open(storage, key: null, () => new SegmentCoder());
}

// Processor time of this process: the disk's own time is not the store's.
double Seconds(Action work)
{
    TimeSpan before = Environment.CpuUsage.TotalTime;
    work();
    return (Environment.CpuUsage.TotalTime - before).TotalSeconds;
}

void Measure(SegmentCoding coding)
{
    int pages = dump.Length / Page.Size;
    ChunkId[] ids = new ChunkId[pages];
    (double In, double Again, double Out, double Takes)[] runs = new (double, double, double, double)[3];
    for (int run = 0; run < runs.Length; run++)
    {
        Store store = Make();
        double Put()
        {
            using var writer = new StoreWriter(store, new StoreWriterOptions(RandomNumberGenerator.Fill, coding));
            return Seconds(() =>
            {
                for (int i = 0; i < pages; i++)
                {
                    ReadOnlySpan<byte> page = dump.AsSpan(i * Page.Size, Page.Size);
                    ids[i] = writer.Put(page, ChunkGroup.Memory);
                }

                writer.Flush();
            });
        }

        double put = Put();
        double again = Put();
        using StoreReader reader = store.OpenReader();
        long read = 0;
        double get = Seconds(() =>
        {
            var wanted = new List<WantedChunk>();
            for (int i = 0; i < pages; i++)
            {
                wanted.Add(new WantedChunk(ids[i], i));
            }

            reader.Read(wanted, (_, chunk) => read += chunk.Length);
        });
        runs[run] = (put, again, get, (double)StoreUse.Of(store.Objects).Bytes / dump.Length);
    }

    double mega = dump.Length / 1e6;
    double Median(Func<(double In, double Again, double Out, double Takes), double> of) =>
        runs.Select(of).Order().ElementAt(runs.Length / 2);
    Console.WriteLine(string.Create(
        CultureInfo.InvariantCulture,
        $"{coding,-8}{mega / Median(run => run.In),10:0}{mega / Median(run => run.Again),10:0}"
        + $"{mega / Median(run => run.Out),10:0}{Median(run => run.Takes),10:P0}"));
}
