using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;

namespace Godwit.ChunkStore.Tests.Storage;

/// <summary>
/// What every storage has to do that a store lies in. An adapter's tests derive from this and say how two hosts reach
/// the same place.
/// </summary>
public abstract class StorageConformance
{
    private const string Id = "aaaaaaaa-0000-0000-0000-000000000000";

    /// <summary>The place as one host reaches it: empty, and ready to become a store.</summary>
    private protected abstract IObjectStorage Here { get; }

    /// <summary>The same place as another host reaches it.</summary>
    private protected abstract IObjectStorage There { get; }

    private void MakeStore() => Assert.True(Store.Create(Here, Id, null));

    [Fact]
    public void An_object_is_put_once_and_read_by_all()
    {
        MakeStore();
        Assert.True(Here.PutIfAbsent("parcels/g/p", new byte[] { 1, 2 }));
        Assert.False(Here.PutIfAbsent("parcels/g/p", new byte[] { 3 }));
        Assert.False(There.PutIfAbsent("parcels/g/p", new byte[] { 4, 5, 6 }));
        foreach (IObjectStorage storage in (IObjectStorage[])[Here, There])
        {
            Assert.Equal([1, 2], storage.TryReadAll("parcels/g/p")!.Value.ToArray());
            Assert.Null(storage.TryReadAll("parcels/g/q"));
            Assert.Null(storage.TryReadAll("parcels/h/q"));
            Assert.Equal(new StoredObject("parcels/g/p", 2), Assert.Single(storage.List("parcels")));
        }
    }

    [Fact]
    public void An_empty_object_is_an_object()
    {
        MakeStore();
        Assert.True(Here.PutIfAbsent("claims/g/1-run", default));
        Assert.False(There.PutIfAbsent("claims/g/1-run", new byte[] { 1 }));
        Assert.Equal(0, There.TryReadAll("claims/g/1-run")!.Value.Length);
        Assert.True(There.TryRead("claims/g/1-run", 0, []));
        Assert.False(There.TryRead("claims/g/2-run", 0, []));
        Assert.False(There.TryRead("claims/g/1-run", 0, new byte[1]));
        Assert.Equal(new StoredObject("claims/g/1-run", 0), Assert.Single(There.List("claims")));
    }

    // Goal: of all who put an object at the same time one succeeds, and its content is what all read.
    [Fact]
    public void Of_many_that_put_one_object_one_succeeds()
    {
        MakeStore();
        const int Rounds = 12;
        const int Writers = 8;
        for (int round = 0; round < Rounds; round++)
        {
            string name = $"claims/g/{round}";
            bool[] won = new bool[Writers];
            using var together = new Barrier(Writers);
            Exception? failure = null;
            Thread[] writers = [.. Enumerable.Range(0, Writers).Select(i => new Thread(() =>
            {
                together.SignalAndWait();
                try
                {
                    won[i] = (i % 2 == 0 ? Here : There).PutIfAbsent(name, new byte[] { (byte)i, (byte)round });
                }
                catch (Exception e)
                {
                    // Thrown out of a thread it would end all tests.
                    failure = e;
                }
            }))];
            Array.ForEach(writers, writer => writer.Start());
            Array.ForEach(writers, writer => writer.Join());
            Assert.True(failure is null, $"{failure}");
            byte winner = (byte)Array.IndexOf(won, true);
            Assert.Equal(1, won.Count(one => one));
            Assert.Equal([winner, (byte)round], Here.TryReadAll(name)!.Value.ToArray());
            Assert.Equal([winner, (byte)round], There.TryReadAll(name)!.Value.ToArray());
        }
    }

    [Fact]
    public void What_nobody_wants_any_more_leaves_no_trace()
    {
        MakeStore();
        int asked = 0;
        Assert.Throws<StorageException>(() => Here.PutIfAbsent("parcels/g/p", new byte[] { 1 }, () =>
        {
            asked++;
            return false;
        }));
        Assert.Equal(1, asked);
        Assert.Null(There.TryReadAll("parcels/g/p"));
        Assert.Empty(There.List("parcels"));
        Assert.True(There.PutIfAbsent("parcels/g/p", new byte[] { 2 }, () => true));
        Assert.Equal([2], Here.TryReadAll("parcels/g/p")!.Value.ToArray());
    }

    [Fact]
    public void A_part_is_read_if_all_of_it_is_there()
    {
        MakeStore();
        byte[] content = new byte[100_000];
        new Random(1).NextBytes(content);
        Here.PutIfAbsent("packs/aa/aab", content);
        byte[] part = new byte[5000];
        foreach (int offset in (int[])[0, 1, 65_535, 95_000])
        {
            Assert.True(There.TryRead("packs/aa/aab", offset, part));
            Assert.Equal(content[offset..(offset + part.Length)], part);
        }

        Assert.False(There.TryRead("packs/aa/aab", 95_001, part));
        Assert.False(There.TryRead("packs/aa/aab", 100_000, part));
        Assert.False(There.TryRead("packs/aa/aab", 1L << 40, part));
        Assert.False(There.TryRead("packs/aa/aac", 0, part));
    }

