using System.Security.Cryptography;
using Godwit.ChunkStore.Packs;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;

namespace Godwit.ChunkStore.Tests.Storage;

/// <summary>What a store is worth when one of its objects is damaged, and how it becomes whole again.</summary>
public class DamageTests
{
    private static readonly int[] First = [.. Enumerable.Range(1, 300)];
    private static readonly int[] Second = [.. Enumerable.Range(1000, 300)];

    private static VerificationReport Verify(StoreRig rig, ChunkRescue? rescue = null) =>
        new StoreVerifier(rig.Open(), StoreRig.Signer, rig.Options).Run(contents: true, rescue);

    private static CollectionReport Collect(StoreRig rig, string id, long now = 0) =>
        new StoreCollector(rig.Open(), StoreRig.Signer, rig.Options).Run(id, "a", now);

    private static string Flip(MemoryStorage storage, string folder)
    {
        (string name, byte[] content) =
            storage.Objects.First(one => one.Key.StartsWith(folder + "/", StringComparison.Ordinal));
        content[^5] ^= 1;
        return name;
    }

    // Goal: a damaged index takes nothing away: what it said is read from the packs, and verify puts it again.
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_damaged_index_is_made_again_from_its_packs(bool encrypted)
    {
        var storage = new MemoryStorage();
        var rig = new StoreRig(storage, encrypted ? new StoreKey(SHA256.HashData("a key"u8)) : null);
        rig.Suspend(rig.Open(), "p1", First);
        string broken = Flip(storage, "indexes");
        Store store = rig.Open();
        StoreRig.Expect(store, "p1", First);
        rig.Suspend(store, "p2", Second);
        Assert.Equal(broken, Assert.Throws<StoreFormatException>(() => Collect(rig, "g1")).What);
        StoreRig.Expect(rig.Open(), "p1", First);
        VerificationReport checkedOnly = new StoreVerifier(rig.Open(), StoreRig.Signer, rig.Options).Run(false, null);
        Assert.Contains(checkedOnly.Problems, problem => problem.Contains(broken, StringComparison.Ordinal));
        Assert.Equal(1, checkedOnly.Unrepaired);

        VerificationReport report = Verify(rig);
        Assert.Contains(report.Problems, problem => problem.Contains(broken, StringComparison.Ordinal));
        Assert.Equal(0, report.Unrepaired);
        Assert.DoesNotContain(broken, storage.Objects.Keys);
        Assert.Empty(Verify(rig).Problems);
        Collect(rig, "g2");
        StoreRig.Expect(rig.Open(), "p1", First);
        StoreRig.Expect(rig.Open(), "p2", Second);
    }

    [Fact]
    public void An_index_that_was_removed_is_made_again()
    {
        var storage = new MemoryStorage();
        var rig = new StoreRig(storage);
        rig.Suspend(rig.Open(), "p1", First);
        storage.Delete(storage.List("indexes")[0].Name);
        Assert.Equal(0, Verify(rig).Unrepaired);
        StoreRig.Expect(rig.Open(), "p1", First);
    }

    [Fact]
    public void What_is_no_index_is_passed_over()
    {
        var storage = new MemoryStorage();
        var rig = new StoreRig(storage);
        rig.Suspend(rig.Open(), "p1", First);
        storage.PutIfAbsent("indexes/.nfs0001", new byte[9]);
        Assert.Empty(Verify(rig).Problems);
        Collect(rig, "g1");
        StoreRig.Expect(rig.Open(), "p1", First);
    }

