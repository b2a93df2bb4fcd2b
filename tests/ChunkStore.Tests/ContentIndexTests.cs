using CsCheck;

namespace Godwit.ChunkStore.Tests;

public class ContentIndexTests
{
    private static readonly IndexSubject _subject = new(ContentName.Of("disk"u8), 1 << 20, 42, "/images/größe.raw");

    [Fact]
    public void Finds_every_block_and_nothing_else() => Gen.Int[0, 400].Sample(
        count =>
        {
            var builder = new ContentIndexBuilder();
            for (uint block = 0; block < count; block++)
            {
                builder.Add(block * 3, Block(block));
            }

            ContentIndex index = Open(builder.Build(_subject));
            Assert.Equal(count, index.Count);
            for (uint block = 0; block < count + 20; block++)
            {
                bool found = index.TryFind(ContentName.Of(Block(block)), out uint at);
                Assert.Equal(block < count, found);
                Assert.Equal(found ? block * 3 : 0, at);
            }
        },
        iter: 50);

    [Fact]
    public void Names_at_both_ends_are_found()
    {
        var builder = new ContentIndexBuilder();
        builder.Add(7, Block(1));
        ContentIndex index = Open(builder.Build(_subject));
        Assert.False(index.TryFind(new ContentName(0), out _));
        Assert.False(index.TryFind(new ContentName(UInt128.MaxValue), out _));
        Assert.True(index.TryFind(ContentName.Of(Block(1)), out uint block));
        Assert.Equal(7U, block);
    }

    [Fact]
    public void Keeps_the_first_of_equal_blocks_and_no_zeros()
    {
        var builder = new ContentIndexBuilder();
        builder.Add(0, new byte[ContentIndex.BlockBytes]);
        builder.Add(9, Block(5));
        builder.Add(4, Block(5));
        ContentIndex index = Open(builder.Build(_subject));
        Assert.Equal(1, index.Count);
        Assert.True(index.TryFind(ContentName.Of(Block(5)), out uint block));
        Assert.Equal(4U, block);
        Assert.Equal(Fingerprint.Of(Block(5)), BitConverter.ToUInt64(index.Fingerprints.Span));
        Assert.Equal(_subject, index.Subject);
    }

    [Fact]
    public void Takes_in_no_more_than_it_may()
    {
        var builder = new ContentIndexBuilder(blocksMax: 3);
        for (uint block = 0; block < 10; block++)
        {
            builder.Add(block, Block(block));
        }

        Assert.True(builder.IsFull);
        Assert.Equal(3, Open(builder.Build(_subject)).Count);
    }

    // Goal: an index that is not byte for byte what was written is never used.
    // Method: every byte of a small index is changed in turn, and the file is cut at every length.
    [Fact]
    public void Any_damage_is_noticed()
    {
        var builder = new ContentIndexBuilder();
        builder.Add(0, Block(0));
        builder.Add(1, Block(1));
        byte[] good = builder.Build(_subject);
        for (int i = 0; i < good.Length; i++)
        {
            byte[] bad = [.. good];
            bad[i] ^= 0x40;
            Assert.False(ContentIndex.TryOpen(bad, out _, out string why), $"byte {i} may be anything");
            Assert.NotEqual("", why);
            Assert.False(ContentIndex.TryOpen(good.AsMemory(0, i), out _, out _), $"{i} bytes are enough");
        }

        Assert.False(ContentIndex.TryOpen((byte[])[.. good, 0], out _, out _));
        Assert.True(ContentIndex.TryOpen(good, out _, out _));
    }

    [Fact]
    public void Another_version_says_so()
    {
        byte[] bytes = new ContentIndexBuilder().Build(_subject);
        bytes[4] = 9;
        Assert.False(ContentIndex.TryOpen(bytes, out _, out string why));
        Assert.Equal("it is of version 9; this build reads version 1", why);
    }

    private static ContentIndex Open(byte[] bytes)
    {
        Assert.True(ContentIndex.TryOpen(bytes, out ContentIndex? index, out string why), why);
        return index!;
    }

    private static byte[] Block(uint seed)
    {
        byte[] block = new byte[ContentIndex.BlockBytes];
        new Random((int)seed).NextBytes(block);
        return block;
    }
}