    // Goal: a reader that keeps objects open, and reads several at a time, reads what a single read does.
    // Method: more parts than are read at a time, of two objects, some of them past an end or of no object.
    [Fact]
    public void Parts_are_read_together()
    {
        MakeStore();
        byte[] content = new byte[100_000];
        new Random(1).NextBytes(content);
        Here.PutIfAbsent("packs/aa/aab", content);
        Here.PutIfAbsent("packs/ab/aba", content.AsMemory(50_000));
        using IPartReader reader = There.OpenParts();
        for (int again = 0; again < 2; again++)
        {
            var parts = new List<ObjectPart>();
            for (int offset = 0; offset < 100_000; offset += 3000)
            {
                parts.Add(new ObjectPart("packs/aa/aab", offset, new byte[5000]));
                parts.Add(new ObjectPart("packs/ab/aba", offset, new byte[5000]));
                parts.Add(new ObjectPart("packs/ab/abb", offset, new byte[5000]));
            }

            reader.Read(parts);
            foreach (ObjectPart part in parts)
            {
                int start = (int)part.Offset + (part.Name == "packs/ab/aba" ? 50_000 : 0);
                bool isThere = part.Name != "packs/ab/abb" && start <= 95_000;
                Assert.Equal(isThere, part.IsThere);
                Assert.True(!isThere || part.Into.Span.SequenceEqual(content.AsSpan(start, 5000)));
            }
        }
    }

    // Goal: packs and large indexes come back as they went.
    [Fact]
    public void A_large_object_is_whole()
    {
        MakeStore();
        byte[] content = new byte[(24 << 20) + 17];
        new Random(2).NextBytes(content);
        Assert.True(Here.PutIfAbsent("indexes/a", content.AsMemory(1)));
        Assert.True(There.TryReadAll("indexes/a")!.Value.Span.SequenceEqual(content.AsSpan(1)));
        Assert.Equal(content.Length - 1, Assert.Single(There.List("indexes")).Bytes);
    }

    // Goal: a listing has everything, however much it is, and nothing of a folder whose name begins alike.
    [Fact]
    public void A_listing_has_all_of_a_folder_and_nothing_else()
    {
        MakeStore();
        const int Objects = 1100;
        Parallel.For(0, Objects, new ParallelOptions { MaxDegreeOfParallelism = 8 }, i =>
            Here.PutIfAbsent($"packs/{i % 7:x2}/{i}", new byte[i % 5]));
        Here.PutIfAbsent("packs-of-another/00/1", new byte[1]);
        Here.PutIfAbsent("pack", new byte[1]);
        IReadOnlyList<StoredObject> listed = There.List("packs");
        Assert.Equal(
            Enumerable.Range(0, Objects).Select(i => new StoredObject($"packs/{i % 7:x2}/{i}", i % 5)).ToHashSet(),
            listed.ToHashSet());
        Assert.Equal(Objects, listed.Count);
        Assert.Empty(There.List("sessions"));
    }

    [Fact]
    public void What_was_removed_is_gone_and_can_be_put_again()
    {
        MakeStore();
        Here.PutIfAbsent("sessions/s", new byte[] { 1 });
        There.Delete("sessions/s");
        There.Delete("sessions/s");
        There.Delete("waits/none");
        Assert.Null(Here.TryReadAll("sessions/s"));
        Assert.Empty(Here.List("sessions"));
        Assert.False(Here.TryRead("sessions/s", 0, new byte[1]));
        Assert.True(Here.PutIfAbsent("sessions/s", new byte[] { 2 }));
        Assert.Equal([2], There.TryReadAll("sessions/s")!.Value.ToArray());
    }

    // Goal: what a suspend, a forgetting and a collection make of the place is a store to another host at every step.
    [Fact]
    public void A_guest_sleeps_in_it_and_what_is_not_needed_is_collected()
    {
        int[] first = [.. Enumerable.Range(1, 600)];
        int[] second = [.. first[..300], .. Enumerable.Range(5000, 300)];
        var rig = new StoreRig(Here);
        Store store = rig.Open();
        rig.Suspend(store, "1r0000000001", first);
        Store other = Store.Open(There, null, () => new Godwit.Host.Storage.SegmentCoder());
        StoreRig.Expect(other, "1r0000000001", first);
        rig.Suspend(store, "1r0000000002", second, "1r0000000001");
        ParcelShelf.Remove(other, StoreRig.Guest, "1r0000000001");
        for (int run = 0; run < 2; run++)
        {
            new StoreCollector(other, StoreRig.Signer, rig.Options).Run($"run{run}", "b", 1);
        }

        store.Refresh();
        StoreRig.Expect(store, "1r0000000002", second);
        var verified = new StoreVerifier(store, StoreRig.Signer, rig.Options).Run(contents: true, null);
        Assert.Empty(verified.Problems);
    }
}
