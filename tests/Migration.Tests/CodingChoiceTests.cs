namespace Godwit.Migration.Tests;

public class CodingChoiceTests
{
    // One lane's coder: 256 KiB in half a millisecond, 524 MB/s, down to 60 %.
    private static CodingChoice Measured(double share = 0.6)
    {
        CodingChoice choice = new(allowed: true);
        for (int i = 0; i < 100; i++)
        {
            choice.Coded(256 << 10, (int)((256 << 10) * share), TimeSpan.FromMilliseconds(0.5));
        }

        return choice;
    }

    private static int CodedOf100(CodingChoice choice, double linkRate) =>
        Enumerable.Range(0, 100).Count(_ => choice.Codes(64, linkRate));

    [Fact]
    public void It_codes_until_the_link_and_the_coder_are_known()
    {
        Assert.True(new CodingChoice(allowed: true).Codes(64, 1e9));
        Assert.Equal(100, CodedOf100(Measured(), linkRate: 0));
    }

    [Theory]
    [InlineData(60e6, 100)] // half a gigabit link
    [InlineData(600e6, 1)] // half of ten gigabits: only to measure again
    public void A_slow_link_is_worth_coding_for_and_a_fast_one_is_not(double linkRate, int coded) =>
        Assert.Equal(coded, CodedOf100(Measured(), linkRate));

    [Fact]
    public void Pages_that_do_not_shrink_are_not_worth_it_on_any_link() =>
        Assert.Equal(1, CodedOf100(Measured(share: 1.002), linkRate: 1e6));

    [Fact]
    public void Nothing_is_coded_when_it_is_not_allowed_or_there_is_nothing_to_code()
    {
        Assert.False(new CodingChoice(allowed: false).Codes(64, 1e6));
        Assert.False(new CodingChoice(allowed: true).Codes(0, 1e6));
    }
}
