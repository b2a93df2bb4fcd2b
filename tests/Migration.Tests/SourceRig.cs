using System.Buffers;
using System.Buffers.Binary;
using System.Text;
using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Migration.Tests;

/// <summary>
/// A source engine in virtual time, with a model QEMU that holds a dirty bitmap and a destination at the end of a link
/// of a fixed rate. One call of <see cref="Run"/> steps them all in slices of a millisecond.
/// </summary>
internal sealed class SourceRig
{
    private static readonly TimeSpan Slice = TimeSpan.FromMilliseconds(1);
    /// <summary>Fingerprints the engine may remember, in a rig whose destination has an inventory.</summary>
    public const int OffersMax = 20_000;

    private readonly Queue<(TimeSpan At, long Bytes, Action Arrive)> _onTheWire = new();
    private readonly Queue<(TimeSpan At, ControlMessage Message)> _wishes = new();
    private readonly int[] _asks;
    private readonly TakenPages _taken = new();
    private readonly bool[] _lanesDone;
    private readonly int _pages;
    private readonly SortedSet<long> _qemuDirty = [];
    private readonly double _linkBytesPerSecond;
    private readonly bool _missesWrites;
    private readonly byte[] _sent = new byte[1 << 16];
    private readonly Lazy<SourceEngine> _engine;
    private bool _offered;
    private double _linkFreeAt;
    private long _received;
    private bool _released;

    /// <summary>Called before the commit is reported as recorded.</summary>
    public Action? WhileCommitIsRecorded { get; init; }

    public bool CommitFails { get; init; }
    private bool _ended;
    private bool _placedSent;
    private double _writes;
    private long _writeCursor;

    public SourceRig(
        MigrationPolicy? policy = null, int pages = 4096, double linkBytesPerSecond = 100e6,
        double dirtyPagesPerSecond = 0, int dirtyRange = 4096, bool holds = true, bool shared = true,
        bool missesWrites = false, bool asksForTurn = false, bool postcopy = false, int carriedPagesMax = 16384)
    {
        _missesWrites = missesWrites;
        Pages = new byte[pages];
        _pages = pages;
        _linkBytesPerSecond = linkBytesPerSecond;
        DirtyPagesPerSecond = dirtyPagesPerSecond;
        DirtyRange = Math.Min(dirtyRange, pages);
        Lanes = postcopy ? 3 : 2;
        _lanesDone = new bool[Lanes];
        _asks = new int[Lanes];
        _engine = new Lazy<SourceEngine>(() => new SourceEngine(
            new SourceEngineOptions
            {
                Guest = "web1",
                From = "a",
                To = "b",
                Policy = policy ?? new MigrationPolicy(),
                Lanes = 2,
                Postcopy = postcopy,
                WireVersion = postcopy ? 3 : 2,
                HoldsSwitchover = holds,
                IsShared = _ => shared,
                MemoryCheck = missesWrites ? TimeSpan.FromMilliseconds(3) : null,
                OffersMax = Known is null ? 0 : OffersMax,
                AsksForTurn = asksForTurn,
                CarriedPagesMax = carriedPagesMax,
            },
            TimeSpan.Zero));
        for (int i = 0; i < pages; i++)
        {
            _qemuDirty.Add(i);
        }
    }

    /// <summary>Pages whose first version the destination says it can rebuild; null without an inventory.</summary>
    public Func<long, bool>? Known { get; init; }

    /// <summary>Those of them that it then cannot.</summary>
    public Func<long, bool> Fails { get; init; } = _ => false;

    public TimeSpan OffersReadyAfter { get; init; }

    /// <summary>Pages that the guest writes again before QEMU's next section, whenever that comes.</summary>
    public long[] AlwaysWritten { get; init; } = [];

    /// <summary>What a wish needs to reach the source.</summary>
    public TimeSpan WishesTake { get; init; } = TimeSpan.FromMilliseconds(1);

    /// <summary>Pages that could not be rebuilt by their names.</summary>
    public int Refused { get; private set; }

