using CsCheck;

namespace Godwit.Cli.Tests;

public class UnitsTests
{
    [Theory]
    [InlineData("512MiB", 512ul << 20)]
    [InlineData("1.5GiB", 3ul << 29)]
    [InlineData("1.5 GiB", 3ul << 29)]
    [InlineData("2GB", 2_000_000_000ul)]
    [InlineData("4096B", 4096ul)]
    [InlineData("1tib", 1ul << 40)]
    [InlineData("0.5KiB", 512ul)]
    public void Sizes_are_read(string text, ulong bytes)
    {
        Assert.True(Units.TryReadBytes(text, out ulong read, out string error), error);
        Assert.Equal(bytes, read);
    }

    [Theory]
    [InlineData("400Mbit", 400_000_000ul)]
    [InlineData("1Gbit/s", 1_000_000_000ul)]
    [InlineData("1.5gbit", 1_500_000_000ul)]
    [InlineData("50MB/s", 400_000_000ul)]
    [InlineData("1MiB/s", 8ul << 20)]
    [InlineData("9600bit", 9600ul)]
    public void Rates_are_read_as_bits_per_second(string text, ulong bits)
    {
        Assert.True(Units.TryReadBitsPerSecond(text, out ulong read, out string error), error);
        Assert.Equal(bits, read);
    }

    [Theory]
    [InlineData("300ms", 300ul)]
    [InlineData("1.5s", 1500ul)]
    [InlineData("2m", 120_000ul)]
    [InlineData("2min", 120_000ul)]
    [InlineData("1h", 3_600_000ul)]
    [InlineData("1d", 86_400_000ul)]
    public void Durations_are_read_as_milliseconds(string text, ulong milliseconds)
    {
        Assert.True(Units.TryReadMilliseconds(text, out ulong read, out string error), error);
        Assert.Equal(milliseconds, read);
    }

    [Theory]
    [InlineData("512", "has no unit")]
    [InlineData("512M", "has the unit 'M'")]
    [InlineData("MiB", "must be a number and a unit")]
    [InlineData("-1GiB", "must be a number and a unit")]
    [InlineData("1,5GiB", "has the unit ',5GiB'")]
    [InlineData("1.2.3GiB", "must be a number and a unit")]
    [InlineData("0.3B", "finer than a size can be")]
    [InlineData("99999999999999999999TiB", "too large")]
    [InlineData("", "must be a number and a unit")]
    public void A_size_that_is_none_is_refused_by_what_was_read(string text, string says)
    {
        Assert.False(Units.TryReadBytes(text, out ulong read, out string error));
        Assert.Equal(0ul, read);
        Assert.Contains(says, error, StringComparison.Ordinal);
        Assert.StartsWith($"'{text}'", error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("400", "has no unit")]
    [InlineData("400Mb", "bit, kbit, Mbit, Gbit")]
    public void A_rate_that_is_none_is_refused_by_what_is_accepted(string text, string says)
    {
        Assert.False(Units.TryReadBitsPerSecond(text, out _, out string error));
        Assert.Contains(says, error, StringComparison.Ordinal);
    }

    // Goal: no text makes the readers throw, and whatever they accept they read exactly.
    [Fact]
    public void Any_text_is_read_or_refused()
    {
        Gen.String.Sample(text =>
        {
            foreach (bool read in (bool[])
            [
                Units.TryReadBytes(text, out _, out string size), size.Length > 0,
                Units.TryReadBitsPerSecond(text, out _, out string rate), rate.Length > 0,
                Units.TryReadMilliseconds(text, out _, out string time), time.Length > 0,
            ])
            {
                _ = read;
            }

            return Units.TryReadBytes(text, out _, out string error) == (error.Length == 0);
        });
    }

    [Fact]
    public void A_whole_number_of_every_unit_is_read_exactly()
    {
        Gen.Select(Gen.ULong[0, 1_000_000], Gen.Int[0, 3]).Sample((number, unit) =>
        {
            string text = $"{number}{(string[])["B", "KiB", "MiB", "GiB"] switch { var names => names[unit] }}";
            return Units.TryReadBytes(text, out ulong bytes, out _) && bytes == number << (10 * unit);
        });
    }

    [Theory]
    [InlineData(0, "0 B")]
    [InlineData(1023.9, "1 KiB")]
    [InlineData(1023, "1023 B")]
    [InlineData(900, "900 B")]
    [InlineData(1536, "1.5 KiB")]
    [InlineData(187_654_321, "179 MiB")]
    [InlineData(68719476736, "64 GiB")]
    public void Bytes_are_written_for_people(double bytes, string text) => Assert.Equal(text, Units.Bytes(bytes));

    [Fact]
    public void Wide_output_shows_both_units()
    {
        Assert.Equal("179 MiB (187654321 B)", Units.Bytes(187_654_321, wide: true));
        Assert.Equal("400 Mbit/s (47.7 MiB/s)", Units.BitsPerSecond(400e6, wide: true));
        Assert.Equal("1 MiB/s (8.4 Mbit/s)", Units.BytesPerSecond(1 << 20, wide: true));
    }

    [Theory]
    [InlineData(0.087, "87 ms")]
    [InlineData(0.9996, "1.0 s")]
    [InlineData(12.34, "12.3 s")]
    [InlineData(59.96, "1 m 00 s")]
    [InlineData(125, "2 m 05 s")]
    [InlineData(3599.6, "1 h 00 m")]
    [InlineData(3840, "1 h 04 m")]
    public void Durations_are_written_for_people(double seconds, string text) =>
        Assert.Equal(text, Units.Duration(seconds));

    [Theory]
    [InlineData(0, "0 ms")]
    [InlineData(87.25, "87.3 ms")]
    [InlineData(99.96, "100 ms")]
    [InlineData(210, "210 ms")]
    [InlineData(12000, "12.0 s")]
    public void Pauses_are_written_for_people(double milliseconds, string text) =>
        Assert.Equal(text, Units.Pause(milliseconds));
}
