using CsCheck;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;

namespace Godwit.ChunkStore.Tests.Storage;

public class CollectorTests
{
    private static readonly int[] First = [.. Enumerable.Range(1, 200)];
    private static readonly int[] Second = [.. Enumerable.Range(150, 200)];

    private static CollectionReport Collect(StoreRig rig, Store store, string id, long now = 0) =>
        new StoreCollector(store, StoreRig.Signer, rig.Options).Run(id, "a", now);

    [Fact]
    public void What_no_parcel_names_goes_and_nothing_else()
    {
        var storage = new MemoryStorage();
        var rig = new StoreRig(storage);
        Store store = rig.Open();
        rig.Suspend(store, "p1", First);
        rig.Suspend(store, "p2", Second);
        long before = StoreUse.Of(storage).PackBytes;
        ParcelShelf.Remove(store, StoreRig.Guest, "p1");
        CollectionReport report = Collect(rig, store, "g1");
        Assert.True(report.PacksRemoved > 0);
        StoreRig.Expect(rig.Open(), "p2", Second);
        Assert.True(StoreUse.Of(storage).PackBytes < before);
        ParcelShelf.Remove(store, StoreRig.Guest, "p2");
        Collect(rig, store, "g2");
        Assert.Equal(0, StoreUse.Of(storage).PackBytes);
        Assert.Empty(storage.List("condemned"));
        Assert.Empty(storage.List("waits"));
        Assert.Empty(storage.List("sessions"));
    }

    // Goal: a store may grow beyond what one index can hold; so none but those that name what goes are written again.
    [Fact]
    public void An_index_of_packs_that_stay_is_left_alone()
    {
        var storage = new MemoryStorage();
        var rig = new StoreRig(storage);
        Store store = rig.Open();
        rig.Suspend(store, "p1", First);
        string[] kept = [.. storage.List("indexes").Select(one => one.Name)];
        int[] other = [.. Enumerable.Range(1000, 200)];
        rig.Suspend(store, "p2", other);
        rig.Suspend(store, "p3", [.. other, .. Enumerable.Range(2000, 50)]);
        ParcelShelf.Remove(store, StoreRig.Guest, "p2");
        ParcelShelf.Remove(store, StoreRig.Guest, "p3");
        Assert.True(Collect(rig, store, "g1").PacksRemoved > 1);
        Assert.Equal(kept, storage.List("indexes").Select(one => one.Name));
        StoreRig.Expect(rig.Open(), "p1", First);
    }

    // Goal: a writer that found a chunk before its pack was condemned keeps it.
    [Fact]
    public void A_session_keeps_what_it_may_have_built_on()
    {
        var storage = new MemoryStorage();
        var rig = new StoreRig(storage);
        Store collecting = rig.Open();
        rig.Suspend(collecting, "p1", First);
        Store writing = rig.Open();
        using StoreSession session = StoreSession.Begin(writing, "s1", "b", 0, rig.Fill);
        using var writer = new StoreWriter(writing, rig.Options);
        ChunkId known = writer.Put(StoreRig.Page(5), ChunkGroup.Memory);
        Assert.Equal(0, writer.ChunksNew);
        ParcelShelf.Remove(collecting, StoreRig.Guest, "p1");
        Assert.True(Collect(rig, collecting, "g1").Waiting > 0);
        // A new one does not build on what is condemned.
        using (var later = new StoreWriter(rig.Open(), rig.Options))
        {
            later.Put(StoreRig.Page(5), ChunkGroup.Memory);
            Assert.Equal(1, later.ChunksNew);
        }

        writer.Flush();
        ChunkId root = Trees.ChunkTree.Build([known], node => writer.Put(node, ChunkGroup.Nodes));
        writer.Flush();
        ParcelShelf.Put(writing, StoreRig.Manifest("p2", root, 1), StoreRig.Signer, rig.Fill);
        session.Dispose();
        Collect(rig, collecting, "g2");
        StoreRig.Expect(rig.Open(), "p2", [5]);
        // The rest of what was condemned is waste again, and goes.
        Collect(rig, collecting, "g3");
        StoreRig.Expect(rig.Open(), "p2", [5]);
    }

