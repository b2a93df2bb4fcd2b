using System.Globalization;
using Godwit.Pages;

namespace Godwit.Migration;

/// <summary>How pages are coded: the mix of coders that gets them across soonest.</summary>
/// <remarks>
/// <para>
/// A coder that turns a byte of pages into s bytes at c seconds of processor time moves pages at the lesser of
/// cores / (c + o + s t) and link / s, where o is what reading a byte of pages costs and t what writing a byte to the
/// connection does. The best mix has at most two coders: where the link would wait for one and the processor for the
/// other, a share of both keeps them equally busy. So a fast link gets little coding and a slow one all that the
/// processors give, without a table of link rates.
/// </para>
/// <para>
/// s, c, o and t are measured on this guest's pages; a coder that has not been used lately is assumed to differ from
/// one that has as it does on the recorded memory of docs/decisions/page-coding.md. Only while the link makes lanes
/// wait, and connections have bytes underway nearly all the time, does the acknowledged rate say what it carries: lanes
/// also wait for a destination that is short of processors, and coding more would give it more to do. Otherwise it says
/// what they give, be it that they are short of processors or of pages, and counts for more and more until the link is
/// seen to fill.
/// </para>
/// </remarks>
public sealed class CodingChooser
{
    private const double Keep = 0.8;
    private const int TryEvery = 64;
    // Beginning a new Zstandard frame forgets the window; a better level has to be worth it.
    private const double ChangeGain = 1.05;
    private const double LinkWaitShare = 0.1;
    private const double CarryingShare = 0.6;
    private const double LinkUnknownGain = 4;
    private const double LinkRateMax = 100e9;
    private static readonly TimeSpan DecideEvery = TimeSpan.FromMilliseconds(500);
    private static readonly TimeSpan MeasuredFor = TimeSpan.FromSeconds(8);
    private static readonly TimeSpan JudgedFrom = TimeSpan.FromMilliseconds(200);
    private static readonly TimeSpan LinkKnownFor = TimeSpan.FromSeconds(30);

    private readonly Candidate[] _candidates;
    private readonly int _lanes;
    private readonly double _coresMax;
    private Candidate _first;
    private Candidate _second;
    private double _firstShare = 1;
    private double _owed;
    private int _batches;
    private TimeSpan _decidedAt;
    private TimeSpan _working;
    private TimeSpan _workingCpu;
    private TimeSpan _linkWait;
    private TimeSpan _writing;
    private TimeSpan _writingCpu;
    private TimeSpan _elapsed;
    private TimeSpan _carrying;
    private double _linkRate;
    private TimeSpan _linkSeenAt = TimeSpan.MinValue;
    // Seconds per byte: reading pages; writing to the connection. From the recorded runs until measured.
    private Quotient _readingCost = new(1 / 5e9);
    private Quotient _writingCost = new(1 / 1e9);
    private long _lastFrameBytes;
    private double _speed = 1;

    /// <param name="allowed">False sends everything plain.</param>
    /// <param name="wireVersion">The agreed version; the first one has only LZ4.</param>
    /// <param name="lanes">Page lanes: each can use one core.</param>
    /// <param name="coresMax">The processor time to spend, in cores; 0 for as much as the lanes get.</param>
    public CodingChooser(bool allowed, int wireVersion, int lanes, double coresMax)
    {
        _lanes = lanes;
        _coresMax = coresMax > 0 ? Math.Min(coresMax, lanes) : lanes;
        _candidates = !allowed ? [new Candidate(BlockCoding.Plain, 0, 1)]
            : [.. Candidate.Recorded().Where(c => wireVersion > 1 || c.Coding.Coder != BlockCoder.Zstd)];
        // LZ4 until more is known: it costs little on a fast link and saves most of what can be saved on a slow one.
        _first = _second = _candidates[Math.Min(1, _candidates.Length - 1)];
        Reason = _first.Coding.ToString();
    }

    /// <summary>What was chosen and why, for people.</summary>
    public string Reason { get; private set; }

    /// <summary>What was chosen: one coder or two with their shares.</summary>
    public string Choice => _firstShare > 0.99 ? _first.Coding.ToString()
        : _firstShare < 0.01 ? _second.Coding.ToString()
        : string.Create(
            CultureInfo.InvariantCulture,
            $"{100 * _firstShare:0} % {_first.Coding}, {100 * (1 - _firstShare):0} % {_second.Coding}");

    /// <summary>What a delta may cost before the whole page is cheaper.</summary>
    public int DeltaBytesMax { get; private set; } = Page.Size / 2;

    /// <summary>How the next batch is coded.</summary>
    public BlockCoding Next()
    {
        _owed += _firstShare;
        Candidate next = _second;
        if (_owed >= 1)
        {
            _owed -= 1;
            next = _first;
        }

        // Pages that were not worth coding may have given way to others that are.
        return next.Coding.Coder == BlockCoder.None && _candidates.Length > 1 && ++_batches % TryEvery == 0
            ? _candidates[1].Coding
            : next.Coding;
    }

