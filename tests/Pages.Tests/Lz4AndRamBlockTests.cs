using CsCheck;

namespace Godwit.Pages.Tests;

public class Lz4Tests
{
    [Fact]
    public void Decoding_is_the_inverse_of_coding() =>
        Gen.Select(Gen.Int[0, 4], Gen.UInt, Gen.Int[1, Page.Size], Gen.Int[1, 9]).Sample(
            (kind, seed, length, acceleration) =>
            {
                byte[] source = PageBatchVersion1Tests.Content(kind, seed)[..length];
                byte[] coded = new byte[Lz4.CodedBytesMax(length)];
                int bytes = Lz4.Compress(source, coded, acceleration);
                Assert.InRange(bytes, 1, coded.Length);
                byte[] decoded = new byte[length];
                Assert.Equal(length, Lz4.Decompress(coded.AsSpan(0, bytes), decoded));
                Assert.Equal(source, decoded);
            });

    [Fact]
    public void What_does_not_fit_is_said_and_nothing_is_written_past_the_end()
    {
        byte[] source = PageBatchVersion1Tests.Content(4, 1);
        byte[] guarded = new byte[5000];
        guarded.AsSpan(100).Fill(0xA5);
        Assert.Equal(0, Lz4.Compress(source, guarded.AsSpan(0, 100)));
        byte[] coded = new byte[Lz4.CodedBytesMax(source.Length)];
        int bytes = Lz4.Compress(source, coded);
        Assert.Equal(-1, Lz4.Decompress(coded.AsSpan(0, bytes), guarded.AsSpan(0, 100)));
        Assert.Equal(-1, guarded.AsSpan(100).IndexOfAnyExcept((byte)0xA5));
        Assert.Equal(-1, Lz4.Decompress([], new byte[10]));
        Assert.Equal(0, Lz4.Compress([], new byte[10]));
    }

    [Fact]
    public void Forged_blocks_fail_without_writing_past_the_end()
    {
        var random = new Random(9);
        byte[] guarded = new byte[Page.Size + 64];
        int failed = 0;
        for (int run = 0; run < 20_000; run++)
        {
            byte[] forged = new byte[random.Next(1, 300)];
            random.NextBytes(forged);
            guarded.AsSpan(Page.Size).Fill(0xA5);
            int bytes = Lz4.Decompress(forged, guarded.AsSpan(0, Page.Size));
            Assert.InRange(bytes, -1, Page.Size);
            Assert.Equal(-1, guarded.AsSpan(Page.Size).IndexOfAnyExcept((byte)0xA5));
            failed += bytes < 0 ? 1 : 0;
        }

        Assert.True(failed > 10_000, $"only {failed} forged blocks failed");
    }

    [Fact]
    public void The_library_says_its_version() => Assert.InRange(Lz4.Version, 10900, 19999);
}

public class RamBlockTests
{
    [Theory]
    [InlineData(0, "pc.ram", 0)]
    [InlineData(0, "pc.ram", 4095)]
    [InlineData(0, "pc.ram", -4096)]
    [InlineData(0, "pc.ram", RamBlock.LengthMax + 4096)]
    [InlineData(0, "", 4096)]
    [InlineData(0, "a\nb", 4096)]
    [InlineData(0, "ä", 4096)]
    [InlineData(-1, "pc.ram", 4096)]
    [InlineData(RamBlock.CountMax, "pc.ram", 4096)]
    public void What_is_no_block_is_refused(int index, string name, long length)
    {
        Assert.NotNull(RamBlock.Refusal(index, name, length));
        Assert.Throws<ArgumentException>(() => new RamBlock(index, name, length));
    }

    [Fact]
    public void The_limits_themselves_are_allowed()
    {
        Assert.Null(RamBlock.Refusal(RamBlock.CountMax - 1, new string('x', 255), RamBlock.LengthMax));
        Assert.NotNull(RamBlock.Refusal(0, new string('x', 256), 4096));
        Assert.Equal(2, new RamBlock(0, "pc.ram", 8192).PageCount);
    }
}
