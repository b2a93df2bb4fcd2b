using CsCheck;

namespace Godwit.ChunkStore.Tests;

public class FingerprintSetTests
{
    [Fact]
    public void Is_a_set_that_remembers_the_first_origin() =>
        Gen.Select(Gen.ULong[0, 4000].Select(n => n * 4), Gen.Int[0, FingerprintSet.Origins - 1]).List[0, 3000].Sample(
            added =>
            {
                var set = new FingerprintSet(1 << 20);
                Dictionary<ulong, int> model = [];
                foreach ((ulong fingerprint, int origin) in added)
                {
                    // 0 and 4 share a slot's key, as any two may that differ in their last two bits.
                    ulong key = Math.Max(4, fingerprint);
                    Assert.Equal(model.TryAdd(key, origin), set.Add(fingerprint, origin));
                }

                Assert.Equal(model.Count, set.Count);
                for (ulong key = 4; key <= 16_400; key += 4)
                {
                    Assert.Equal(model.GetValueOrDefault(key, -1), set.Find(key));
                }
            },
            iter: 30);

    [Fact]
    public void Is_bounded()
    {
        var set = new FingerprintSet(100);
        for (ulong i = 1; i <= 1000; i++)
        {
            set.Add(i * 1024, 1);
        }

        Assert.Equal(100, set.Count);
        Assert.Equal(1, set.Find(100 * 1024));
        Assert.Equal(-1, set.Find(101 * 1024));
        set.Clear();
        Assert.Equal(0, set.Count);
        Assert.Equal(-1, set.Find(100 * 1024));
    }

    // Goal: lanes look up while the control lane adds, without a lock.
    // Method: one thread adds in order while another looks for what has been announced as added; nothing may be missed.
    [Fact]
    public void Finds_what_was_added_before_while_more_is_added()
    {
        var set = new FingerprintSet(1 << 20);
        ulong added = 0;
        var adding = new Thread(() =>
        {
            for (ulong i = 1; i <= 200_000; i++)
            {
                set.Add(Fingerprint.Of(BitConverter.GetBytes(i)), 2);
                Volatile.Write(ref added, i);
            }
        });
        adding.Start();
        ulong seen;
        do
        {
            seen = Volatile.Read(ref added);
            for (ulong i = seen; i > 0 && i > seen - Math.Min(seen, 50); i--)
            {
                Assert.Equal(2, set.Find(Fingerprint.Of(BitConverter.GetBytes(i))));
            }
        }
        while (seen < 200_000);
        adding.Join();
    }

    [Fact]
    public void A_look_up_allocates_nothing()
    {
        var set = new FingerprintSet(10_000);
        byte[] page = new byte[4096];
        new Random(1).NextBytes(page);
        set.Add(Fingerprint.Of(page), 0);
        Assert.Equal(0, set.Find(Fingerprint.Of(page)));
        ContentName.Of(page);
        long least = Allocations.Least(() =>
        {
            for (int i = 0; i < 1000; i++)
            {
                set.Find(Fingerprint.Of(page));
                ContentName.Of(page);
            }
        });
        Assert.Equal(0, least);
    }
}
