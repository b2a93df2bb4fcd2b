using System.Buffers;
using System.Buffers.Binary;
using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Migration.Tests.Postcopy;

/// <summary>Both engines in virtual time, with a model of each QEMU: one that turns to postcopy, one that waits for
/// pages.</summary>
/// <remarks>One call of <see cref="Step"/> is a millisecond; the link carries so many pages in it.</remarks>
internal sealed class PostcopyRig
{
    private const int Lanes = 2;
    private static readonly TimeSpan Slice = TimeSpan.FromMilliseconds(1);
    private readonly TakenPages _taken = new();
    private readonly SourceEngineOptions _options;
    private readonly HashSet<long> _asked = [];
    private readonly HashSet<long> _sentInPrecopy = [];
    private readonly SortedSet<long> _dirty = [];
    private readonly bool[] _pausedLanes = new bool[Lanes + 1];
    private long _received;
    private long _acknowledged;
    private bool _listens;
    private bool _fed;
    private bool _switches;
    private bool _switched;
    private bool _linkDead;

    public PostcopyRig(MigrationPolicy policy, int pages = 2048, int pagesPerStep = 8)
    {
        Pages = pages;
        PagesPerStep = pagesPerStep;
        SourceMemory = new int[pages];
        DestinationMemory = new int?[pages];
        for (int i = 0; i < pages; i++)
        {
            SourceMemory[i] = i + 1;
        }

        _options = new SourceEngineOptions
        {
            Guest = "web1", From = "a", To = "b", Policy = policy, Lanes = Lanes, WireVersion = 3,
            HoldsSwitchover = true, IsShared = _ => true, Postcopy = true,
        };
        Source = new SourceEngine(_options, TimeSpan.Zero);
        Destination = new DestinationEngine("web1", "a", Lanes + 1, TimeSpan.Zero, _ => true);
    }

    public int Pages { get; }
    public int PagesPerStep { get; set; }
    public SourceEngine Source { get; private set; }
    public DestinationEngine Destination { get; private set; }
    public TimeSpan Now { get; private set; }
    public int[] SourceMemory { get; }
    /// <summary>Null for a page that is not there.</summary>
    public int?[] DestinationMemory { get; }
    public bool RunsAtSource { get; private set; } = true;
    public bool RunsAtDestination { get; private set; }
    /// <summary>False for a QEMU that waits for a page before it can answer that the guest runs.</summary>
    public bool AnswersOrder { get; init; } = true;
    public int DeviceStateBytes { get; init; }
    /// <summary>The link breaks under the commit, and nothing has told the destination's control lane yet.</summary>
    public bool LosesCommit { get; init; }
    public bool IsOrdered { get; private set; }
    public bool Ended { get; private set; }
    public bool TakenBack { get; private set; }
    /// <summary>Pages in the order in which they reached the destination's QEMU.</summary>
    public List<long> Delivered { get; } = [];
    public int PagesSentInPrecopy => _sentInPrecopy.Count;

    /// <summary>The guest at the destination, or its device, touches a page.</summary>
    public void Touch(long page)
    {
        if (DestinationMemory[page] is null && _asked.Add(page))
        {
            Destination.PagesTouched(0, new PageNumber(page), 1, Now);
            Exchange();
        }
    }

    public bool Waits(long page) => DestinationMemory[page] is null;

    /// <summary>QEMU answers that the guest runs.</summary>
    public void AnswerOrder()
    {
        RunsAtDestination = true;
        Destination.GuestRunning(Now, Now, TimeSpan.Zero, Now);
        Exchange();
    }

    public void Write(long page)
    {
        if (RunsAtSource)
        {
            SourceMemory[page] += 100;
            _dirty.Add(page);
        }
    }

    public void Run(int steps, Func<bool>? until = null)
    {
        for (int i = 0; i < steps && until?.Invoke() != true && !Ended; i++)
        {
            Step();
        }
    }

    public void CutLink()
    {
        _linkDead = true;
        Source.LinkLost("cut.", Now);
        Destination.LinkLost("cut.", Now);
        Exchange();
    }

    /// <summary>The source says without lanes that it has recorded its commit.</summary>
    public void TellCommit()
    {
        Destination.CommitTold(Now);
        Exchange();
    }

    /// <summary>A new engine at the source goes on with what is missing.</summary>
    public void Rejoin()
    {
        Assert.True(Destination.IsDetached);
        _linkDead = false;
        _received = _acknowledged = 0;
        Source = SourceEngine.Resume(_options, [new RamBlock(0, "pc.ram", Pages * (long)Page.Size)], Now);
        Array.Fill(_pausedLanes, true);
        Destination.Rejoined(Now);
        Exchange();
    }

    private void Step()
    {
        Now += Slice;
        Qemu();
        if (_received > _acknowledged && !_linkDead)
        {
            _acknowledged = _received;
            Source.Receive(new ControlMessage.Received(_received), Now);
            Exchange();
        }

        if (!_linkDead)
        {
            ServeLanes();
        }

        Source.Tick(Now);
        Destination.Tick(Now);
        Exchange();
    }