    /// <summary>Takes in what a batch cost and gave.</summary>
    public void Learn(in SentBatch batch, TimeSpan now)
    {
        _working += batch.Working;
        _workingCpu += batch.CodingCpu + batch.ReadingCpu;
        _elapsed += batch.Elapsed;
        _linkWait += batch.LinkWait;
        _writing += batch.Writing;
        _writingCpu += batch.WritingCpu;
        _carrying += batch.Carrying ?? batch.Elapsed;
        if (_lastFrameBytes > 0)
        {
            _writingCost.Add(batch.WritingCpu.TotalSeconds, _lastFrameBytes);
        }

        _lastFrameBytes = batch.FrameBytes;
        _readingCost.Add(batch.ReadingCpu.TotalSeconds, (double)batch.Pages * Page.Size);
        // A handful of pages says more about a call's own cost than about the coder.
        if (batch.WorkBytes < 8 * Page.Size || Find(batch.Coding) is not { } candidate)
        {
            return;
        }

        long sent = batch.CodedBytes + ((long)batch.Raw * Page.Size);
        candidate.Learn(
            Math.Max(batch.CodingCpu.TotalSeconds, 1e-7), sent, batch.WorkBytes, now - MeasuredFor, now);
    }

    /// <summary>Chooses anew, if it is time to: every half second, and when a round begins.</summary>
    /// <param name="linkRate">
    /// Bytes per second that the destination acknowledges, or a lower cap; 0 if not known.
    /// </param>
    /// <param name="roundBegins">Whether a new round's pages come now.</param>
    /// <returns>True if it chose.</returns>
    public bool Decide(double linkRate, bool roundBegins, TimeSpan now)
    {
        // The first acknowledgements say how fast the move began.
        bool isEarly = _linkRate <= 0 && _elapsed < JudgedFrom;
        if (_candidates.Length == 1 || linkRate <= 0 || isEarly || (!roundBegins && now - _decidedAt < DecideEvery))
        {
            return false;
        }

        _decidedAt = now;
        double link = Link(linkRate, now);
        double cores = Math.Min(_coresMax, _lanes * _speed);
        Estimate(now);
        Choose(link, cores);
        return true;
    }

    private static void Blend(ref double value, double sample) => value = (value * Keep) + (sample * (1 - Keep));

    private Candidate? Find(BlockCoding coding) => Array.Find(_candidates, c => c.Coding == coding);

    private double Link(double rate, TimeSpan now)
    {
        if (_elapsed < JudgedFrom)
        {
            return Math.Max(rate, _linkRate);
        }

        // Work that takes longer than its processor time shares its core with somebody: the guest, for one.
        double speed = _working > TimeSpan.Zero ? Math.Clamp(_workingCpu / _working, 0.02, 1) : _speed;
        Blend(ref _speed, speed);
        // A write that takes longer still was held up by the connection.
        TimeSpan held = _writing - (_writingCpu / speed);
        bool full = _linkWait + (held > TimeSpan.Zero ? held : TimeSpan.Zero) > _elapsed * LinkWaitShare
            && _carrying > _elapsed * CarryingShare;
        (_working, _workingCpu, _linkWait, _elapsed) = (default, default, default, default);
        (_writing, _writingCpu, _carrying) = (default, default, default);
        if (full)
        {
            (_linkRate, _linkSeenAt) = (rate, now);
        }
        else if (_linkSeenAt == TimeSpan.MinValue || now - _linkSeenAt > LinkKnownFor)
        {
            _linkRate = Math.Min(Math.Max(rate, _linkRate) * LinkUnknownGain, LinkRateMax);
        }

        return Math.Max(rate, _linkRate);
    }

    // What has been measured lately stands; the others keep their distance from the newest of it.
    private void Estimate(TimeSpan now)
    {
        Candidate? known = _candidates.Where(c => c.IsFresh(now - MeasuredFor) && c.Coding.Coder != BlockCoder.None)
            .MaxBy(c => c.MeasuredAt);
        foreach (Candidate candidate in _candidates)
        {
            candidate.Estimate(known, now - MeasuredFor);
        }
    }

