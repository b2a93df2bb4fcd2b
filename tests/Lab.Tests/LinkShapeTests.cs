using Godwit.Lab.Network;

namespace Godwit.Lab.Tests;

public class LinkShapeTests
{
    [Theory]
    [InlineData("1Gbit", 1_000_000_000)]
    [InlineData("2.5Gbit", 2_500_000_000)]
    [InlineData("300Mbit", 300_000_000)]
    [InlineData("500kbit", 500_000)]
    [InlineData("unshaped", 0)]
    public void A_rate_is_read_with_its_unit(string text, long bits) => Assert.Equal(bits, LinkShape.ParseRate(text));

    [Theory]
    [InlineData("1")]
    [InlineData("fast")]
    [InlineData("-1Gbit")]
    [InlineData("1bit")]
    [InlineData("NaNGbit")]
    [InlineData("1000Gbit")]
    public void What_is_no_rate_is_refused(string text) =>
        Assert.Contains(
            text, Assert.Throws<LabException>(() => LinkShape.ParseRate(text)).Message, StringComparison.Ordinal);

    [Theory]
    [InlineData("5ms", 5)]
    [InlineData("0", 0)]
    [InlineData("0.5ms", 0.5)]
    public void A_delay_is_read_in_milliseconds(string text, double ms) =>
        Assert.Equal(ms, LinkShape.ParseDelay(text).TotalMilliseconds);

    [Theory]
    [InlineData("5s")]
    [InlineData("-1ms")]
    [InlineData("ten")]
    public void What_is_no_delay_is_refused(string text) =>
        Assert.Throws<LabException>(() => LinkShape.ParseDelay(text));

    [Fact]
    public void It_is_shown_as_it_was_asked_for()
    {
        Assert.Equal("1Gbit 5ms", new LinkShape(1_000_000_000, TimeSpan.FromMilliseconds(5)).ToString());
        Assert.Equal("300Mbit", new LinkShape(300_000_000, TimeSpan.Zero).ToString());
        Assert.Equal("unshaped", LinkShape.Unshaped.ToString());
    }
}
