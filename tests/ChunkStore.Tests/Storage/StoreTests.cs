using System.Security.Cryptography;
using CsCheck;
using Godwit.ChunkStore.Packs;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.ChunkStore.Trees;

namespace Godwit.ChunkStore.Tests.Storage;

public class StoreTests
{
    private static readonly Gen<int[]> Memories = Gen.Int[0, 60].Array[1, 400];

    private static StoreRig Rig(bool encrypted) => new(
        new MemoryStorage(), encrypted ? new StoreKey(SHA256.HashData("a key"u8)) : null);

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void What_was_put_is_what_is_read(bool encrypted) => Memories.Sample(memory =>
    {
        StoreRig rig = Rig(encrypted);
        rig.Suspend(rig.Open(), "p1", memory);
        StoreRig.Expect(rig.Open(), "p1", memory);
    }, iter: 60);

    [Fact]
    public void A_second_parcel_brings_only_what_changed()
    {
        StoreRig rig = Rig(false);
        int[] memory = [.. Enumerable.Range(1, 4000)];
        Store store = rig.Open();
        ParcelManifest first = rig.Suspend(store, "p1", memory);
        for (int i = 0; i < 40; i++)
        {
            memory[i * 97] = 100_000 + i;
        }

        ParcelManifest second = rig.Suspend(store, "p2", memory, "p1");
        StoreRig.Expect(rig.Open(), "p2", memory);
        // 40 of 4000 pages and the nodes above them.
        Assert.InRange(second.BytesWritten, 1, first.BytesWritten / 20);
    }

    [Fact]
    public void Equal_contents_have_equal_roots_wherever_they_were_built() => Memories.Sample(memory =>
    {
        StoreRig left = Rig(false);
        StoreRig right = Rig(true);
        Assert.Equal(
            left.Suspend(left.Open(), "p1", memory).Memory[0].Root,
            right.Suspend(right.Open(), "p2", memory).Memory[0].Root);
    }, iter: 20);

    [Fact]
    public void Two_trees_are_compared_to_their_differences() => Gen.Select(Memories, Memories).Sample((left, right) =>
    {
        int count = Math.Min(left.Length, right.Length);
        StoreRig rig = Rig(false);
        Store store = rig.Open();
        ChunkId leftRoot = rig.Suspend(store, "p1", left[..count]).Memory[0].RootId;
        ChunkId rightRoot = rig.Suspend(store, "p2", right[..count]).Memory[0].RootId;
        using StoreReader reader = store.OpenReader();
        var found = new List<long>();
        ChunkTree.Compare(leftRoot, rightRoot, count, reader, reader, (page, _, _) => found.Add(page));
        Assert.Equal(
            Enumerable.Range(0, count).Where(i => left[i] != right[i]).Select(i => (long)i), found.Order());
    }, iter: 30);

    [Fact]
    public void Many_small_indexes_become_few_and_lose_nothing()
    {
        var storage = new MemoryStorage();
        var rig = new StoreRig(storage);
        Store store = rig.Open();
        for (int i = 0; i < 30; i++)
        {
            rig.Suspend(store, $"p{i}", [.. Enumerable.Range((i * 20) + 1, 50)]);
        }

        Assert.InRange(storage.List("indexes").Count, 1, 8);
        for (int i = 0; i < 30; i++)
        {
            StoreRig.Expect(rig.Open(), $"p{i}", [.. Enumerable.Range((i * 20) + 1, 50)]);
        }
    }

    // Goal: a file system that shows another host's index before its pack loses nothing: the pack is read by its name,
    // and what indexes are merged meanwhile keep it.
    [Fact]
    public void A_listing_that_is_behind_loses_nothing()
    {
        var storage = new MemoryStorage();
        var rig = new StoreRig(storage);
        int[] memory = [.. Enumerable.Range(1, 60)];
        rig.Suspend(rig.Open(), "p1", memory);
        HashSet<string> unseen = [.. storage.Objects.Keys];
        storage.Hides = name => name.StartsWith("packs/", StringComparison.Ordinal) && unseen.Contains(name);
        Store store = rig.Open();
        StoreRig.Expect(store, "p1", memory);
        for (int i = 0; i < 8; i++)
        {
            rig.Suspend(store, $"q{i}", [.. Enumerable.Range((i * 100) + 1000, 50)]);
        }

        Assert.InRange(storage.List("indexes").Count, 1, 7);
        storage.Hides = _ => false;
        StoreRig.Expect(rig.Open(), "p1", memory);
    }