    private void Choose(double link, double cores)
    {
        (Candidate First, Candidate Second, double Share) best = (_first, _second, _firstShare);
        // What is in use has a head start.
        double bestRate = Rate(_first, _second, _firstShare, link, cores) * ChangeGain;
        foreach (Candidate a in _candidates)
        {
            foreach (Candidate b in _candidates)
            {
                // A stream that changed its level with every batch would never refer back.
                if (a != b && a.Coding.Coder == BlockCoder.Zstd && b.Coding.Coder == BlockCoder.Zstd)
                {
                    continue;
                }

                double share = a == b ? 1 : Balance(a, b, link, cores);
                double rate = Rate(a, b, share, link, cores);
                if (rate > bestRate)
                {
                    (best, bestRate) = ((a, b, share), rate);
                }
            }
        }

        (_first, _second, _firstShare) = best;
        if (_first != _second)
        {
            // The pair may stay while the balance moves.
            _firstShare = Balance(_first, _second, link, cores);
        }

        double chosen = Rate(_first, _second, _firstShare, link, cores);
        double wire = (_firstShare * _first.Share) + ((1 - _firstShare) * _second.Share);
        double plain = Rate(_candidates[0], _candidates[0], 1, link, cores);
        DeltaBytesMax = Math.Clamp((int)(wire * Page.Size), 64, Page.Size / 2);
        Reason = string.Create(
            CultureInfo.InvariantCulture,
            $"{Choice}: the link carries {link / 1e6:0.0} MB/s and {cores:0.0} cores are free; pages cross at "
            + $"{chosen / 1e6:0} MB/s, at {plain / 1e6:0} plain");
    }

    private double Rate(Candidate a, Candidate b, double share, double link, double cores) => Math.Min(
        cores / ((share * Cost(a)) + ((1 - share) * Cost(b))),
        link / ((share * a.Share) + ((1 - share) * b.Share)));

    // The share of a at which link and processors are equally busy.
    private double Balance(Candidate a, Candidate b, double link, double cores)
    {
        double slope = (cores * (a.Share - b.Share)) - (link * (Cost(a) - Cost(b)));
        double at = ((link * Cost(b)) - (cores * b.Share)) / slope;
        return double.IsFinite(at) ? Math.Clamp(at, 0, 1) : 1;
    }

    private double Cost(Candidate candidate) =>
        candidate.Cost + _readingCost.Value + (candidate.Share * _writingCost.Value);

    // Something per byte, over the last megabyte or so. By its bytes, for a batch of one page says next to nothing.
    private struct Quotient(double value)
    {
        private double _amount = value * PageBatch.RawBytesMax;
        private double _bytes = PageBatch.RawBytesMax;

        public readonly double Value => _amount / _bytes;

        public void Add(double amount, double bytes)
        {
            double keep = Math.Pow(Keep, bytes / PageBatch.RawBytesMax);
            _amount = (_amount * keep) + amount;
            _bytes = (_bytes * keep) + bytes;
        }
    }

    private sealed class Candidate(BlockCoding coding, double costRecorded, double shareRecorded)
    {
        private readonly double _recordedCost = costRecorded;
        private readonly double _recordedShare = shareRecorded;
        private Quotient _measuredCost;
        private Quotient _measuredShare;

        public BlockCoding Coding => coding;

        public TimeSpan MeasuredAt { get; private set; } = TimeSpan.MinValue;

        /// <summary>Seconds of processor time per byte of pages.</summary>
        public double Cost { get; private set; } = costRecorded;

        /// <summary>Bytes that travel per byte of pages.</summary>
        public double Share { get; private set; } = shareRecorded;

        public static IEnumerable<Candidate> Recorded() =>
        [
            new(BlockCoding.Plain, 1 / 12e9, 1),
            new(BlockCoding.Lz4, 1 / 0.95e9, 0.49),
            new(new BlockCoding(BlockCoder.Zstd, -1, 18), 1 / 0.52e9, 0.40),
            new(new BlockCoding(BlockCoder.Zstd, 1, 23), 1 / 0.40e9, 0.346),
            new(new BlockCoding(BlockCoder.Zstd, 3, 23), 1 / 0.20e9, 0.334),
            new(new BlockCoding(BlockCoder.Zstd, 6, 23), 1 / 0.13e9, 0.329),
            new(new BlockCoding(BlockCoder.Zstd, 9, 23), 1 / 0.09e9, 0.326),
            new(new BlockCoding(BlockCoder.Zstd, 12, 23), 1 / 0.035e9, 0.316),
        ];

        public bool IsFresh(TimeSpan since) => MeasuredAt != TimeSpan.MinValue && MeasuredAt >= since;

        public void Learn(double seconds, double sent, double bytes, TimeSpan freshSince, TimeSpan now)
        {
            if (IsFresh(freshSince))
            {
                _measuredCost.Add(seconds, bytes);
                _measuredShare.Add(sent, bytes);
            }
            else
            {
                (_measuredCost, _measuredShare) = (new Quotient(seconds / bytes), new Quotient(sent / bytes));
            }

            MeasuredAt = now;
        }

        public void Estimate(Candidate? known, TimeSpan freshSince)
        {
            if (IsFresh(freshSince))
            {
                (Cost, Share) = (_measuredCost.Value, _measuredShare.Value);
            }
            else if (known is not null && coding.Coder != BlockCoder.None)
            {
                Cost = _recordedCost * known._measuredCost.Value / known._recordedCost;
                double gain = (1 - _recordedShare) * (1 - known._measuredShare.Value) / (1 - known._recordedShare);
                Share = Math.Clamp(1 - gain, 0.005, 1.01);
            }
        }
    }
}
