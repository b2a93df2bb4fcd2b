using System.Diagnostics;
using Godwit.Daemon.Moves;

namespace Godwit.Daemon.Tests.Moves;

public class LinkProbeTests
{
    private static long At(double seconds) => (long)(seconds * Stopwatch.Frequency);

    // Ten pieces of 100 kB: the first ones find empty buffers, and in the middle nobody gets a processor.
    [Fact]
    public void The_rate_is_that_of_the_best_half_without_the_beginning()
    {
        List<(long At, int Bytes)> arrived = [];
        double now = 0;
        for (var piece = 0; piece < 16; piece++)
        {
            now += piece < 3 ? 0.0001 : piece == 5 ? 0.5 : 0.01;
            arrived.Add((At(now), 100_000));
        }

        Assert.InRange(LinkProbe.Rate(0, arrived), 9e6, 11e6);
    }

    [Fact]
    public void A_few_pieces_give_what_they_made() =>
        Assert.InRange(LinkProbe.Rate(0, [(At(0.1), 100_000)]), 0.9e6, 1.1e6);

    [Fact]
    public async Task It_sends_no_more_than_it_may()
    {
        long sent = 0;
        var (rate, trip) = await LinkProbe.MeasureAsync(
            (bytes, _) =>
            {
                Interlocked.Add(ref sent, bytes);
                return Task.FromResult(TimeSpan.FromMilliseconds(1));
            },
            1 << 20, TestContext.Current.CancellationToken);
        Assert.InRange(sent, 1, 1 << 20);
        Assert.True(rate > 0);
        Assert.Equal(TimeSpan.FromMilliseconds(1), trip);
    }
}