    // Goal: nothing damaged is ever given out, wherever the damage is, and an encrypted store shows no content.
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_flipped_bit_is_found_wherever_it_is(bool encrypted)
    {
        StoreRig rig = Rig(encrypted);
        int[] memory = [.. Enumerable.Range(1, 60)];
        rig.Suspend(rig.Open(), "p1", memory);
        var whole = (MemoryStorage)rig.Storage;
        Gen.Select(Gen.Int[0, whole.Objects.Count - 1], Gen.Double[0, 1], Gen.Int[0, 7]).Sample((which, where, bit) =>
        {
            MemoryStorage damaged = whole.Copy();
            byte[] content = damaged.Objects.ElementAt(which).Value;
            content[(int)(where * (content.Length - 1))] ^= (byte)(1 << bit);
            var other = new StoreRig(damaged, rig.Key);
            try
            {
                Store store = Store.Open(damaged, rig.Key, () => new Godwit.Host.Storage.SegmentCoder());
                StoreRig.Expect(store, "p1", memory);
            }
            catch (Exception e) when (e is StoreFormatException or ChunkLostException or ParcelRefusedException
                or StorageException)
            {
                // Found and named.
                Assert.NotEmpty(e.Message);
            }
        }, iter: 400);
    }

    [Fact]
    public void A_damaged_chunk_with_a_twin_is_read_from_the_twin()
    {
        var storage = new MemoryStorage();
        var rig = new StoreRig(storage);
        Store store = rig.Open();
        int[] memory = [.. Enumerable.Range(1, 60)];
        rig.Suspend(store, "p1", memory);
        using (var writer = new StoreWriter(store, rig.Options))
        {
            foreach (int content in memory)
            {
                byte[] page = StoreRig.Page(content);
                writer.Add(ChunkId.Of(page), page, ChunkGroup.Memory);
            }

            writer.Flush();
        }

        byte[] pack = storage.Objects.First(one => one.Key.StartsWith("packs/", StringComparison.Ordinal)).Value;
        pack[2000] ^= 1;
        var damages = new List<ChunkDamage>();
        using StoreReader reader = store.OpenReader();
        reader.Damaged += damages.Add;
        foreach (int content in memory)
        {
            Assert.Equal(StoreRig.Page(content), reader.Read(ChunkId.Of(StoreRig.Page(content))));
        }

        Assert.All(damages, damage => Assert.True(damage.HasTwin));
        VerificationReport report = new StoreVerifier(store, StoreRig.Signer, rig.Options).Run(contents: true, null);
        Assert.Empty(report.Lost);
    }

    [Fact]
    public void A_lost_chunk_is_named_and_put_again_from_elsewhere()
    {
        var storage = new MemoryStorage();
        var rig = new StoreRig(storage);
        int[] memory = [.. Enumerable.Range(1, 60)];
        rig.Suspend(rig.Open(), "p1", memory);
        byte[] pack = storage.Objects.First(one => one.Key.StartsWith("packs/", StringComparison.Ordinal)).Value;
        pack[2000] ^= 1;
        Store store = rig.Open();
        VerificationReport found = new StoreVerifier(store, StoreRig.Signer, rig.Options).Run(contents: true, null);
        Assert.NotEmpty(found.Lost);
        Assert.NotEmpty(found.Problems);
        var pages = memory.ToDictionary(content => ChunkId.Of(StoreRig.Page(content)), StoreRig.Page);
        VerificationReport repaired = new StoreVerifier(store, StoreRig.Signer, rig.Options)
            .Run(contents: true, id => pages.GetValueOrDefault(id));
        Assert.Empty(repaired.Lost);
        Assert.Equal(found.Lost.Count, repaired.Repaired);
        StoreRig.Expect(rig.Open(), "p1", memory);
    }

