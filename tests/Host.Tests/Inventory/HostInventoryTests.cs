using System.Buffers.Binary;
using Godwit.ChunkStore;
using Godwit.ChunkStore.Trees;
using Godwit.Host.Inventory;
using Godwit.Host.Qemu;
using Godwit.Migration.Wire;
using Microsoft.Extensions.Logging;

namespace Godwit.Host.Tests.Inventory;

public sealed class HostInventoryTests : IAsyncLifetime
{
    private const int Block = ContentIndex.BlockBytes;
    private readonly string _directory = Directory.CreateTempSubdirectory("godwit-inventory-").FullName;
    private readonly Heard _log = new();

    public ValueTask InitializeAsync() => ValueTask.CompletedTask;

    public ValueTask DisposeAsync()
    {
        Directory.Delete(_directory, recursive: true);
        return ValueTask.CompletedTask;
    }

    [Fact]
    public async Task Blocks_of_an_image_are_found_and_others_are_not()
    {
        await using HostInventory inventory = New();
        string image = await IndexedAsync(inventory, "disk.raw", blocks: 300, seed: 1);
        using GuestInventory guest = await inventory.OpenAsync(Guid.NewGuid(), [image], [], siblings: false);
        AssertRebuilds(guest, image, blocks: 300);
        Assert.False(guest.TryRebuild(NameOf(new byte[Block]), new byte[Block]));
        Assert.False(guest.TryRebuild(NameOf(BlockOf(99, 0)), new byte[Block]));
    }

    [Fact]
    public async Task Nodes_of_the_tree_over_an_image_are_there_and_named_before_they_are_given()
    {
        await using HostInventory inventory = New();
        string image = await IndexedAsync(inventory, "disk.raw", blocks: 300, seed: 1);
        byte[] content = await File.ReadAllBytesAsync(image, TestContext.Current.CancellationToken);
        ChunkId[] blocks =
        [
            .. content.Chunk(Block).Select(block => block.All(one => one == 0) ? default : ChunkId.Of(block)),
        ];
        List<byte[]> nodes = [];
        ChunkTree.Build(blocks, node =>
        {
            nodes.Add(node.ToArray());
            return ChunkId.Of(node);
        });
        byte[] chunk = new byte[Block];
        using (GuestInventory guest = await inventory.OpenAsync(Guid.NewGuid(), [image], [], siblings: false))
        using (GuestInventory other = await inventory.OpenAsync(Guid.NewGuid(), [image], [], siblings: false))
        {
            Assert.True(other.TryRead(ChunkId.Of(nodes[0]), chunk, out _));
            Assert.All(nodes, node =>
            {
                Assert.True(guest.TryRead(ChunkId.Of(node), chunk, out int length));
                Assert.Equal(node, chunk[..length]);
            });
            Assert.True(guest.TryRead(blocks[7], chunk, out int whole));
            Assert.Equal(Block, whole);
            Assert.False(guest.TryRead(ChunkId.Of("another"u8), chunk, out _));
        }

        string file = Assert.Single(Directory.GetFiles(Path.Combine(_directory, "inventory"), "*.nodes"));
        byte[] bytes = await File.ReadAllBytesAsync(file, TestContext.Current.CancellationToken);
        bytes[300] ^= 1;
        await File.WriteAllBytesAsync(file, bytes, TestContext.Current.CancellationToken);
        using GuestInventory damaged = await inventory.OpenAsync(Guid.NewGuid(), [image], [], siblings: false);
        Assert.Single(nodes, node => !damaged.TryRead(ChunkId.Of(node), chunk, out _));
        inventory.Trim(0);
        Assert.Empty(Directory.GetFiles(Path.Combine(_directory, "inventory")));
    }

