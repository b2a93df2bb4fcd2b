using System.Security.Cryptography;
using System.Text.Json;
using Godwit.ChunkStore;
using Godwit.ChunkStore.Packs;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.ChunkStore.Trees;
using Godwit.Host.Parcels;
using Godwit.Host.Storage;
using Godwit.Pages;

namespace Godwit.Host.Tests.Parcels;

public sealed class LazyContentTests : IDisposable
{
    private const int PageCount = 300;
    private readonly string _folder = Directory.CreateTempSubdirectory("godwit-lazy-").FullName;
    private readonly byte[][] _pages = [.. Enumerable.Range(0, PageCount).Select(_ => new byte[Page.Size])];
    private readonly Store _store;
    private readonly ParcelManifest _manifest;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    // Noise, so that a page's bytes lie in a pack as they are; every seventh page is zeros.
    public LazyContentTests()
    {
        var noise = new Random(1);
        var storage = new DirectoryStorage(_folder);
        storage.Prepare();
        Store.Create(storage, Guid.NewGuid().ToString(), null);
        _store = Store.Open(storage, null, static () => new SegmentCoder());
        using var writer = new StoreWriter(_store, new StoreWriterOptions(RandomNumberGenerator.Fill));
        ParcelPart Put(string name, byte[] content)
        {
            var ids = content.Chunk(Page.Size).Select(chunk =>
            {
                byte[] page = new byte[Page.Size];
                chunk.CopyTo(page, 0);
                return ZeroTest.IsZero(page) ? default : writer.Put(page, ChunkGroup.Memory);
            }).ToArray();
            return new ParcelPart(
                name, content.Length, ChunkTree.Build(ids, node => writer.Put(node, ChunkGroup.Nodes)).ToString());
        }

        for (int i = 0; i < PageCount; i++)
        {
            if (i % 7 != 0)
            {
                noise.NextBytes(_pages[i]);
            }
        }

        _manifest = new ParcelManifest
        {
            Format = ParcelManifest.FormatVersion, Id = "p1", Kind = ParcelKind.Suspend,
            Guest = Guid.NewGuid().ToString(), Name = "guest", Host = "a", Home = _store.Descriptor.Id, Epoch = 1,
            CreatedUnixMs = 1, Contract = JsonDocument.Parse("{}").RootElement, Qemu = "10.0.2",
            State = Put("state", [1, 2, 3]), StateHeadBytes = 2,
            Memory = [Put("pc.ram", [.. _pages.SelectMany(page => page)])], Disks = [],
            Wake = Put(WakeSet.PartName, WakeSet.Encode([250, 7, 3, 99_999])),
        };
        writer.Flush();
    }

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public async Task What_a_guest_touches_first_comes_with_its_state()
    {
        await using var reading = LazyContent.BeginRead(_store, _manifest, null, Token);
        LazyContent content = await reading.Result;

        Assert.Equal([1, 2], content.State.Head);
        Assert.Equal([3], content.State.Tail);
        Assert.Equal(_pages.Select(page => ZeroTest.IsZero(page) ? default : ChunkId.Of(page)), content.Ids);
        // The page behind the end is nobody's.
        Assert.Equal([250, 7, 3], content.Wake);
        Assert.Equal([3, 250], content.Pages.Keys.Order());
        Assert.All(content.Pages, one => Assert.Equal(_pages[one.Key], one.Value));
        Assert.True(content.Report.FetchedBytes > 2 * Page.Size);
    }

    // Goal: the pages that are brought ahead are a guess, and one that cannot be had keeps nobody from running the
    // guest. Method: a bit of such a page is flipped in its pack.
    [Fact]
    public async Task What_is_brought_ahead_may_be_lost()
    {
        Damage(_pages[250]);
        await using var reading = LazyContent.BeginRead(_store, _manifest, null, Token);
        LazyContent content = await reading.Result;

        Assert.Equal([250, 7, 3], content.Wake);
        Assert.DoesNotContain(250, content.Pages.Keys);
        Assert.All(content.Pages, one => Assert.Equal(_pages[one.Key], one.Value));
    }

    // A parcel that an older build made knows of none.
    [Fact]
    public async Task A_parcel_without_a_guess_is_read_as_well()
    {
        await using var reading = LazyContent.BeginRead(_store, _manifest with { Wake = null }, null, Token);
        Assert.Empty((await reading.Result).Wake);
    }

    [Fact]
    public async Task A_read_that_is_given_up_ends()
    {
        var reading = LazyContent.BeginRead(_store, _manifest, null, Token);
        await reading.DisposeAsync();
        Assert.True(reading.Result.IsCompleted);
    }

    private void Damage(byte[] page)
    {
        foreach (string pack in Directory.EnumerateFiles(
            Path.Combine(_folder, "packs"), "*", SearchOption.AllDirectories))
        {
            byte[] content = File.ReadAllBytes(pack);
            int found = content.AsSpan().IndexOf(page);
            if (found >= 0)
            {
                content[found] ^= 1;
                File.WriteAllBytes(pack, content);
                return;
            }
        }

        Assert.Fail("The page is in no pack as it is.");
    }
}