    [Fact]
    public void A_wrong_key_opens_nothing()
    {
        StoreRig rig = Rig(true);
        rig.Open();
        Assert.Contains("not this store's", Assert.Throws<StoreFormatException>(() => Store.Open(
            rig.Storage, new StoreKey(new byte[32]), () => null!)).Message, StringComparison.Ordinal);
        Assert.Contains("no key", Assert.Throws<StoreFormatException>(() => Store.Open(
            rig.Storage, null, () => null!)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void An_encrypted_store_shows_neither_contents_nor_their_names()
    {
        StoreRig rig = Rig(true);
        byte[] page = StoreRig.Page(7);
        rig.Suspend(rig.Open(), "p1", [7, 7, 0]);
        byte[] name = new byte[ChunkId.Size];
        ChunkId.Of(page).Write(name);
        Assert.All(((MemoryStorage)rig.Storage).Objects.Values, content =>
        {
            Assert.Equal(-1, content.AsSpan().IndexOf(page.AsSpan(0, 32)));
            Assert.Equal(-1, content.AsSpan().IndexOf(name));
        });
    }

    [Fact]
    public void A_full_store_says_so()
    {
        StoreRig rig = Rig(false);
        Store store = rig.Open();
        using var writer = new StoreWriter(store, rig.Options with { QuotaBytes = 200_000 });
        StorageException full = Assert.Throws<StorageException>(() =>
        {
            for (int i = 1; i < 1000; i++)
            {
                writer.Put(StoreRig.Page(i), ChunkGroup.Memory);
            }
        });
        Assert.Equal(StorageFailure.Full, full.Failure);
    }

    // Goal: a copy brings what is missing, also after a cut, and is read under the other store's key.
    [Fact]
    public void A_copy_brings_what_is_missing_and_goes_on_after_a_cut()
    {
        StoreRig left = Rig(false);
        Store from = left.Open();
        int[] memory = [.. Enumerable.Range(1, 600)];
        left.Suspend(from, "p1", memory);
        int[] later = [.. memory.Select(content => content % 50 == 0 ? content + 1000 : content)];
        left.Suspend(from, "p2", later, "p1");
        var storage = new MemoryStorage();
        var right = new StoreRig(storage, new StoreKey(SHA256.HashData("another key"u8)));
        Store to = right.Open();
        using (StoreSession cut = StoreSession.Begin(to, "s1", "b", 0, right.Fill))
        {
            storage.ChangesLeft = 2;
            Assert.Throws<StorageException>(() => new StoreCopier(from, to, StoreRig.Signer, right.Options)
                .Copy(StoreRig.Guest, "p1", cut));
            storage.ChangesLeft = int.MaxValue;
        }

        to = right.Open();
        using StoreSession session = StoreSession.Begin(to, "s2", "b", 0, right.Fill);
        var copier = new StoreCopier(from, to, StoreRig.Signer, right.Options);
        CopyReport first = copier.Copy(StoreRig.Guest, "p1", session);
        CopyReport second = copier.Copy(StoreRig.Guest, "p2", session);
        Assert.True(first.IsNew && second.IsNew);
        // 12 pages and the nodes above them.
        Assert.InRange(second.Chunks, 12, 60);
        Assert.False(copier.Copy(StoreRig.Guest, "p2", session).IsNew);
        StoreRig.Expect(right.Open(), "p1", memory);
        StoreRig.Expect(right.Open(), "p2", later);
    }

    // Goal: a session that a collector took for lost ends the work before anything counts on what may be gone.
    [Fact]
    public void A_session_that_was_removed_commits_nothing()
    {
        StoreRig left = Rig(false);
        Store from = left.Open();
        left.Suspend(from, "p1", [1, 2, 3]);
        StoreRig right = Rig(false);
        Store to = right.Open();
        using StoreSession session = StoreSession.Begin(to, "s1", "b", 0, right.Fill);
        session.RequireThere();
        StoreSession.RemoveLeftOvers(to, "b");
        Assert.Equal(StorageFailure.Changed, Assert.Throws<StorageException>(session.RequireThere).Failure);
        Assert.Throws<StorageException>(() => new StoreCopier(from, to, StoreRig.Signer, right.Options)
            .Copy(StoreRig.Guest, "p1", session));
        Assert.Empty(ParcelShelf.List(to));
    }

    // Goal: what is mounted over a store, or under it, is not taken for it.
    [Fact]
    public void Another_store_in_its_place_is_not_written_to()
    {
        StoreRig rig = Rig(false);
        Store store = rig.Open();
        rig.Storage.Delete("godwit-store");
        Assert.Equal(StorageFailure.Unreachable, Assert.Throws<StorageException>(store.Refresh).Failure);
        Store.Create(rig.Storage, "bbbbbbbb-0000-0000-0000-000000000000", null);
        Assert.Equal(StorageFailure.Changed, Assert.Throws<StorageException>(
            () => StoreSession.Begin(store, "s1", "a", 0, rig.Fill)).Failure);
        Assert.Empty(rig.Storage.List("sessions"));
    }

    [Fact]
    public void A_parcel_that_was_made_void_never_comes()
    {
        StoreRig rig = Rig(false);
        Store store = rig.Open();
        Assert.True(ParcelShelf.TryVoid(store, StoreRig.Guest, "p1"));
        Assert.True(ParcelShelf.TryVoid(store, StoreRig.Guest, "p1"));
        Assert.False(ParcelShelf.Put(store, StoreRig.Manifest("p1", default, 1), StoreRig.Signer, rig.Fill));
        Assert.Null(ParcelShelf.Find(store, StoreRig.Guest, "p1", StoreRig.Signer));
        rig.Suspend(store, "p2", [1]);
        Assert.False(ParcelShelf.TryVoid(store, StoreRig.Guest, "p2"));
    }

    // Goal: one that is damaged, void, longer than any or somebody else's is in nobody's way.
    [Fact]
    public void All_parcels_are_found_at_once()
    {
        const string Other = "cccccccc-0000-0000-0000-000000000000";
        StoreRig rig = Rig(false);
        Store store = rig.Open();
        // More than are read at a time.
        string[] ids = [.. Enumerable.Range(100, 70).Select(number => $"p{number}")];
        foreach (string id in ids)
        {
            Assert.True(ParcelShelf.Put(store, StoreRig.Manifest(id, default, 1), StoreRig.Signer, rig.Fill));
        }

        ParcelShelf.TryVoid(store, StoreRig.Guest, "p200");
        rig.Storage.PutIfAbsent($"parcels/{StoreRig.Guest}/p201", new byte[100]);
        rig.Storage.PutIfAbsent($"parcels/{StoreRig.Guest}/p202", new byte[1 << 20]);
        rig.Storage.PutIfAbsent($"parcels/{StoreRig.Guest}/p203", ReadOnlyMemory<byte>.Empty);
        rig.Storage.PutIfAbsent($"parcels/{Other}/p1", rig.Storage.TryReadAll($"parcels/{StoreRig.Guest}/p100")!.Value);
        rig.Storage.PutIfAbsent("parcels/.hidden", new byte[1]);
        IReadOnlyList<ShelvedParcel> mine = ParcelShelf.FindAll(store, StoreRig.Signer, StoreRig.Guest);
        Assert.Equal(ids, mine.Where(one => one.Refused is null).Select(one => one.Manifest!.Id).Order());
        Assert.Equal(
            ["p201", "p202", "p203"],
            mine.Where(one => one.Refused is not null).Select(one => one.Refused!.Parcel).Order());
        IReadOnlyList<ShelvedParcel> all = ParcelShelf.FindAll(store, StoreRig.Signer);
        Assert.Equal(Other, Assert.Single(all, one => one.Guest != StoreRig.Guest).Guest);
        Assert.Equal(mine.Count + 1, all.Count);
        Assert.Empty(ParcelShelf.FindAll(store, StoreRig.Signer, "dddddddd-0000-0000-0000-000000000000"));
    }

    [Fact]
    public void A_guest_is_claimed_once()
    {
        StoreRig rig = Rig(false);
        Store store = rig.Open();
        var ours = new ParcelClaim("p1", "b", 5);
        Assert.Null(ParcelShelf.TryClaim(store, StoreRig.Guest, 2, ours, rig.Fill));
        Assert.Equal(
            ours, ParcelShelf.TryClaim(store, StoreRig.Guest, 2, ours with { ClaimedUnixMs = 9 }, rig.Fill));
        Assert.Equal("b", ParcelShelf.TryClaim(store, StoreRig.Guest, 2, ours with { Host = "c" }, rig.Fill)!.Host);
        Assert.False(ParcelShelf.MayHaveRun(store, StoreRig.Guest, 2));
        ParcelShelf.NoteRun(store, StoreRig.Guest, 2, ours, rig.Fill);
        Assert.True(ParcelShelf.MayHaveRun(store, StoreRig.Guest, 2));
        ParcelShelf.Unclaim(store, StoreRig.Guest, 2);
        Assert.False(ParcelShelf.MayHaveRun(store, StoreRig.Guest, 2));
        Assert.Null(ParcelShelf.TryClaim(store, StoreRig.Guest, 2, ours with { Host = "c" }, rig.Fill));
    }

    // Goal: a length in a manifest takes no memory of whoever reads it.
    [Fact]
    public void A_tree_that_is_said_to_be_huge_is_refused_before_memory_is_taken()
    {
        StoreRig rig = Rig(false);
        Store store = rig.Open();
        ChunkId root = rig.Suspend(store, "p1", [1]).Memory[0].RootId;
        using StoreReader reader = store.OpenReader();
        Assert.Throws<StoreFormatException>(() => ChunkTree.Load(root, 1L << 36, reader));
        Assert.Throws<StoreFormatException>(() => ChunkTree.Load(root, ChunkTree.PagesMax + 1, reader));
    }

    // Goal: neither do a few nodes that name each other again and again. Method: seven of them, 2^28 pages.
    [Fact]
    public void A_tree_of_a_few_nodes_over_many_pages_takes_no_memory_for_them()
    {
        StoreRig rig = Rig(false);
        Store store = rig.Open();
        ChunkId page;
        ChunkId node;
        using (var writer = new StoreWriter(store, rig.Options))
        {
            page = node = writer.Put(StoreRig.Page(1), ChunkGroup.Memory);
            byte[] bytes = new byte[TreeNode.BytesMax];
            for (int level = 0; level < 7; level++)
            {
                ChunkId[] children = [.. Enumerable.Repeat(node, TreeNode.Fanout)];
                node = writer.Put(bytes.AsSpan(0, TreeNode.Write(level, children, bytes)), ChunkGroup.Nodes);
            }

            writer.Flush();
        }

        using StoreReader reader = store.OpenReader();
        long before = GC.GetAllocatedBytesForCurrentThread();
        foreach (TreePart part in ChunkTree.Parts(node, ChunkTree.PagesMax, reader).Take(3))
        {
            Assert.False(part.Pages.Span.ContainsAnyExcept(page));
        }

        Assert.Equal(page, ChunkTree.PageAt(node, ChunkTree.PagesMax, ChunkTree.PagesMax - 1, reader));
        long taken = GC.GetAllocatedBytesForCurrentThread() - before;
        Assert.True(taken < 64 << 20, $"{taken} bytes were taken");
    }

    [Theory]
    [InlineData(65_536)]
    [InlineData(65_537)]
    [InlineData(150_000)]
    public void A_tree_is_read_in_parts_without_a_gap(int pages)
    {
        StoreRig rig = Rig(false);
        Store store = rig.Open();
        // Zeros from somewhere to somewhere, and at the end.
        int[] memory = [.. Enumerable.Range(0, pages).Select(i => i is > 40_000 and < 140_000 ? 0 : i % 7)];
        ChunkId root = rig.Suspend(store, "p1", memory).Memory[0].RootId;
        StoreRig.Expect(store, "p1", memory);
        using StoreReader reader = store.OpenReader();
        ChunkId[] all = ChunkTree.Load(root, pages, reader);
        foreach (int page in (int[])[0, 1, 39_999, 65_535, pages - 1])
        {
            Assert.Equal(all[page], ChunkTree.PageAt(root, pages, page, reader));
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(16)]
    [InlineData(17)]
    [InlineData(256)]
    [InlineData(4097)]
    public void A_tree_covers_any_number_of_pages(int pages)
    {
        StoreRig rig = Rig(false);
        Store store = rig.Open();
        int[] memory = [.. Enumerable.Range(1, pages).Select(i => i % 5)];
        rig.Suspend(store, "p1", memory);
        StoreRig.Expect(rig.Open(), "p1", memory);
    }
}
