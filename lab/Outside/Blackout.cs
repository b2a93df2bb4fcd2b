namespace Godwit.Lab.Outside;

/// <summary>One span without an answer.</summary>
internal readonly record struct Silence(long Start, long End)
{
    internal long Ticks => End - Start;
}

/// <summary>From times of probes and replies to the blackout. Pure; times are ticks of one clock.</summary>
internal static class Blackout
{
    /// <summary>
    /// The longest span within the window in which somebody asked and nobody answered: from a reply, or from the first
    /// probe after it if that left later, to the next reply.
    /// </summary>
    /// <param name="sent">When each probe left, ascending.</param>
    /// <param name="replied">When each probe's reply came; 0 for never. Same length.</param>
    /// <param name="start">Only silences that end after this instant count.</param>
    /// <param name="end">A silence that lasts is cut here.</param>
    /// <remarks>
    /// A client that was not scheduled asked nothing in that time, so its own delays are no blackout. Replies that a
    /// queue held back and delivered late count when they came.
    /// </remarks>
    internal static Silence Longest(ReadOnlySpan<long> sent, ReadOnlySpan<long> replied, long start, long end)
    {
        int[] order = new int[sent.Length];
        int count = 0;
        for (int i = 0; i < sent.Length; i++)
        {
            if (replied[i] != 0 && replied[i] <= end)
            {
                order[count++] = i;
            }
        }

        long[] arrivals = new long[count];
        for (int i = 0; i < count; i++)
        {
            arrivals[i] = replied[order[i]];
        }

        Array.Sort(arrivals, order, 0, count);
        // For each arrival, when the earliest probe left that was answered by it or later: it was waiting.
        long[] waitingSince = new long[count + 1];
        waitingSince[count] = long.MaxValue;
        for (int i = count - 1; i >= 0; i--)
        {
            waitingSince[i] = Math.Min(waitingSince[i + 1], sent[order[i]]);
        }

        Silence longest = new(start, start);
        long last = long.MinValue;
        for (int i = 0; i <= count; i++)
        {
            long until = i < count ? arrivals[i] : end;
            long asked = Math.Min(waitingSince[i], FirstAfter(sent, last));
            if (asked < until && until > start)
            {
                Silence silence = new(Math.Max(Math.Max(last, asked), start), until);
                longest = silence.Ticks > longest.Ticks ? silence : longest;
            }

            last = until;
        }

        return longest;
    }

    private static long FirstAfter(ReadOnlySpan<long> sent, long instant)
    {
        int low = 0;
        int high = sent.Length;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (sent[middle] > instant)
            {
                high = middle;
            }
            else
            {
                low = middle + 1;
            }
        }

        return low < sent.Length ? sent[low] : long.MaxValue;
    }
}
