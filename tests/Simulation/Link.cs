namespace Godwit.Simulation;

/// <summary>The cable between the two hosts, with a life of its own.</summary>
internal sealed class Link(Timeline time, TimeSpan latency, double bytesPerSecond)
{
    private readonly List<Pipe> _pipes = [];
    private int _cuts;

    public TimeSpan Latency => latency;

    public double BytesPerSecond => bytesPerSecond;

    /// <summary>Nothing passes in either direction.</summary>
    public bool IsCut => _cuts > 0;

    /// <summary>The host from which nothing passes although it believes so; null if there is none.</summary>
    public string? SilentFrom { get; private set; }

    public void Cut(TimeSpan duration)
    {
        _cuts++;
        time.After(duration, () => Mend(() => _cuts--));
    }

    /// <summary>Cut one way only: a firewall that lost its state, a switch that learned a wrong port.</summary>
    public void Silence(string host, TimeSpan duration)
    {
        SilentFrom = host;
        time.After(duration, () => Mend(() => SilentFrom = SilentFrom == host ? null : SilentFrom));
    }

    public void MendAll() => Mend(() => (_cuts, SilentFrom) = (0, null));

    public bool Passes(string from) => _cuts <= 0 && SilentFrom != from;

    public void Add(Pipe pipe) => _pipes.Add(pipe);

    private void Mend(Action change)
    {
        change();
        _cuts = Math.Max(0, _cuts);
        _pipes.RemoveAll(pipe => pipe.IsClosed);
        _pipes.ForEach(pipe => pipe.Deliver());
    }
}

/// <summary>One direction of one connection: in order, none lost, none twice, or closed, as TCP has it.</summary>
/// <remarks>What a cut link does not carry waits and is sent again; lanes do not wait for each other.</remarks>
internal sealed class Pipe
{
    private readonly Timeline _time;
    private readonly Link _link;
    private readonly string _from;
    private readonly Queue<(TimeSpan At, Action What)> _onTheWay = new();
    private TimeSpan _freeAt;
    private TimeSpan _lastAt;

    public Pipe(Timeline time, Link link, string from)
    {
        (_time, _link, _from) = (time, link, from);
        link.Add(this);
    }

    public bool IsClosed { get; private set; }

    public void Send(int bytes, Action arrive)
    {
        if (IsClosed)
        {
            return;
        }

        _freeAt = (_freeAt > _time.Now ? _freeAt : _time.Now) + TimeSpan.FromSeconds(bytes / _link.BytesPerSecond);
        TimeSpan at = _freeAt + (_link.Latency * (1 + (_time.Chance.NextDouble() * 0.5)));
        _lastAt = at > _lastAt ? at : _lastAt;
        _onTheWay.Enqueue((_lastAt, arrive));
        _time.After(_lastAt - _time.Now, Deliver);
    }

    /// <summary>Hands over what has arrived by now.</summary>
    public void Deliver()
    {
        while (!IsClosed && _link.Passes(_from) && _onTheWay.TryPeek(out (TimeSpan At, Action What) next)
            && next.At <= _time.Now)
        {
            _onTheWay.Dequeue();
            next.What();
        }
    }

    /// <summary>Nothing more arrives, not even what was on its way.</summary>
    public void Close()
    {
        IsClosed = true;
        _onTheWay.Clear();
    }
}

/// <summary>The lanes of one transfer.</summary>
internal sealed class Connection(Timeline time, Link link, string source, string destination, int lanes)
{
    private bool _isClosed;

    public Pipe ToDestination { get; } = new(time, link, source);

    public Pipe ToSource { get; } = new(time, link, destination);

    public Pipe[] Pages { get; } = [.. Enumerable.Range(0, lanes).Select(_ => new Pipe(time, link, source))];

    /// <summary>Called at the source, and at the destination, when it learns that the other end is gone.</summary>
    public Action<string>? SourceLost { get; set; }

    public Action<string>? DestinationLost { get; set; }

    /// <summary>
    /// One end closes: what it has sent still arrives, then the other end learns of it, once the link carries it.
    /// </summary>
    public void CloseFrom(string host)
    {
        if (_isClosed)
        {
            return;
        }

        _isClosed = true;
        if (host == source)
        {
            ToDestination.Send(1, () => DestinationLost?.Invoke("it closed the control lane."));
            ToSource.Close();
        }
        else
        {
            ToSource.Send(1, () => SourceLost?.Invoke("it closed the control lane."));
            ToDestination.Close();
            Array.ForEach(Pages, pipe => pipe.Close());
        }
    }

    /// <summary>One end is gone without a word: what it sends is over, what is sent to it is lost.</summary>
    public void Vanish(string host)
    {
        if (host == source)
        {
            ToDestination.Close();
            Array.ForEach(Pages, pipe => pipe.Close());
        }
        else
        {
            ToSource.Close();
        }
    }

    /// <summary>Reset by something between: both ends learn of it, each when it hears.</summary>
    public void Reset()
    {
        _isClosed = true;
        ToDestination.Close();
        ToSource.Close();
        Array.ForEach(Pages, pipe => pipe.Close());
        time.After(time.Between(0, 50), () => SourceLost?.Invoke("connection reset."));
        time.After(time.Between(0, 50), () => DestinationLost?.Invoke("connection reset."));
    }
}