    // Goal: while it is not known what is condemned nobody builds on anything, and nothing is removed.
    [Fact]
    public void A_damaged_condemnation_stops_building_and_not_reading()
    {
        var storage = new MemoryStorage();
        var rig = new StoreRig(storage);
        rig.Suspend(rig.Open(), "p1", First);
        Store store = rig.Open();
        string note = StoreCollector.Condemn(store, "all", store.Packs, rig.Fill);
        storage.Objects[note][^5] ^= 0x80;
        StoreRig.Expect(rig.Open(), "p1", First);
        Assert.False(rig.Open().Contains(ChunkId.Of(StoreRig.Page(1))));
        Assert.Equal(note, Assert.Throws<StoreFormatException>(() => Collect(rig, "g1")).What);
        // A collection that has read the note may be removing.
        using (StoreSession.Begin(rig.Open(), "gc-other", "b", 0, rig.Fill))
        {
            Assert.Equal(1, Verify(rig).Unrepaired);
        }

        Assert.Equal(0, Verify(rig).Unrepaired);
        Assert.True(rig.Open().Contains(ChunkId.Of(StoreRig.Page(1))));
        Collect(rig, "g2");
        StoreRig.Expect(rig.Open(), "p1", First);
    }

    [Fact]
    public void A_damaged_wait_is_begun_again()
    {
        var storage = new MemoryStorage();
        var rig = new StoreRig(storage);
        Store store = rig.Open();
        rig.Suspend(store, "p1", First);
        using (StoreSession.Begin(rig.Open(), "s1", "b", 0, rig.Fill))
        {
            ParcelShelf.Remove(store, StoreRig.Guest, "p1");
            Assert.Equal(1, Collect(rig, "g1").Waiting);
            Flip(storage, "waits");
            Assert.Throws<StoreFormatException>(() => Collect(rig, "g2"));
            Assert.Equal(0, Verify(rig).Unrepaired);
            Assert.Equal(1, Collect(rig, "g3").Waiting);
        }

        Assert.True(Collect(rig, "g4").PacksRemoved > 0);
    }

    // Goal: a session that nobody can read counts, and not for ever.
    [Fact]
    public void A_damaged_session_counts_for_a_day_from_when_it_was_seen()
    {
        var storage = new MemoryStorage();
        var rig = new StoreRig(storage);
        Store store = rig.Open();
        rig.Suspend(store, "p1", First);
        StoreSession.Begin(store, "lost", "b", 0, rig.Fill);
        Flip(storage, "sessions");
        StoreSession.RemoveLeftOvers(store, "a");
        ParcelShelf.Remove(store, StoreRig.Guest, "p1");
        long later = (long)TimeSpan.FromDays(10).TotalMilliseconds;
        Assert.Equal(1, Collect(rig, "g1", later).Waiting);
        Assert.Equal(1, Collect(rig, "g2", later + 1000).Waiting);
        Assert.True(Collect(rig, "g3", later + (long)TimeSpan.FromHours(25).TotalMilliseconds).PacksRemoved > 0);
        Assert.Empty(storage.List("sessions"));
    }

    // Goal: a damaged node is put again and what is below it looked at; what stays lost is not outweighed by repairs.
    [Fact]
    public void A_damaged_node_is_put_again_or_stays_a_problem()
    {
        var storage = new MemoryStorage();
        var rig = new StoreRig(storage);
        var whole = new StoreRig(new MemoryStorage());
        ParcelManifest manifest = rig.Suspend(rig.Open(), "p1", First);
        whole.Suspend(whole.Open(), "p1", First);
        using StoreReader other = whole.Open().OpenReader();
        ChunkId node = manifest.Memory[0].RootId;
        Damage(rig, node);
        Damage(rig, ChunkId.Of(StoreRig.Page(7)));

        VerificationReport lost = Verify(rig, id => id == node ? null : other.Read(id));
        Assert.Equal([node], lost.Lost);
        Assert.Equal(1, lost.Unrepaired);
        VerificationReport repaired = Verify(rig, other.Read);
        Assert.Empty(repaired.Lost);
        Assert.Equal(0, repaired.Unrepaired);
        Assert.True(repaired.Repaired > 1, "the page below the node was not looked at");
        StoreRig.Expect(rig.Open(), "p1", First);
    }

    // The whole of the segment that it lies in.
    private static void Damage(StoreRig rig, ChunkId id)
    {
        (ChunkIndex index, int entry) = rig.Open().Find(id)[0];
        byte[] pack = ((MemoryStorage)rig.Storage).Objects[ObjectNames.Pack(index.Packs[index.PackOf(entry)])];
        pack[index.PlaceOf(entry).Offset + 8] ^= 0xFF;
    }
}