    [Fact]
    public void A_session_that_never_ended_is_waited_for_a_day()
    {
        var storage = new MemoryStorage();
        var rig = new StoreRig(storage);
        Store store = rig.Open();
        rig.Suspend(store, "p1", First);
        StoreSession.Begin(store, "lost", "b", 0, rig.Fill);
        ParcelShelf.Remove(store, StoreRig.Guest, "p1");
        Assert.Equal(1, Collect(rig, store, "g1").Waiting);
        Assert.Equal(0, Collect(rig, store, "g2", 1000).PacksRemoved);
        Assert.True(Collect(rig, store, "g3", (long)TimeSpan.FromHours(25).TotalMilliseconds).PacksRemoved > 0);
    }

    [Fact]
    public void A_manifest_that_cannot_be_read_keeps_everything()
    {
        var storage = new MemoryStorage();
        var rig = new StoreRig(storage);
        Store store = rig.Open();
        rig.Suspend(store, "p1", First);
        rig.Suspend(store, "p2", Second);
        storage.Objects.First(one => one.Key.StartsWith("parcels/", StringComparison.Ordinal)).Value[100] ^= 1;
        Assert.Throws<ParcelRefusedException>(() => Collect(rig, store, "g1"));
        StoreRig.Expect(rig.Open(), "p2", Second);
    }

    [Fact]
    public void A_manifest_that_is_listed_and_said_not_to_be_there_keeps_everything()
    {
        var storage = new MemoryStorage();
        var rig = new StoreRig(storage);
        Store store = rig.Open();
        rig.Suspend(store, "p1", First);
        storage.Misses = name => name.StartsWith("parcels/", StringComparison.Ordinal);
        Assert.Throws<StorageException>(() => Collect(rig, store, "g1"));
        storage.Misses = _ => false;
        StoreRig.Expect(rig.Open(), "p1", First);
        Assert.True(ParcelShelf.TryVoid(store, StoreRig.Guest, "p2"));
        Collect(rig, store, "g2");
        StoreRig.Expect(rig.Open(), "p1", First);
    }

    // Goal: what was repaired is kept, whichever copy a listing shows first; the damaged pack goes and is not reported
    // again.
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void What_was_repaired_stays_and_what_is_damaged_goes(bool backwards)
    {
        var storage = new MemoryStorage { ListsBackwards = backwards };
        var rig = new StoreRig(storage);
        int[] memory = [.. Enumerable.Range(1, 60)];
        rig.Suspend(rig.Open(), "p1", memory);
        (string damaged, byte[] pack) =
            storage.Objects.First(one => one.Key.StartsWith("packs/", StringComparison.Ordinal));
        pack[2000] ^= 1;
        var pages = memory.ToDictionary(content => ChunkId.Of(StoreRig.Page(content)), StoreRig.Page);
        VerificationReport repaired = new StoreVerifier(rig.Open(), StoreRig.Signer, rig.Options)
            .Run(contents: true, id => pages.GetValueOrDefault(id));
        Assert.True(repaired.Repaired > 0);
        Assert.Empty(new StoreVerifier(rig.Open(), StoreRig.Signer, rig.Options).Run(contents: true, null).Problems);
        Collect(rig, rig.Open(), "g1");
        StoreRig.Expect(rig.Open(), "p1", memory);
        Collect(rig, rig.Open(), "g2");
        StoreRig.Expect(rig.Open(), "p1", memory);
        Assert.DoesNotContain(damaged, storage.Objects.Keys);
    }

    // Goal: without anybody taking a damaged pack out of use, a collection keeps the good copy.
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_chunk_that_lies_in_two_packs_is_kept_in_both(bool backwards)
    {
        var storage = new MemoryStorage { ListsBackwards = backwards };
        var rig = new StoreRig(storage);
        rig.Suspend(rig.Open(), "p1", First);
        PutAgain(rig, First);
        storage.Objects.First(one => one.Key.StartsWith("packs/", StringComparison.Ordinal)).Value[2000] ^= 1;
        Collect(rig, rig.Open(), "g1");
        StoreRig.Expect(rig.Open(), "p1", First);
    }

    // Goal: of two that collect at the same time none removes what the other one has kept.
    // Method: two packs with the same chunks are both condemned and may go; the second run happens in the middle of the
    // first, with its listings in the other order.
    [Fact]
    public void Two_collections_at_once_leave_one_copy()
    {
        var storage = new MemoryStorage();
        var rig = new StoreRig(storage);
        rig.Suspend(rig.Open(), "p1", First);
        PutAgain(rig, First);
        Store store = rig.Open();
        StoreCollector.Condemn(store, "both", store.Packs, rig.Fill);
        storage.Deleting = _ =>
        {
            storage.Deleting = null;
            storage.ListsBackwards = true;
            Assert.True(Collect(rig, rig.Open(), "inner").Waiting > 0);
        };
        Collect(rig, rig.Open(), "outer");
        Assert.True(storage.ListsBackwards);
        StoreRig.Expect(rig.Open(), "p1", First);
        Collect(rig, rig.Open(), "last");
        StoreRig.Expect(rig.Open(), "p1", First);
    }