    // Goal: whoever changes an image behind its index gets no wrong byte out of it, and the change is noticed.
    [Fact]
    public async Task A_changed_image_yields_what_it_still_has_and_is_indexed_anew()
    {
        await using HostInventory inventory = New();
        string image = await IndexedAsync(inventory, "disk.raw", blocks: 20, seed: 1);
        DateTime written = File.GetLastWriteTimeUtc(image);
        using (FileStream file = File.OpenWrite(image))
        {
            file.Position = 5 * Block;
            file.Write(BlockOf(2, 5));
        }

        // The kernel's clock for files goes in steps: two writes within one have the same time.
        File.SetLastWriteTimeUtc(image, written.AddSeconds(1));
        using (GuestInventory guest = await inventory.OpenAsync(Guid.NewGuid(), [image], [], siblings: false))
        {
            Assert.False(guest.TryRebuild(NameOf(BlockOf(1, 5)), new byte[Block]));
            Assert.True(guest.TryRebuild(NameOf(BlockOf(1, 6)), new byte[Block]));
        }

        inventory.Watch(image);
        await inventory.IndexedAsync();
        Assert.Contains(_log.Lines, line => line.Contains("has changed since it", StringComparison.Ordinal));
        using GuestInventory again = await inventory.OpenAsync(Guid.NewGuid(), [image], [], siblings: false);
        Assert.True(again.TryRebuild(NameOf(BlockOf(2, 5)), new byte[Block]));
    }

    [Theory]
    [InlineData("one byte")]
    [InlineData("cut short")]
    [InlineData("empty")]
    [InlineData("another version")]
    public async Task A_damaged_index_is_thrown_away_and_made_anew(string damage)
    {
        await using HostInventory inventory = New();
        string image = await IndexedAsync(inventory, "disk.raw", blocks: 20, seed: 1);
        string index = Assert.Single(Directory.GetFiles(Path.Combine(_directory, "inventory"), "*.index"));
        byte[] bytes = await File.ReadAllBytesAsync(index, TestContext.Current.CancellationToken);
        bytes[damage == "another version" ? 4 : 200] ^= 0x10;
        await File.WriteAllBytesAsync(
            index, damage == "empty" ? [] : damage == "cut short" ? bytes[..300] : bytes,
            TestContext.Current.CancellationToken);
        using (GuestInventory guest = await inventory.OpenAsync(Guid.NewGuid(), [image], [], siblings: false))
        {
            Assert.False(guest.TryRebuild(NameOf(BlockOf(1, 6)), new byte[Block]));
        }

        Assert.Contains(_log.Lines, line => line.Contains("was thrown away", StringComparison.Ordinal));
        Assert.False(File.Exists(index));
        inventory.Watch(image);
        await inventory.IndexedAsync();
        using GuestInventory again = await inventory.OpenAsync(Guid.NewGuid(), [image], [], siblings: false);
        AssertRebuilds(again, image, blocks: 20);
    }

    [Fact]
    public async Task What_has_no_index_yet_is_indexed_as_it_is_offered()
    {
        await using HostInventory inventory = New();
        string image = Image("disk.raw", blocks: 40, seed: 1);
        using GuestInventory guest = await inventory.OpenAsync(Guid.NewGuid(), [image], [], siblings: false);
        bool ready = false;
        List<(ContentOrigin Origin, int Bytes, bool Late)> offered = [];
        guest.Offer(
            (origin, fingerprints) =>
            {
                offered.Add((origin, fingerprints.Length, ready));
                return true;
            },
            () => ready = true);
        Assert.Equal([(ContentOrigin.Disk, 40 * Fingerprint.Size, true)], offered);
        AssertRebuilds(guest, image, blocks: 40);
    }

    [Fact]
    public async Task Other_guests_contents_are_there_only_when_they_may_be_shared()
    {
        await using HostInventory inventory = New();
        string mine = await IndexedAsync(inventory, "mine.raw", blocks: 5, seed: 1);
        await IndexedAsync(inventory, "theirs.raw", blocks: 5, seed: 2);
        using GuestInventory alone = await inventory.OpenAsync(Guid.NewGuid(), [mine], [], siblings: false);
        using GuestInventory shared = await inventory.OpenAsync(Guid.NewGuid(), [mine], [], siblings: true);
        Assert.False(alone.TryRebuild(NameOf(BlockOf(2, 3)), new byte[Block]));
        Assert.True(shared.TryRebuild(NameOf(BlockOf(2, 3)), new byte[Block]));
        HashSet<ContentOrigin> origins = [];
        shared.Offer((origin, _) => origins.Add(origin) || true, () => { });
        Assert.Equal([ContentOrigin.Disk, ContentOrigin.Sibling], origins.Order());
    }

