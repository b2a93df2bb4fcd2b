using System.Net.Sockets;
using System.Runtime.InteropServices;
using Godwit.GuestStreams.Qemu;
using Godwit.Host.Qemu;
using Godwit.Migration;
using Godwit.Pages;

namespace Godwit.Host.Transfers;

// Pages for a guest that runs already: each reaches QEMU once, by its stream, and QEMU wakes who waits for it.
public sealed partial class DestinationTransfer
{
    private const uint AdvisedPing = 0x47_44_57_31;
    private volatile bool _delivers;

    /// <summary>Pages of one RAM section on its way into QEMU.</summary>
    /// <remarks>
    /// A section is written by one call and is shorter than what the system takes at once: a daemon that dies leaves
    /// either all of it or nothing, and the next one goes on behind it.
    /// </remarks>
    private sealed class DeliveredSection
    {
        public const int PagesMax = 7;
        private readonly byte[] _contents = new byte[PagesMax * Page.Size];
        private readonly PageNumber[] _pages = new PageNumber[PagesMax];
        private readonly bool[] _zero = new bool[PagesMax];

        public int Count { get; private set; }

        public ReadOnlySpan<PageNumber> Pages => _pages.AsSpan(0, Count);

        public void AddZero(PageNumber page)
        {
            _zero[Count] = true;
            _pages[Count++] = page;
        }

        /// <summary>Where the content goes; it counts once <see cref="Add"/> is called.</summary>
        public Span<byte> Room => _contents.AsSpan(Count * Page.Size, Page.Size);

        public void Add(PageNumber page)
        {
            _zero[Count] = false;
            _pages[Count++] = page;
        }

        public void WriteTo(QemuStreamWriter stream, RamBlock block)
        {
            stream.BeginPart();
            for (int i = 0; i < Count; i++)
            {
                if (_zero[i])
                {
                    stream.ZeroPage(block, _pages[i]);
                }
                else
                {
                    stream.Page(block, _pages[i], _contents.AsSpan(i * Page.Size, Page.Size));
                }
            }

            stream.EndSection();
        }

        public void Clear() => Count = 0;
    }

    /// <summary>The guest runs here and lacks pages that the source has.</summary>
    public bool IsFetching
    {
        get
        {
            lock (_gate)
            {
                return _engine.IsFetching;
            }
        }
    }

    /// <summary>The source comes back: gives up the lanes there are and waits for new ones with this ticket.</summary>
    /// <returns>False if there is nothing it could come back for.</returns>
    public bool TryRejoin(byte[] ticket)
    {
        lock (_gate)
        {
            if (!_engine.IsFetching)
            {
                return false;
            }

            if (!_begun)
            {
                // Of an attempt that did not come to all its lanes: nobody reads them.
                foreach (Lane? lane in _lanes)
                {
                    lane?.Dispose();
                }

                Array.Clear(_lanes);
            }

            _engine.LinkLost($"{terms.From} asks for new lanes.", Now);
            Pump();
            // The effect closes the lanes; until their threads have ended what they bring still counts.
            while (_lanes.Any(lane => lane is not null) && _engine.IsFetching)
            {
                Monitor.Wait(_gate, 100);
            }

            _rejoined = Terms with { Ticket = ticket };
            return _engine.IsDetached;
        }
    }

    private void CloseLanes(string because)
    {
        LogDetached(terms.Guest, terms.From, because);
        Lane?[] lanes;
        lock (_gate)
        {
            lanes = _lanes;
        }

        foreach (Lane? lane in lanes)
        {
            lane?.Close();
        }

        Join(_laneThreads);
        foreach (Lane? lane in lanes)
        {
            lane?.Dispose();
        }

        lock (_gate)
        {
            _lanes = new Lane?[lanes.Length];
            _begun = false;
            // Whatever a thread of theirs counted as given is in QEMU's stream by now.
            _engine.LanesClosed(Now);
            Pump();
        }
    }

    private bool WaitForDelivery()
    {
        lock (_gate)
        {
            while (!_delivers && _engine.Phase != MigrationPhase.Ended)
            {
                Monitor.Wait(_gate, 100);
            }

            return _delivers;
        }
    }

    private void BeginDelivery()
    {
        // The rest goes to QEMU while the guest writes.
        arrived?.GiveUp();
        // From here on a daemon that takes over goes on with this stream.
        HeldStream.Save(runtimeDirectory, new HeldStream(terms.MigrationId, _streamInode, _engine.Head!));
        if (_discarded is { } discarded)
        {
            var section = new DeliveredSection();
            discarded.Content.CopyTo(section.Room);
            section.Add(discarded.Page);
            Flush(discarded.Block, section);
        }

        lock (_gate)
        {
            _delivers = true;
            Monitor.PulseAll(_gate);
        }
    }

    // Before QEMU listens: a page that it has is one that nobody waits for.
    private void ForgetMissing()
    {
        bool hasDiscarded = false;
        for (int i = 0; i < _blocks.Length; i++)
        {
            if (_memoryOf[i] is not { } memory || _engine.MissingOf(i) is not { } missing)
            {
                continue;
            }

            long first = -1;
            long end = -1;
            foreach (PageNumber page in missing)
            {
                if (page.Value != end)
                {
                    Punch(memory, first, end);
                    first = page.Value;
                }

                end = page.Value + 1;
            }

            Punch(memory, first, end);
            if (!hasDiscarded)
            {
                hasDiscarded = true;
                Discard(i, memory, missing);
            }
        }
    }

    // The page that QEMU discarded though it was here, and what it held.
    private (int Block, PageNumber Page, byte[] Content)? _discarded;

