using System.Net;

namespace Godwit.Host.Trust;

/// <summary>
/// The connections at one door that have not proved who they are: few at a time, each for a short while.
/// </summary>
/// <remarks>
/// Every connection is let in. When there is no place left, the oldest one from the address that holds most of them is
/// dropped: a flood displaces itself, and a host of the cluster keeps the moment that it needs. Dropping is closing;
/// whoever serves the connection sees it end. What a flood leaves in the log is bounded as well.
/// </remarks>
public sealed class Strangers : IDisposable
{
    private const int LinesMax = 20;
    private static readonly TimeSpan LinesInterval = TimeSpan.FromSeconds(10);
    private readonly Lock _gate = new();
    private readonly LinkedList<Place> _places = new();
    private readonly int _placesMax;
    private readonly TimeSpan _patience;
    private readonly Action<int, int> _flooded;
    private readonly Timer _timer;
    private long _linesSince = Environment.TickCount64;
    private int _lines;
    private int _dropped;

    /// <param name="placesMax">Most at a time.</param>
    /// <param name="patience">How long one may take; checked every second.</param>
    /// <param name="flooded">
    /// Told every ten seconds, if it happened: how many were dropped for want of a place, and how many lines about
    /// strangers were kept out of the log.
    /// </param>
    public Strangers(int placesMax, TimeSpan patience, Action<int, int> flooded)
    {
        (_placesMax, _patience, _flooded) = (placesMax, patience, flooded);
        _timer = new Timer(_ => Sweep(), null, TimeSpan.FromSeconds(1), TimeSpan.FromSeconds(1));
    }

    /// <summary>How many there are.</summary>
    public int Count
    {
        get
        {
            lock (_gate)
            {
                return _places.Count;
            }
        }
    }

    /// <summary>Takes a connection in; the caller disposes its place when it has proved itself or ended.</summary>
    /// <param name="from">Its address; null where there are none.</param>
    /// <param name="drop">Closes it; called at most once, from any thread.</param>
    public Place Enter(EndPoint? from, Action drop)
    {
        var place = new Place(this, from, Environment.TickCount64, drop);
        Place? displaced = null;
        lock (_gate)
        {
            _places.AddLast(place.Node);
            if (_places.Count > _placesMax)
            {
                displaced = _places.GroupBy(one => one.Address).MaxBy(ofOne => ofOne.Count())!.First();
                _places.Remove(displaced.Node);
                _dropped++;
            }
        }

        displaced?.Drop($"there were more than {_placesMax} connections that had not proved who they are");
        return place;
    }

    /// <summary>False when a stranger has to be passed over in the log, because there have been too many.</summary>
    public bool MayTell()
    {
        lock (_gate)
        {
            return _lines++ < LinesMax;
        }
    }

    public void Dispose() => _timer.Dispose();

    private void Sweep()
    {
        var late = new List<Place>();
        var now = Environment.TickCount64;
        var (dropped, untold) = (0, 0);
        lock (_gate)
        {
            while (_places.First is { } oldest && now - oldest.Value.Since > _patience.TotalMilliseconds)
            {
                _places.RemoveFirst();
                late.Add(oldest.Value);
            }

            if (now - _linesSince > LinesInterval.TotalMilliseconds)
            {
                (dropped, untold) = (_dropped, Math.Max(_lines - LinesMax, 0));
                (_dropped, _lines, _linesSince) = (0, 0, now);
            }
        }

        late.ForEach(place => place.Drop($"it had not proved who it is within {_patience.TotalSeconds:F0} s"));
        if (dropped + untold > 0)
        {
            _flooded(dropped, untold);
        }
    }

    /// <summary>A connection among the strangers, until it is disposed.</summary>
    public sealed class Place : IDisposable
    {
        private readonly Strangers _all;
        private readonly Action _drop;

        internal Place(Strangers all, EndPoint? from, long since, Action drop)
        {
            (_all, From, Since, _drop) = (all, from, since, drop);
            Node = new LinkedListNode<Place>(this);
        }

        public EndPoint? From { get; }

        /// <summary>Null if it was not.</summary>
        public string? WhyDropped { get; private set; }

        internal IPAddress? Address => (From as IPEndPoint)?.Address;
        internal long Since { get; }
        internal LinkedListNode<Place> Node { get; }

        /// <inheritdoc cref="Strangers.MayTell"/>
        public bool MayTell() => _all.MayTell();

        public void Dispose()
        {
            lock (_all._gate)
            {
                // Not if it has been dropped already.
                if (Node.List is not null)
                {
                    _all._places.Remove(Node);
                }
            }
        }

        internal void Drop(string why)
        {
            WhyDropped = why;
            _drop();
        }
    }
}