    /// <summary>Barriers sent before the source knew of a wish.</summary>
    public int BarriersInVain { get; private set; }

    public SourceEngine Engine => _engine.Value;
    /// <summary>With the one for urgent pages, if there is one.</summary>
    public int Lanes { get; }
    public TimeSpan Now { get; private set; }
    public double DirtyPagesPerSecond { get; set; }
    public int DirtyRange { get; }
    public bool LinkDead { get; set; }

    /// <summary>Version of each page: grows with every write of the guest.</summary>
    public byte[] Pages { get; }

    /// <summary>Version of each page that the destination has.</summary>
    public byte[] Destination { get; } = new byte[1 << 16];

    public List<Effect> Effects { get; } = [];

    /// <summary>Pages that the comparison of memory found.</summary>
    public int Differing { get; private set; }

    public bool GuestRuns { get; private set; } = true;
    public bool Confirmed { get; private set; }
    public bool Abandoned { get; private set; }
    public long MostPagesTakenAtOnce { get; private set; }
    public TimeSpan PausedFor { get; private set; }

    /// <summary>Steps until the engine ends or the virtual time is up.</summary>
    public MigrationSnapshot Run(TimeSpan atMost, Action<SourceRig>? each = null)
    {
        if (Now == TimeSpan.Zero)
        {
            Feed(Prologue());
        }

        TimeSpan end = Now + atMost;
        while (Now < end && Engine.Phase != MigrationPhase.Ended)
        {
            Now += Slice;
            GuestWrites();
            Qemu();
            Offer();
            ServeLanes();
            Deliver();
            Engine.Tick(Now);
            Perform();
            each?.Invoke(this);
            PausedFor += GuestRuns ? TimeSpan.Zero : Slice;
        }

        Perform();
        return Engine.Snapshot(Now);
    }

    /// <summary>The guest writes to pages, besides what it does by itself.</summary>
    public void Touch(IEnumerable<long> pages)
    {
        foreach (long page in GuestRuns ? pages : [])
        {
            Pages[page]++;
            _qemuDirty.Add(page);
        }
    }

    private void GuestWrites()
    {
        if (!GuestRuns)
        {
            return;
        }

        for (_writes += DirtyPagesPerSecond * Slice.TotalSeconds; _writes >= 1; _writes--)
        {
            long page = _writeCursor++ % DirtyRange;
            Pages[page]++;
            // Once every page has been named, a QEMU that misses writes misses every one.
            if (!_missesWrites || Engine.Snapshot(Now).Rounds.Count == 0)
            {
                _qemuDirty.Add(page);
            }
        }
    }

    // QEMU writes everything dirty as one section whenever the engine reads; a real one stops at 50 ms of it.
    private void Qemu()
    {
        if (_ended || !Engine.FeedOpen)
        {
            return;
        }

        if (_released && GuestRuns)
        {
            GuestRuns = false;
            Engine.GuestStopped(Now, Now);
        }

        Touch(AlwaysWritten);
        // As many sections as a real one writes until it has been caught up with.
        for (int i = 0; i < 30 && AlwaysWritten.Length > 0 && GuestRuns; i++)
        {
            Feed(Section(AlwaysWritten, final: false));
        }

        long[] pages = [.. _qemuDirty];
        _qemuDirty.Clear();

        bool final = !GuestRuns;
        Feed(Section(pages, final));
        if (final)
        {
            _ended = true;
            Feed([0x04, 1, 2, 3]);
        }
        else
        {
            Engine.FeedCaughtUp(Now);
        }
    }

    // A page's fingerprint is its number and its version.
    private static ulong FingerprintOf(long page, byte version) => (ulong)(((page + 1) << 16) | ((long)version << 8));

    private void Offer()
    {
        if (Known is null || _offered || Now < OffersReadyAfter)
        {
            return;
        }

        _offered = true;
        byte[] fingerprints = [.. Enumerable.Range(0, _pages).Where(page => Known(page))
            .SelectMany(page => BitConverter.GetBytes(FingerprintOf(page, 0)))];
        foreach (byte[] some in fingerprints.Chunk(ControlMessage.InventoryOffer.CountMax * 8))
        {
            Engine.Receive(new ControlMessage.InventoryOffer(ContentOrigin.OwnMemory, some), Now);
        }

        Engine.Receive(new ControlMessage.InventoryReady(TakesDeltas: true), Now);
    }