    private static void PutAgain(StoreRig rig, int[] memory)
    {
        using var writer = new StoreWriter(rig.Open(), rig.Options);
        foreach (int content in memory)
        {
            byte[] page = StoreRig.Page(content);
            writer.Add(ChunkId.Of(page), page, ChunkGroup.Memory);
        }

        writer.Flush();
    }

    // Goal: power that goes at any point of suspending and collecting loses no earlier and no acknowledged parcel.
    // Method: the story is played once to count its changes, then once for each of them, cut off there; then a new
    // process reads everything that was acknowledged, collects, and reads it again.
    [Fact]
    public void Power_that_goes_at_any_point_loses_nothing_acknowledged()
    {
        int changes = Play(int.MaxValue, []).Changes;
        Assert.True(changes > 30);
        for (int cut = 0; cut < changes; cut++)
        {
            Dictionary<string, int[]> acknowledged = [];
            MemoryStorage storage = Play(cut, acknowledged);
            storage.ChangesLeft = int.MaxValue;
            var rig = new StoreRig(storage);
            Store store = rig.Open();
            void ExpectAll()
            {
                foreach ((string id, int[] memory) in acknowledged)
                {
                    StoreRig.Expect(rig.Open(), id, memory);
                }
            }

            ExpectAll();
            StoreSession.RemoveLeftOvers(store, "a");
            Collect(rig, store, "later1");
            ExpectAll();
            Collect(rig, store, "later2");
            ExpectAll();
            rig.Suspend(store, "after", First);
            StoreRig.Expect(rig.Open(), "after", First);
            Assert.Empty(new StoreVerifier(rig.Open(), StoreRig.Signer, rig.Options).Run(true, null).Problems);
        }
    }

    private static MemoryStorage Play(int cut, Dictionary<string, int[]> acknowledged)
    {
        var storage = new MemoryStorage { ChangesLeft = cut };
        var rig = new StoreRig(storage);
        try
        {
            Store store = rig.Open();
            void Suspend(string id, int[] memory)
            {
                rig.Suspend(store, id, memory);
                acknowledged[id] = memory;
            }

            void Forget(string id)
            {
                // From here on nobody may count on it.
                acknowledged.Remove(id);
                ParcelShelf.Remove(store, StoreRig.Guest, id);
            }

            Suspend("p1", First);
            Suspend("p2", Second);
            Forget("p1");
            Collect(rig, store, "g1");
            int[] third = [.. Second.Select(content => content % 7 == 0 ? content + 1000 : content)];
            Suspend("p3", third);
            Forget("p2");
            Collect(rig, store, "g2");
            Suspend("p4", First);
            Collect(rig, store, "g3");
        }
        catch (StorageException)
        {
            // The cut.
        }

        return storage;
    }

    // Goal: hosts that suspend, forget and collect at random, each with its own view of the store, keep what they have.
    [Fact]
    public void Hosts_that_do_not_know_of_each_other_keep_what_they_have() =>
        Gen.Select(Gen.Int[0, 5], Gen.Int[0, 2], Gen.Int[1, 40]).Array[1, 40].Sample(steps =>
        {
            var storage = new MemoryStorage();
            var rig = new StoreRig(storage);
            Store[] hosts = [rig.Open(), rig.Open(), rig.Open()];
            Dictionary<string, int[]> kept = [];
            int number = 0;
            foreach ((int what, int host, int from) in steps)
            {
                number++;
                switch (what)
                {
                    case 0 or 1 or 2:
                        int[] memory = [.. Enumerable.Range(from, 40)];
                        rig.Suspend(hosts[host], $"p{number}", memory);
                        kept[$"p{number}"] = memory;
                        break;
                    case 3 when kept.Count > 0:
                        string id = kept.Keys.ElementAt(from % kept.Count);
                        kept.Remove(id);
                        ParcelShelf.Remove(hosts[host], StoreRig.Guest, id);
                        break;
                    default:
                        Collect(rig, hosts[host], $"g{number}");
                        break;
                }
            }

            foreach ((string id, int[] memory) in kept)
            {
                StoreRig.Expect(hosts[number % 3], id, memory);
                StoreRig.Expect(rig.Open(), id, memory);
            }
        }, iter: 60);
}