    // Names every page once, and, when it may switch over, what was written since.
    private void Qemu()
    {
        if (!_fed)
        {
            _fed = true;
            Feed(Prologue());
            Feed(Section([.. Enumerable.Range(0, Pages).Select(page => (long)page)], final: false));
            Source.FeedCaughtUp(Now);
        }
        else if (_switches && !_switched)
        {
            _switched = true;
            RunsAtSource = false;
            Source.GuestStopped(Now, Now);
            Feed(Section([.. _dirty], final: true));
            // A device's state, in which something looks like the end; the end; and the description, in two pieces.
            Feed([4, .. new byte[DeviceStateBytes], 0, 6, 0, 0, 0, 2, (byte)'{', 9, 9, 0, 6, 0, 0]);
            Feed([0, 2, (byte)'{', (byte)'}']);
        }
        else if (!_switched && Source.FeedOpen)
        {
            Feed(Section([.. _dirty], final: false));
            _dirty.Clear();
            Source.FeedCaughtUp(Now);
        }
    }

    private void ServeLanes()
    {
        int left = PagesPerStep;
        // The urgent lane first, as the link would have it.
        foreach (int lane in (int[])[Lanes, 0, 1])
        {
            while (left > 0)
            {
                LaneWork work = Source.Take(lane, _taken, Now, out _);
                if (work is LaneWork.Wait or LaneWork.End)
                {
                    break;
                }

                if (work == LaneWork.PauseBarrier)
                {
                    _pausedLanes[lane] = true;
                    Destination.LanePaused(lane + 1, [], Now);
                    Exchange();
                    continue;
                }

                if (work == LaneWork.Barrier)
                {
                    Destination.LaneBarrier(lane + 1, Source.AsksAnswered(lane), Now);
                    Exchange();
                    break;
                }

                left -= _taken.Count;
                SendBatch(lane);
            }
        }
    }

    private void SendBatch(int lane)
    {
        Source.Sent(
            new SentBatch { Pages = _taken.Count, Content = _taken.Count, FrameBytes = 4096 * _taken.Count }, Now);
        for (int i = 0; i < _taken.Count; i++)
        {
            long page = _taken[i].Value;
            if (!_pausedLanes[lane])
            {
                DestinationMemory[page] = SourceMemory[page];
                _sentInPrecopy.Add(page);
                continue;
            }

            Assert.True(_listens, "a page for QEMU before it listens");
            // QEMU takes a page that is there already for a broken stream.
            Assert.True(Destination.TryGive(0, _taken[i]), $"page {page} a second time");
            Assert.Null(DestinationMemory[page]);
            DestinationMemory[page] = SourceMemory[page];
            Destination.Given(0, _taken[i], 1, Now);
            Delivered.Add(page);
            _asked.Remove(page);
        }

        _received += 4096 * _taken.Count;
        Destination.BatchPlaced(0, Now);
    }

    private void Exchange()
    {
        bool any = true;
        while (any)
        {
            any = false;
            while (Source.TryTakeEffect(out Effect effect))
            {
                any = true;
                PerformAtSource(effect);
            }

            while (Destination.TryTakeEffect(out Effect effect))
            {
                any = true;
                PerformAtDestination(effect);
            }
        }
    }

    private void PerformAtSource(Effect effect)
    {
        switch (effect)
        {
            case Effect.Send { Message: ControlMessage.Commit } when LosesCommit:
                _linkDead = true;
                Source.LinkLost("reset.", Now);
                Destination.LaneLost("reset.", Now);
                break;
            case Effect.Send send when !_linkDead:
                Destination.Receive(Copy(send.Message), Now);
                break;
            case Effect.ReleaseSwitchover:
                _switches = true;
                break;
            case Effect.HoldStream:
                Source.StreamHeld(Now);
                break;
            case Effect.RecordCommit:
                Source.CommitRecorded(Now);
                break;
            case Effect.AbandonQemu:
                TakenBack = RunsAtSource = true;
                break;
            case Effect.End:
                Ended = Source.Outcome != MigrationOutcome.Unsettled;
                break;
        }
    }

    private void PerformAtDestination(Effect effect)
    {
        switch (effect)
        {
            case Effect.Send { Message: ControlMessage.Received }:
                break;
            case Effect.Send send when !_linkDead:
                Source.Receive(Copy(send.Message), Now);
                break;
            case Effect.ForgetMissing:
                foreach (PageNumber page in Destination.MissingOf(0)!)
                {
                    DestinationMemory[page.Value] = null;
                }

                break;
            case Effect.BeginDelivery:
                _listens = true;
                Destination.QemuPong(3, Now);
                break;
            case Effect.WriteZeroPage zero:
                DestinationMemory[zero.Page.Value] = 0;
                break;
            case Effect.RecordResuming:
                Destination.ResumingRecorded(Now);
                break;
            case Effect.RunGuest:
                Assert.False(RunsAtSource);
                IsOrdered = true;
                if (AnswersOrder)
                {
                    AnswerOrder();
                }

                break;
            case Effect.WriteEndOfPostcopy:
                Destination.QemuShut(0, Now);
                break;
        }
    }

    private static ControlMessage Copy(ControlMessage message)
    {
        var writer = new ArrayBufferWriter<byte>();
        message.Encode(writer);
        FrameHeader header = FrameHeader.Read(writer.WrittenSpan, FrameHeader.ControlBodyMax);
        return ControlMessage.Decode(header.Type, writer.WrittenSpan[FrameHeader.Size..]);
    }

    private void Feed(byte[] bytes) => Source.Feed(bytes, Now);

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
        Put64(b, ((ulong)Pages * Page.Size) | 4);
        b.Write("\u0006pc.ram"u8);
        Put64(b, (ulong)Pages * Page.Size);
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