    private void ServeLanes()
    {
        for (int lane = 0; lane < Lanes; lane++)
        {
            for (int i = 0; i < 64; i++)
            {
                LaneWork work = Engine.Take(lane, _taken, Now, out _);
                if (work == LaneWork.Barrier)
                {
                    Travel(0, BarrierOf(lane, Engine.AsksAnswered(lane)));
                }

                if (work != LaneWork.Batch)
                {
                    break;
                }

                SendBatch(lane);
            }
        }
    }

    private void SendBatch(int lane)
    {
        long bytes = 8 + 19;
        var contents = new List<(long Page, byte Version)>();
        var names = new List<(long Page, byte Version)>();
        for (int p = 0; p < _taken.Count; p++)
        {
            long page = _taken[p].Value;
            int origin = _taken.IsPlain(p) ? -1 : Engine.OriginOf(FingerprintOf(page, Pages[page]));
            if (origin >= 0)
            {
                Engine.SendsKnown(_taken.Block, _taken[p], origin);
            }

            (origin >= 0 ? names : contents).Add((page, Pages[page]));
            _sent[page] = Pages[page];
            bytes += origin >= 0 ? 16 : _taken.IsZero(p) ? 0 : Page.Size;
        }

        MostPagesTakenAtOnce = Math.Max(MostPagesTakenAtOnce, _taken.Count);
        Engine.Sent(
            new SentBatch
            {
                Pages = _taken.Count,
                ZeroByRecord = _taken.Count - _taken.Contents,
                Zero = _taken.Count - _taken.Contents,
                Known = names.Count,
                Content = _taken.Contents - names.Count,
                FrameBytes = bytes,
            },
            Now);
        int block = _taken.Block.Index;
        long region = _taken.Region;
        Travel(bytes, () =>
        {
            contents.ForEach(each => Destination[each.Page] = each.Version);
            byte[] wanted = new byte[ControlMessage.PagesWanted.BitsBytes];
            foreach ((long page, byte version) in names)
            {
                if (!Fails(page))
                {
                    Destination[page] = version;
                    continue;
                }

                Refused++;
                wanted[page % Page.RegionPages / 8] |= (byte)(1 << (int)(page % 8));
            }

            if (wanted.Any(bits => bits != 0))
            {
                _asks[lane]++;
                _wishes.Enqueue((Now + WishesTake, new ControlMessage.PagesWanted(block, region, wanted)));
            }
        });
    }

    private Action BarrierOf(int lane, int answered) => () =>
    {
        Assert.InRange(answered, 0, _asks[lane]);
        Assert.False(_lanesDone[lane], "a barrier behind the last one");
        _lanesDone[lane] = answered == _asks[lane];
        BarriersInVain += _lanesDone[lane] ? 0 : 1;
    };

    private void Travel(long bytes, Action arrive)
    {
        _linkFreeAt = Math.Max(_linkFreeAt, Now.TotalSeconds) + (bytes / _linkBytesPerSecond);
        _onTheWire.Enqueue((TimeSpan.FromSeconds(_linkFreeAt), bytes, arrive));
    }

    private void Deliver()
    {
        if (LinkDead)
        {
            return;
        }

        long before = _received;
        while (_onTheWire.TryPeek(out (TimeSpan At, long Bytes, Action Arrive) frame) && frame.At <= Now)
        {
            _onTheWire.Dequeue();
            _received += frame.Bytes;
            frame.Arrive();
        }

        while (_wishes.TryPeek(out (TimeSpan At, ControlMessage Message) wish) && wish.At <= Now)
        {
            _wishes.Dequeue();
            Engine.Receive(wish.Message, Now);
        }

        if (_received != before)
        {
            Engine.Receive(new ControlMessage.Received(_received), Now);
        }

        if (_lanesDone.All(d => d) && _onTheWire.Count == 0 && !_placedSent
            && Engine.Phase == MigrationPhase.Switchover)
        {
            _placedSent = true;
            Engine.Receive(new ControlMessage.PagesPlaced(), Now);
            Engine.Receive(new ControlMessage.Loaded(TimeSpan.FromMilliseconds(1), TimeSpan.FromMilliseconds(2)), Now);
        }
    }

