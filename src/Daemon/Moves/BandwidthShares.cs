using System.Collections.Concurrent;
using Godwit.Host.Transfers;
using Godwit.Migration;

namespace Godwit.Daemon.Moves;

/// <summary>Gives every move that leaves this host its part of what all of them may take together.</summary>
internal sealed class BandwidthShares : IDisposable
{
    private static readonly TimeSpan LookEvery = TimeSpan.FromSeconds(5);
    private readonly ConcurrentDictionary<SourceTransfer, long> _wanted = new();
    private readonly LadderBook _book;
    private readonly TimeProvider _clock;
    private readonly ILogger<BandwidthShares> _logger;
    private readonly ITimer _timer;

    public BandwidthShares(LadderBook book, TimeProvider clock, ILogger<BandwidthShares> logger)
    {
        (_book, _clock, _logger) = (book, clock, logger);
        _timer = clock.CreateTimer(_ => Share(), null, LookEvery, LookEvery);
    }

    /// <summary>A move begins, or wants another cap of its own.</summary>
    /// <param name="bitsPerSecond">0 for no cap but its part.</param>
    public void Set(SourceTransfer transfer, long bitsPerSecond)
    {
        _wanted[transfer] = bitsPerSecond;
        Share();
    }

    public void Remove(SourceTransfer transfer)
    {
        _wanted.TryRemove(transfer, out _);
        Share();
    }

    public void Dispose() => _timer.Dispose();

    private void Share()
    {
        if (_wanted.IsEmpty)
        {
            return;
        }

        long all = 0;
        try
        {
            all = _book.BandwidthAt(TimeOnly.FromDateTime(_clock.GetLocalNow().DateTime));
        }
        catch (Exception exception)
        {
            // Whatever it is: a timer's callback that throws would end the daemon. The moves go on with caps of their
            // own; who starts another one is told.
            Log.PoliciesUnusable(_logger, exception.Message);
        }

        foreach (var (transfer, wanted) in _wanted)
        {
            transfer.SetBandwidth(PartOf(all, _wanted.Count, wanted));
        }
    }

    /// <summary>What one of several moves may take; 0 for no cap.</summary>
    public static long PartOf(long all, int moves, long wanted)
    {
        var part = all > 0 ? Math.Max(1, all / Math.Max(1, moves)) : 0;
        return part == 0 ? wanted : wanted == 0 ? part : Math.Min(part, wanted);
    }
}