    // Goal: pages that come together are rebuilt each for itself, whichever source has them, however they lie there.
    // Method: runs that lie in order, apart, in another image, nowhere, and in a block that has changed since.
    [Fact]
    public async Task Pages_that_come_together_are_rebuilt_from_wherever_they_are()
    {
        await using HostInventory inventory = New();
        string mine = await IndexedAsync(inventory, "mine.raw", blocks: 30, seed: 1);
        string other = await IndexedAsync(inventory, "other.raw", blocks: 30, seed: 2);
        using (FileStream changed = File.OpenWrite(mine))
        {
            changed.Position = 4 * Block;
            changed.Write(BlockOf(7, 7));
        }

        (int Seed, int Number)[] wanted =
        [
            .. Enumerable.Range(2, 6).Select(number => (1, number)), (2, 8), (1, 8), (9, 9), (1, 21), (1, 20), (2, 9),
            .. Enumerable.Range(0, 30).Select(number => (2, number)), .. Enumerable.Range(5, 22).Select(n => (1, n)),
        ];
        Assert.Equal(GuestInventory.RebuildMax, wanted.Length);
        byte[] names = [.. wanted.SelectMany(block => NameOf(BlockOf(block.Seed, block.Number)))];
        byte[] pages = new byte[wanted.Length * Block];
        using GuestInventory guest = await inventory.OpenAsync(Guid.NewGuid(), [mine, other], [], siblings: false);
        ulong rebuilt = guest.Rebuild(names, pages);
        for (int i = 0; i < wanted.Length; i++)
        {
            bool there = wanted[i] is not ((9, 9) or (1, 4));
            Assert.Equal(there, (rebuilt >> i & 1) != 0);
            Assert.True(
                !there || pages.AsSpan(i * Block, Block).SequenceEqual(BlockOf(wanted[i].Seed, wanted[i].Number)));
        }
    }

    [Fact]
    public async Task Images_that_the_operator_names_count_for_every_guest()
    {
        await using HostInventory inventory = New();
        string named = await IndexedAsync(inventory, "debian.raw", blocks: 5, seed: 1);
        string unindexed = Image("other.raw", blocks: 5, seed: 2);
        using GuestInventory guest = await inventory.OpenAsync(
            Guid.NewGuid(), [], [named, unindexed], siblings: false);
        Assert.True(guest.TryRebuild(NameOf(BlockOf(1, 3)), new byte[Block]));
        Assert.False(guest.TryRebuild(NameOf(BlockOf(2, 3)), new byte[Block]));
    }

    [Fact]
    public async Task The_oldest_go_first_and_the_rest_stays_within_its_bound()
    {
        await using HostInventory inventory = New();
        for (int i = 1; i <= 3; i++)
        {
            await IndexedAsync(inventory, $"{i}.raw", blocks: 100, seed: i);
            // The kernel's clock for files goes in steps of up to 10 ms: of the same step none is older.
            await Task.Delay(50, TestContext.Current.CancellationToken);
        }

        IReadOnlyList<InventoryEntry> before = inventory.List();
        Assert.Equal(["3.raw", "2.raw", "1.raw"], before.Select(entry => Path.GetFileName(entry.Label)));
        long freed = inventory.Trim(before[0].DiskBytes + before[1].DiskBytes);
        Assert.Equal(before[2].DiskBytes, freed);
        Assert.Equal(["3.raw", "2.raw"], inventory.List().Select(entry => Path.GetFileName(entry.Label)));
        inventory.Trim(0);
        Assert.Empty(inventory.List());
        Assert.Empty(Directory.GetFiles(Path.Combine(_directory, "inventory")));
    }

    [Fact]
    public async Task What_an_image_is_based_on_belongs_to_it()
    {
        await using HostInventory inventory = New();
        string image = Image("base.raw", blocks: 30, seed: 4);
        string overlay = Path.Combine(_directory, "overlay.qcow2");
        WriteOverlay(overlay, "base.raw");
        inventory.Watch(overlay);
        await inventory.IndexedAsync();
        using GuestInventory guest = await inventory.OpenAsync(Guid.NewGuid(), [overlay], [], siblings: false);
        AssertRebuilds(guest, image, blocks: 30);
    }

    [Fact]
    public async Task A_directory_that_cannot_be_used_costs_a_warning()
    {
        string file = Path.Combine(_directory, "file");
        await File.WriteAllTextAsync(file, "", TestContext.Current.CancellationToken);
        await using var inventory = new HostInventory(Path.Combine(file, "inventory"), 1 << 30, _log);
        Assert.Contains(_log.Lines, line => line.Contains("cannot be used", StringComparison.Ordinal));
        string image = Image("disk.raw", blocks: 3, seed: 1);
        inventory.Watch(image);
        await inventory.IndexedAsync();
        Assert.Contains(_log.Lines, line => line.Contains("was not indexed", StringComparison.Ordinal));
        using GuestInventory guest = await inventory.OpenAsync(Guid.NewGuid(), [image], [], siblings: false);
        Assert.Empty(inventory.List());
    }

