using System.Diagnostics;

namespace Godwit.Daemon.Moves;

/// <summary>Finds out what a link carries by sending a little over it.</summary>
internal static class LinkProbe
{
    private const int Senders = 4;
    private const int PieceMin = 16 << 10;
    // What the others have on the way when one arrives counts with it: little beside half of all.
    private const int PieceMax = 32 << 10;
    private const int PieceMaxFar = 128 << 10;
    // A piece that takes longer is as large as this link needs.
    private static readonly TimeSpan PieceWanted = TimeSpan.FromMilliseconds(20);
    private static readonly TimeSpan Patience = TimeSpan.FromMilliseconds(400);
    private static readonly TimeSpan Far = TimeSpan.FromMilliseconds(10);

    /// <param name="send">Sends so many bytes and ends when they have been received; how long that took.</param>
    /// <param name="bytesMax">Sent in all, at most.</param>
    /// <returns>The rate in bytes per second, and the shortest of a few round trips.</returns>
    public static async Task<(double BytesPerSecond, TimeSpan RoundTrip)> MeasureAsync(
        Func<int, CancellationToken, Task<TimeSpan>> send, long bytesMax, CancellationToken cancellationToken)
    {
        // The first call may have to connect.
        await send(0, cancellationToken);
        var roundTrip = await send(0, cancellationToken);
        var second = await send(0, cancellationToken);
        roundTrip = second < roundTrip ? second : roundTrip;
        // A connection that begins slowly takes some round trips to come up to its rate.
        var isFar = roundTrip > Far;
        var patience = Patience + (isFar ? 6 * roundTrip : TimeSpan.Zero);
        var arrived = new List<(long At, int Bytes)>();
        long sent = 0;
        var begun = Stopwatch.GetTimestamp();
        async Task SendAsync()
        {
            var piece = PieceMin;
            // At least once each, however long this host stood still before.
            do
            {
                if (Interlocked.Add(ref sent, piece) > bytesMax)
                {
                    return;
                }

                var took = await send(piece, cancellationToken);
                lock (arrived)
                {
                    arrived.Add((Stopwatch.GetTimestamp(), piece));
                }

                if (took - roundTrip < PieceWanted)
                {
                    piece = Math.Min(2 * piece, isFar ? PieceMaxFar : PieceMax);
                }
            }
            while (Stopwatch.GetElapsedTime(begun) < patience);
        }

        await Task.WhenAll(Enumerable.Range(0, Senders).Select(_ => SendAsync()));
        return (Rate(begun, arrived), roundTrip);
    }

    // The best of what half of the bytes made, without the first ones: buffers on the way fill up before, connections
    // begin slowly, and whoever else wants this host's processors only makes a link look slower than it is.
    internal static double Rate(long begun, IReadOnlyList<(long At, int Bytes)> arrived)
    {
        long all = arrived.Sum(one => (long)one.Bytes);
        double best = 0;
        for (var from = Math.Min(Senders, arrived.Count - 1) - 1; from < arrived.Count; from++)
        {
            var start = from < 0 ? begun : arrived[from].At;
            long bytes = 0;
            for (var to = from + 1; to < arrived.Count; to++)
            {
                bytes += arrived[to].Bytes;
                if (bytes * 2 >= all)
                {
                    best = Math.Max(
                        best, bytes / Math.Max(Stopwatch.GetElapsedTime(start, arrived[to].At).TotalSeconds, 1e-4));
                    break;
                }
            }
        }

        return best > 0 ? best
            : all / Math.Max(Stopwatch.GetElapsedTime(begun, arrived.Count > 0 ? arrived[^1].At : begun).TotalSeconds,
                1e-4);
    }
}