    // A QEMU that is told to listen before it has discarded anything takes what follows for a precopy's (7.2 to 10.0 at
    // least): it writes into memory that is missing, and waits for itself.
    private void Discard(int blockIndex, GuestMemory memory, DirtySet missing)
    {
        PageNumber page = default;
        if (missing.Count > 0)
        {
            page = missing.First();
        }
        else
        {
            byte[] content = new byte[Page.Size];
            memory.Read(page, content);
            _discarded = (blockIndex, page, content);
            lock (_gate)
            {
                _engine.TryGive(blockIndex, page);
            }
        }

        Write(stream => stream.Discard(_blocks[blockIndex], page, 1));
    }

    private static void Punch(GuestMemory memory, long first, long end)
    {
        if (first >= 0)
        {
            memory.Punch(new PageNumber(first), end - first);
        }
    }

    private void TakeRequest(ReturnPathMessage request)
    {
        // Of a block that was named to an earlier daemon: only one can miss pages.
        int index = Array.FindIndex(
            _blocks, block => request.Block.Length == 0 ? _engine.MissingOf(block.Index) is not null
                : block.Name == request.Block);
        if (index < 0 || request.Offset < 0 || request.Offset >= _blocks[index].Length)
        {
            throw new StreamFormatException(
                0, $"QEMU asks for {request.Value} bytes at {request.Offset} of RAM block '{request.Block}'.");
        }

        long first = request.Offset / Page.Size;
        int count = (int)Math.Min(Math.Max(1, request.Value / Page.Size), _blocks[index].PageCount - first);
        Enter(now => _engine.PagesTouched(index, new PageNumber(first), count, now));
    }

    private void WriteZeroPage(Effect.WriteZeroPage zero) => Write(stream =>
    {
        stream.BeginPart();
        stream.ZeroPage(_blocks[zero.BlockIndex], zero.Page);
        stream.EndSection();
    });

    private void Deliver(
        Lane lane, ReadOnlySpan<byte> body, PageBatchDecoder decoder, RefusedPages refused, DeliveredSection section)
    {
        PageBatchReader batch = PageBatchReader.Parse(body, _blocks, decoder);
        if (_memoryOf[batch.BlockIndex] is null)
        {
            throw new StreamFormatException(
                0, $"Pages of RAM block {batch.BlockIndex}, whose memory is not shared, came after the guest.");
        }

        refused.Begin(batch.BlockIndex);
        try
        {
            foreach (PageRun run in batch)
            {
                for (int i = 0; i < run.Count; i++)
                {
                    Deliver(batch.BlockIndex, run, i, refused, section);
                }
            }
        }
        finally
        {
            // What counts as given has to be, also where the rest of the batch cannot be read.
            Flush(batch.BlockIndex, section);
        }

        AskAgain(lane, batch.BlockIndex, refused);
    }

    private void Deliver(int blockIndex, in PageRun run, int index, RefusedPages refused, DeliveredSection section)
    {
        var page = new PageNumber(run.First.Value + index);
        Span<byte> room = section.Room;
        switch (run.Kind)
        {
            case PageKind.Zero:
                break;
            case PageKind.Word:
                FillWithWord(run, index, room);
                break;
            case PageKind.Content:
                run.Content.Slice(index * Page.Size, Page.Size).CopyTo(room);
                break;
            case PageKind.Known:
                ReadOnlySpan<byte> name = run.Content.Slice(index * PageBatch.NameBytes, PageBatch.NameBytes);
                if (inventory is null || !inventory.TryRebuild(name, room))
                {
                    refused.Add(page);
                    return;
                }

                break;
            default:
                throw Unexpected(run);
        }

        lock (_gate)
        {
            if (!_engine.TryGive(blockIndex, page))
            {
                return;
            }
        }

        if (run.Kind == PageKind.Zero)
        {
            section.AddZero(page);
        }
        else
        {
            section.Add(page);
        }

        if (section.Count == DeliveredSection.PagesMax)
        {
            Flush(blockIndex, section);
        }
    }

    private void Flush(int blockIndex, DeliveredSection section)
    {
        if (section.Count == 0)
        {
            return;
        }

        Write(stream => section.WriteTo(stream, _blocks[blockIndex]));
        lock (_gate)
        {
            TimeSpan now = Now;
            foreach (PageNumber page in section.Pages)
            {
                _engine.Given(blockIndex, page, 1, now);
            }
        }

        section.Clear();
    }

    private void TakeUp(HeldGuest guest)
    {
        _memory = [guest.Memory];
        _qemu = guest.Qemu;
        _opening = new QemuStreamWriter(_streamBuffer, guest.Stream.Head);
        _delivers = true;
        OpenStream();
        foreach (ReturnPathMessage request in guest.Requests)
        {
            Take(request);
        }

        _ = AwaitRunningAsync();
        StartThread("return path", ReadReturnPath);
    }

    private async Task AwaitRunningAsync()
    {
        TimeSpan announced = await handOver.Arrive();
        Enter(now => _engine.GuestRunning(now, now + announced, TimeSpan.Zero, now));
    }

    // QEMU itself holds our end of its stream: a daemon that dies does not break it, and the next one takes it up.
    private async Task HoldStreamAsync(Socket stream, CancellationToken cancellationToken)
    {
        await machine!.HoldStreamAsync(stream, cancellationToken);
        _streamInode = HeldStream.InodeOf(stream);
    }

    private string _streamInode = "";

    [Microsoft.Extensions.Logging.LoggerMessage(3203, Microsoft.Extensions.Logging.LogLevel.Warning,
        "{Guest} runs here and lacks pages; the link to {From} broke, and it is waited for: {Because}")]
    private partial void LogDetached(string guest, string from, string because);
}