    [Theory]
    [InlineData("nbd://10.0.0.1/export")]
    [InlineData("json:{\"driver\":\"raw\"}")]
    [InlineData("overlay.qcow2")]
    [InlineData("missing.raw")]
    [InlineData("")]
    public void A_base_that_is_no_other_file_here_ends_the_chain(string backing)
    {
        string overlay = Path.Combine(_directory, "overlay.qcow2");
        WriteOverlay(overlay, backing);
        Assert.Equal([overlay], DiskImage.Chain(overlay));
        Assert.Empty(DiskImage.Chain(Path.Combine(_directory, "missing.qcow2")));
    }

    // As much of a qcow2 image as says what it is based on.
    private static void WriteOverlay(string path, string backing)
    {
        byte[] name = System.Text.Encoding.UTF8.GetBytes(backing);
        byte[] image = new byte[4096];
        BinaryPrimitives.WriteUInt32BigEndian(image, 0x514649FB);
        BinaryPrimitives.WriteUInt32BigEndian(image.AsSpan(4), 3);
        BinaryPrimitives.WriteInt64BigEndian(image.AsSpan(8), name.Length == 0 ? 0 : 512);
        BinaryPrimitives.WriteInt32BigEndian(image.AsSpan(16), name.Length);
        name.CopyTo(image, 512);
        File.WriteAllBytes(path, image);
    }

    [Fact]
    public async Task An_image_that_changes_all_the_time_is_not_read_all_the_time()
    {
        await using var inventory = new HostInventory(Path.Combine(_directory, "inventory"), 1L << 30, _log);
        string image = await IndexedAsync(inventory, "disk.raw", blocks: 20, seed: 1);
        DateTimeOffset made = Assert.Single(inventory.List()).Made;
        Image("disk.raw", blocks: 20, seed: 2);
        inventory.Watch(image);
        await inventory.IndexedAsync();
        Assert.Equal(made, Assert.Single(inventory.List()).Made);
    }

    private HostInventory New() => new(Path.Combine(_directory, "inventory"), 1L << 30, _log, TimeSpan.Zero);

    private async Task<string> IndexedAsync(HostInventory inventory, string name, int blocks, int seed)
    {
        string image = Image(name, blocks, seed);
        inventory.Watch(image);
        await inventory.IndexedAsync();
        return image;
    }

    private string Image(string name, int blocks, int seed)
    {
        string path = Path.Combine(_directory, name);
        using FileStream file = File.Create(path);
        for (int i = 0; i < blocks; i++)
        {
            // Holes in between, as an image has them.
            file.Position = (i + (i / 10 * 64)) * (long)Block;
            file.Write(BlockOf(seed, i));
        }

        return path;
    }

    private static void AssertRebuilds(GuestInventory guest, string image, int blocks)
    {
        using FileStream file = File.OpenRead(image);
        byte[] block = new byte[Block];
        int found = 0;
        while (file.ReadAtLeast(block, Block, throwOnEndOfStream: false) == Block)
        {
            if (!block.All(b => b == 0))
            {
                byte[] rebuilt = new byte[Block];
                Assert.True(guest.TryRebuild(NameOf(block), rebuilt));
                Assert.Equal(block, rebuilt);
                found++;
            }
        }

        Assert.Equal(blocks, found);
    }

    private static byte[] NameOf(byte[] content)
    {
        byte[] name = new byte[ContentName.Size];
        ContentName.Of(content).Write(name);
        return name;
    }

    private static byte[] BlockOf(int seed, int number)
    {
        byte[] block = new byte[Block];
        new Random((seed * 10_000) + number).NextBytes(block);
        return block;
    }

    private sealed class Heard : ILogger
    {
        public System.Collections.Concurrent.ConcurrentQueue<string> Lines { get; } = new();

        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => true;

        public void Log<TState>(
            LogLevel logLevel, EventId eventId, TState state, Exception? exception,
            Func<TState, Exception?, string> formatter) => Lines.Enqueue(formatter(state, exception));
    }
}