    private void Perform()
    {
        while (Engine.TryTakeEffect(out Effect effect))
        {
            Effects.Add(effect);
            switch (effect)
            {
                case Effect.ReleaseSwitchover:
                    _released = true;
                    break;
                case Effect.Send { Message: ControlMessage.Ping ping } when !LinkDead:
                    Engine.Receive(new ControlMessage.Pong(ping.Number), Now);
                    break;
                case Effect.CheckMemory check:
                    CheckMemory(check.Blocks.Single());
                    break;
                case Effect.HoldStream:
                    Engine.StreamHeld(Now);
                    break;
                case Effect.RecordCommit:
                    WhileCommitIsRecorded?.Invoke();
                    if (CommitFails)
                    {
                        Engine.CommitNotRecorded("the disk is full.", Now);
                        break;
                    }

                    Engine.CommitRecorded(Now);
                    break;
                case Effect.Send { Message: ControlMessage.Commit } when !LinkDead:
                    Engine.Receive(new ControlMessage.Running(default, default, default), Now);
                    break;
                case Effect.ConfirmToQemu:
                    Confirmed = true;
                    break;
                case Effect.AbandonQemu:
                    Abandoned = true;
                    GuestRuns = true;
                    break;
            }
        }
    }

    private void CheckMemory(RamBlock block)
    {
        Assert.False(GuestRuns);
        for (int page = 0; page < _pages; page++)
        {
            if (_sent[page] != Pages[page])
            {
                Differing++;
                Engine.PageDiffers(block.Index, new PageNumber(page));
            }
        }

        Engine.MemoryChecked(Now);
    }

    private void Feed(byte[] bytes) => Engine.Feed(bytes, Now);

    private byte[] Prologue()
    {
        var b = new ArrayBufferWriter<byte>();
        Put32(b, 0x5145564D);
        Put32(b, 3);
        b.Write("\a"u8);
        Put32(b, 11);
        b.Write("pc-q35-10.0"u8);
        b.Write((ReadOnlySpan<byte>)[1]);
        Put32(b, 1);
        b.Write("\u0003ram"u8);
        Put32(b, 0);
        Put32(b, 4);
        Put64(b, ((ulong)_pages * Page.Size) | 4);
        b.Write("\u0006pc.ram"u8);
        Put64(b, (ulong)_pages * Page.Size);
        Put64(b, 0x10);
        b.Write((ReadOnlySpan<byte>)[0x7E]);
        Put32(b, 1);
        return b.WrittenSpan.ToArray();
    }

    private static byte[] Section(long[] pages, bool final)
    {
        var b = new ArrayBufferWriter<byte>();
        b.Write((ReadOnlySpan<byte>)[(byte)(final ? 3 : 2)]);
        Put32(b, 1);
        byte[] content = new byte[Page.Size];
        content[7] = 1;
        foreach (long page in pages)
        {
            Put64(b, ((ulong)page * Page.Size) | 8);
            b.Write("\u0006pc.ram"u8);
            b.Write(content);
        }

        Put64(b, 0x10);
        b.Write((ReadOnlySpan<byte>)[0x7E]);
        Put32(b, 1);
        return b.WrittenSpan.ToArray();
    }

    private static void Put32(ArrayBufferWriter<byte> b, uint value)
    {
        BinaryPrimitives.WriteUInt32BigEndian(b.GetSpan(4), value);
        b.Advance(4);
    }

    private static void Put64(ArrayBufferWriter<byte> b, ulong value)
    {
        BinaryPrimitives.WriteUInt64BigEndian(b.GetSpan(8), value);
        b.Advance(8);
    }
}
