namespace Godwit.Pages.Tests;

public class ZstdTests
{
    private readonly ZstdEncoder _encoder = new();
    private readonly ZstdDecoder _decoder = new();

    [Fact]
    public void The_library_is_there() => Assert.InRange(Zstd.Version, 10400, 19999);

    [Fact]
    public void Blocks_of_any_level_and_window_decode_in_order()
    {
        byte[] coded = new byte[ZstdEncoder.CodedBytesMax(256 << 10)];
        foreach ((int level, int window) in new[] { (1, 18), (1, 18), (-5, 20), (9, 25), (9, 25), (15, 21) })
        {
            byte[] raw = new byte[100_000 + (level * 100)];
            new Random(level).NextBytes(raw.AsSpan(0, 30_000));
            int length = _encoder.Compress(raw, coded, level, window);
            Assert.InRange(length, 1, 31_000);
            byte[] back = new byte[raw.Length + 1];
            Assert.True(_decoder.TryDecompress(coded.AsSpan(0, length), back));
            Assert.Equal(raw, back.AsSpan(0, raw.Length));
        }
    }

    [Fact]
    public void What_is_not_the_announced_length_is_refused()
    {
        byte[] raw = PageBatchVersion1Tests.Content(3, 1).Concat(new byte[5_904]).ToArray();
        byte[] coded = new byte[ZstdEncoder.CodedBytesMax(raw.Length)];
        int length = _encoder.Compress(raw, coded, 1, 20);
        foreach ((int from, int announced) in new[] { (length, 9_999), (length, 10_001), (length - 1, 10_000) })
        {
            Assert.False(_decoder.TryDecompress(coded.AsSpan(0, from), new byte[announced + 1]));
            _decoder.Reset();
        }

        Assert.True(_decoder.TryDecompress(coded.AsSpan(0, length), new byte[10_001]));
    }

    [Fact]
    public void Levels_and_windows_out_of_range_are_refused()
    {
        byte[] coded = new byte[1000];
        Assert.Throws<ArgumentOutOfRangeException>(() => _encoder.Compress([1], coded, 16, 20));
        Assert.Throws<ArgumentOutOfRangeException>(() => _encoder.Compress([1], coded, 1, 26));
        Assert.Throws<ArgumentOutOfRangeException>(() => _encoder.Compress(new byte[1000], coded, 1, 20));
    }
}
