using CsCheck;
using Godwit.Lab.Outside;

namespace Godwit.Lab.Tests;

public class BlackoutTests
{
    [Fact]
    public void A_steady_echo_has_no_silence_longer_than_the_way_there_and_back()
    {
        long[] sent = [.. Enumerable.Range(0, 100).Select(i => i * 10L)];
        long[] replied = [.. sent.Select(at => at + 3)];

        Assert.Equal(3, Blackout.Longest(sent, replied, 0, 993).Ticks);
    }

    [Fact]
    public void Lost_probes_make_a_silence_from_the_first_of_them_to_the_next_reply()
    {
        long[] sent = [0, 10, 20, 30, 40, 50];
        long[] replied = [1, 11, 0, 0, 0, 51];

        Assert.Equal(new Silence(20, 51), Blackout.Longest(sent, replied, 0, 51));
    }

    [Fact]
    public void Replies_that_a_queue_held_back_count_when_they_came()
    {
        long[] sent = [0, 10, 20, 30, 40];
        long[] replied = [1, 11, 60, 61, 62];

        Assert.Equal(new Silence(20, 60), Blackout.Longest(sent, replied, 0, 62));
    }

    // A client that slept asked nothing: had it asked, it might have been answered.
    [Fact]
    public void A_client_that_did_not_ask_saw_no_blackout()
    {
        long[] sent = [0, 10, 500, 510];
        long[] replied = [1, 11, 501, 511];

        Assert.Equal(1, Blackout.Longest(sent, replied, 0, 511).Ticks);
    }

    [Fact]
    public void A_guest_that_never_answers_again_is_silent_to_the_end()
    {
        long[] sent = [0, 10, 20, 30];
        long[] replied = [1, 11, 0, 0];

        Assert.Equal(new Silence(20, 100), Blackout.Longest(sent, replied, 0, 100));
    }

    [Fact]
    public void What_happened_before_the_window_does_not_count()
    {
        long[] sent = [0, 10, 20, 100, 110];
        long[] replied = [1, 0, 90, 101, 111];

        Assert.Equal(1, Blackout.Longest(sent, replied, 95, 111).Ticks);
    }

    [Fact]
    public void Nothing_asked_is_no_silence() => Assert.Equal(0, Blackout.Longest([], [], 0, 1000).Ticks);

    // Method: whatever was lost or late, the result must be the longest of the spans found by looking at every pair of
    // neighbouring replies, one by one.
    [Fact]
    public void It_agrees_with_the_plain_definition()
    {
        Gen.Select(Gen.Int[1, 20], Gen.Int[0, 60]).Array[0, 40].Sample(steps =>
        {
            long at = 1;
            long[] sent = new long[steps.Length];
            long[] replied = new long[steps.Length];
            for (int i = 0; i < steps.Length; i++)
            {
                at += steps[i].Item1;
                sent[i] = at;
                replied[i] = steps[i].Item2 > 50 ? 0 : at + steps[i].Item2;
            }

            long end = at + 30;
            Assert.Equal(Plain(sent, replied, end), Blackout.Longest(sent, replied, 0, end).Ticks);
        });
    }

    private static long Plain(long[] sent, long[] replied, long end)
    {
        long[] instants = [.. replied.Where(r => r != 0 && r <= end).Distinct().Order(), end];
        long longest = 0;
        long last = long.MinValue;
        foreach (long instant in instants)
        {
            // Somebody waits if a probe left that is answered only now or later, or that left after the last reply.
            long[] waiting =
                [.. sent.Where((s, i) => s < instant && (s > last || (replied[i] > last && replied[i] <= end)))];
            if (waiting.Length > 0)
            {
                longest = Math.Max(longest, instant - Math.Max(last, waiting.Min()));
            }

            last = instant;
        }

        return longest;
    }
}
