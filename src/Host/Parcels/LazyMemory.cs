using System.Buffers;
using System.Diagnostics;
using System.Net.Sockets;
using System.Text.Json.Nodes;
using Godwit.ChunkStore;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.ChunkStore.Trees;
using Godwit.GuestStreams.Qemu;
using Godwit.Host.Inventory;
using Godwit.Host.Qemu;
using Godwit.Host.Transfers;
using Godwit.Migration;
using Godwit.Pages;
using Microsoft.Extensions.Logging;

namespace Godwit.Host.Parcels;

/// <summary>
/// Brings the memory of a guest that runs already: what it waits for first, the rest in the background.
/// </summary>
/// <remarks>
/// QEMU is told of a postcopy whose source we are. It stops a processor that touches a page which is not there, asks
/// for the page, and takes each page exactly once. Two threads read the store, one for what is asked for, one for the
/// rest; a page belongs to whoever claims it first. While the store does not answer the guest waits, and goes on when
/// it does. QEMU itself holds our end of its stream: a daemon that ends, in order or not, does not break it, and the
/// next one takes it up (<see cref="TryTakeUp"/>).
/// </remarks>
public sealed partial class LazyMemory : IAsyncDisposable
{
    // What lies beside a page that is asked for is likely to be wanted next, and lies beside it in the store. Where the
    // way to the store is long, so much of it costs hardly more time than the page alone.
    private const int PagesAround = 64;
    private const int PagesAtOnce = 512;

    // Where a page takes longer than this, the way lies idle while it is waited for: what is near the page is brought
    // then, in pieces that hold up the next one by little.
    private static readonly TimeSpan FarTrip = TimeSpan.FromMilliseconds(10);
    private const int PagesNear = 128;
    private const int PagesReach = 2048;
    private const int NearMax = WakeSet.PagesMax / 2;

    // The rest waits as long as the guest waits for pages, but not for ever.
    private static readonly TimeSpan QuietFor = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan QuietPatience = TimeSpan.FromSeconds(1);
    private const int SectionPagesMax = 7;
    private static readonly TimeSpan RetryAfter = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan StorePatience = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan LookEvery = TimeSpan.FromMilliseconds(20);
    private readonly string _guest;
    private readonly string _runtimeDirectory;
    private readonly Store _store;
    private readonly GuestInventory? _inventory;
    private readonly ILogger _logger;
    private readonly Socket _qemu;
    private readonly QemuStreamHead _head;
    private readonly RamBlock _block;
    private readonly ChunkId[] _ids;
    private readonly object _gate = new();
    private readonly object _sending = new();
    private readonly DirtySet _unclaimed;
    private ReturnPathReader _path = new();
    private readonly TaskCompletionSource _completed = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly TaskCompletionSource _woken = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly List<Thread> _threads = [];
    private readonly List<long> _touched = [];
    private readonly List<long> _near = [];
    private long _outstanding;
    private long _fetched;
    private long _asked;
    private long _lastAsked = Stopwatch.GetTimestamp();
    private long _lastPlace;
    private volatile bool _isFar;
    private volatile bool _ended;

    private LazyMemory(
        string guest, string runtimeDirectory, Store store, GuestInventory? inventory, Socket qemu,
        QemuStreamHead head, RamBlock block, ChunkId[] ids, DirtySet unclaimed, ILogger logger)
    {
        _guest = guest;
        _runtimeDirectory = runtimeDirectory;
        _store = store;
        _inventory = inventory;
        _qemu = qemu;
        _head = head;
        _block = block;
        _ids = ids;
        _logger = logger;
        _unclaimed = unclaimed;
        _outstanding = unclaimed.Count;
    }

    /// <summary>Ends when all of the memory is there; fails if QEMU ended before.</summary>
    public Task Completed => _completed.Task;

    /// <summary>Bytes of packs read so far.</summary>
    public long FetchedBytes => Interlocked.Read(ref _fetched);

    /// <summary>Pages that the guest has waited for.</summary>
    public long PagesAsked => Interlocked.Read(ref _asked);

    /// <summary>Pages that QEMU does not have yet.</summary>
    public long PagesMissing => Interlocked.Read(ref _outstanding);

    /// <summary>
    /// The pages that the guest waited for first, with their neighbours, in that order; complete when this is.
    /// </summary>
    public IReadOnlyList<long> PagesTouched => _touched;

    /// <summary>
    /// Pages near them that came before anybody could see whether they are waited for; complete when this is.
    /// </summary>
    public IReadOnlyList<long> PagesNearThem => _near;

    /// <summary>
    /// Loads the state of the machine and what the guest is likely to touch first; when this returns the guest may be
    /// let run.
    /// </summary>
    /// <param name="machine">It waits for a stream.</param>
    /// <param name="inventory">What this host can rebuild; the caller keeps it until this is disposed of.</param>
    /// <exception cref="GodwitException"><c>parcel-load</c>: QEMU does not take it; it has not run.</exception>
    public static async Task<LazyMemory> BeginAsync(
        QemuMachine machine, ParcelManifest manifest, LazyContent content, Store store, GuestInventory? inventory,
        string runtimeDirectory, ILogger logger, CancellationToken cancellationToken)
    {
        (byte[] head, byte[] tail, IReadOnlyList<(string Name, byte[] Content)> carried) = content.State;
        ParcelPart part = manifest.Memory[0];
        QemuStreamHead known = StateStream.Parse(head);
        RamBlock block = known.Blocks.FirstOrDefault(one => one.Name == part.Name && one.Length == part.Bytes)
            ?? throw new GodwitException("parcel-memory",
                $"The state of parcel {manifest.Id} has no block {part.Name} of {part.Bytes} bytes.",
                "The parcel is of no use: take another one.");
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        string inode;
        try
        {
            await ConnectAsync(machine, socket, runtimeDirectory, cancellationToken);
            await machine.HoldStreamAsync(socket, cancellationToken);
            inode = HeldStream.InodeOf(socket);
        }
        catch (Exception e) when (e is SocketException or QmpException)
        {
            socket.Dispose();
            throw Refused(machine, e.Message);
        }

        var all = new DirtySet(content.Ids.Length);
        all.AddAll();
        var lazy = new LazyMemory(
            machine.Contract.Name, runtimeDirectory, store, inventory, socket, known, block, content.Ids, all, logger)
        {
            _fetched = content.Report.FetchedBytes,
        };
        try
        {
            lazy.Send(StateStream.Advised(head, carried));
            lazy.Send(StateStream.Packaged(known, block, tail));
            lazy.Start("serve", lazy.Serve);
            lazy.Start("fetch", reader => lazy.Fetch(reader, content));
            await lazy.LoadedAsync(machine, cancellationToken);
            await (await Task.WhenAny(lazy._woken.Task, lazy.Completed).WaitAsync(cancellationToken));
            // From here on a daemon that takes over goes on with this stream.
            HeldStream.Save(runtimeDirectory, new HeldStream(manifest.Id, inode, known));
            return lazy;
        }
        catch (Exception e)
        {
            await lazy.DisposeAsync();
            throw e is SocketException or QmpException or StreamFormatException or IOException
                ? Refused(machine, e.Message) : e;
        }
    }

    /// <summary>Ends the delivery for good: QEMU's stream breaks if it is not over. QEMU is being ended.</summary>
    public async ValueTask DisposeAsync()
    {
        HeldStream.Forget(_runtimeDirectory);
        await LetGoAsync();
    }

    /// <summary>
    /// Ends the delivery here and leaves QEMU's stream whole, between two sections: the guest waits for what it lacks
    /// until another daemon takes it up.
    /// </summary>
    public async Task LetGoAsync()
    {
        _ended = true;
        // Nobody is in the socket any more when it is closed: to wake a reader, .NET would shut the connection down.
        // One that a store keeps waiting is not in it either, and is not waited for.
        await Task.Run(() => _threads.ForEach(thread => thread.Join(StorePatience)));
        _qemu.Dispose();
        _completed.TrySetException(new IOException("it was given up"));
        _ = _completed.Task.Exception;
    }

    private static GodwitException Refused(QemuMachine machine, string why) => new("parcel-load",
        $"QEMU does not take the state of {machine.Contract.Name} to be filled later: {why}.",
        "What it said is in its log. Without --lazy all of the memory is brought first.");

    private static async Task ConnectAsync(
        QemuMachine machine, Socket socket, string runtimeDirectory, CancellationToken cancellationToken)
    {
        string path = Path.Combine(runtimeDirectory, "resume.sock");
        File.Delete(path);
        var capabilities = new JsonArray();
        foreach (string name in (string[])["events", "late-block-activate", "postcopy-ram"])
        {
            capabilities.Add((JsonNode)new JsonObject { ["capability"] = name, ["state"] = true });
        }

        await machine.ExecuteAsync(
            "migrate-set-capabilities", new JsonObject { ["capabilities"] = capabilities }, cancellationToken);
        await machine.ExecuteAsync("migrate-incoming", new JsonObject { ["uri"] = $"unix:{path}" }, cancellationToken);
        await socket.ConnectAsync(new UnixDomainSocketEndPoint(path), cancellationToken);
        File.Delete(path);
    }

    // QEMU leaves "inmigrate" when the devices are loaded and it has been told to run; it was started paused.
    private async Task LoadedAsync(QemuMachine machine, CancellationToken cancellationToken)
    {
        for (int attempt = 0; attempt < 6000; attempt++)
        {
            if (machine.Exited.IsCompleted)
            {
                throw Refused(machine, "it has ended");
            }

            if (_completed.Task.IsFaulted)
            {
                await _completed.Task;
            }

            if (await machine.QueryStateAsync(cancellationToken) != "inmigrate")
            {
                return;
            }

            await Task.Delay(10, cancellationToken);
        }

        throw Refused(machine, "it has not loaded it within a minute");
    }

    private void Start(string name, Action<StoreReader> work)
    {
        var thread = new Thread(() =>
        {
            using StoreReader reader = _store.OpenReader();
            try
            {
                work(reader);
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException or StreamFormatException
                or IOException)
            {
                _ended = true;
                _completed.TrySetException(new IOException($"QEMU's stream broke: {e.Message}", e));
            }
        })
        {
            Name = $"lazy {name}", IsBackground = true,
        };
        _threads.Add(thread);
        thread.Start();
    }

    // What the guest waits for, as QEMU asks for it.
    private void Serve(StoreReader reader)
    {
        // Room for more requests than a guest has processors: what is read is whole messages, and a daemon that dies
        // leaves the next one whole messages too.
        byte[] buffer = new byte[64 << 10];
        while (!_ended)
        {
            if (!_qemu.Poll(LookEvery, SelectMode.SelectRead))
            {
                continue;
            }

            int count = _qemu.Receive(buffer);
            if (count == 0)
            {
                throw new IOException("it was closed");
            }

            _path.Feed(buffer.AsSpan(0, count));
            while (_path.TryTake(out ReturnPathMessage message))
            {
                if (Take(reader, message))
                {
                    _completed.TrySetResult();
                    return;
                }
            }
        }
    }

    // True if that was QEMU's last word.
    private bool Take(StoreReader reader, ReturnPathMessage message)
    {
        switch (message.Type)
        {
            case ReturnPathType.RequestPagesOf or ReturnPathType.RequestPages
                when message.Block == _block.Name || message.Block.Length == 0:
                Interlocked.Increment(ref _asked);
                long began = Stopwatch.GetTimestamp();
                long place = message.Offset / Page.Size / PagesAround * PagesAround;
                Volatile.Write(ref _lastPlace, place);
                List<long> pages = Claim(place, PagesAround, PagesAround);
                if (_touched.Count < WakeSet.PagesMax)
                {
                    // With its neighbours: they came with it, and were not asked for any more.
                    _touched.AddRange(pages.Where(page => !_ids[page].IsZeros));
                }

                Deliver(reader, pages);
                _isFar |= Stopwatch.GetElapsedTime(began) > FarTrip;
                Interlocked.Exchange(ref _lastAsked, Stopwatch.GetTimestamp());
                return false;
            case ReturnPathType.Shut:
                return message.Value == 0 ? true : throw new IOException($"QEMU ended with code {message.Value}");
            default:
                return false;
        }
    }

    // What is to be brought next when the guest has asked for nothing for a while; until then what lies near the page
    // that it asked for last, if the store is far.
    private List<long> ClaimNext(ref long from)
    {
        long began = Stopwatch.GetTimestamp();
        while (!_ended && Stopwatch.GetElapsedTime(began) < QuietPatience
            && Stopwatch.GetElapsedTime(Interlocked.Read(ref _lastAsked)) < QuietFor)
        {
            if (_isFar && ClaimNear(Volatile.Read(ref _lastPlace)) is { Count: > 0 } near)
            {
                return near;
            }

            Thread.Sleep(LookEvery);
        }

        List<long> pages = Claim(from, _ids.Length, PagesAtOnce);
        from = pages.Count > 0 ? pages[^1] + 1 : _ids.Length;
        return pages;
    }

    private List<long> ClaimNear(long place)
    {
        List<long> pages = Claim(place, PagesReach, PagesNear);
        if (pages.Count == 0)
        {
            long from = Math.Max(0, place - PagesReach);
            pages = Claim(from, place - from, PagesNear);
        }

        if (_near.Count < NearMax)
        {
            _near.AddRange(pages.Where(page => !_ids[page].IsZeros));
        }

        return pages;
    }

    private void Fetch(StoreReader reader, LazyContent? ahead)
    {
        if (ahead is not null)
        {
            Deliver(
                reader, Claim(ahead.Wake.Where(page => _ids[page].IsZeros || ahead.Pages.ContainsKey(page))),
                ahead.Pages);
            _woken.TrySetResult();
        }

        LowPriority.Lower();
        long from = 0;
        while (!_ended && ClaimNext(ref from) is { Count: > 0 } pages)
        {
            Deliver(reader, pages);
        }
    }

    // Those that nobody else delivers.
    private List<long> Claim(IEnumerable<long> pages)
    {
        lock (_gate)
        {
            return [.. pages.Where(page => _unclaimed.Remove(new PageNumber(page)))];
        }
    }

    // Pages that nobody else delivers, up to so many, out of a range.
    private List<long> Claim(long from, long range, int max)
    {
        var pages = new List<long>();
        lock (_gate)
        {
            long end = Math.Min(_ids.Length, from + range);
            for (var next = new PageNumber(from); pages.Count < max
                && _unclaimed.NextPage(next) is { } page && page.Value < end; next = new PageNumber(page.Value + 1))
            {
                _unclaimed.Remove(page);
                pages.Add(page.Value);
            }
        }

        return pages;
    }

    private void Deliver(
        StoreReader reader, List<long> pages, IReadOnlyDictionary<long, byte[]>? ahead = null)
    {
        var section = new Section(this);
        byte[] rebuilt = new byte[Page.Size];
        var wanted = new List<WantedChunk>();
        foreach (long page in pages)
        {
            if (_ids[page].IsZeros)
            {
                section.Add(page, []);
            }
            else if (ahead?.TryGetValue(page, out byte[]? there) == true)
            {
                section.Add(page, there);
            }
            else if (ParcelRestorer.TryRebuild(_inventory, _ids[page], rebuilt))
            {
                section.Add(page, rebuilt);
            }
            else
            {
                wanted.Add(new WantedChunk(_ids[page], (int)page));
            }
        }

        section.Flush();
        while (wanted.Count > 0 && !_ended)
        {
            HashSet<int> got = [];
            long before = reader.BytesRead;
            try
            {
                reader.Read(wanted, (page, content) =>
                {
                    if (content.Length != Page.Size)
                    {
                        throw new StoreFormatException($"page {page}", $"it has {content.Length} bytes");
                    }

                    section.Add(page, content);
                    got.Add(page);
                });
            }
            catch (Exception e) when (e is StorageException or ChunkLostException or StoreFormatException)
            {
                // The guest waits. The store comes back, or is repaired, or the guest is stopped by its operator.
                LogWaits(_guest, e.Message);
                Thread.Sleep(RetryAfter);
            }

            section.Flush();
            Interlocked.Add(ref _fetched, reader.BytesRead - before);
            wanted.RemoveAll(one => got.Contains(one.Tag));
        }
    }

    private void Delivered(int pages)
    {
        if (Interlocked.Add(ref _outstanding, -pages) == 0)
        {
            SendEnd();
        }
    }

    private void SendEnd()
    {
        var output = new ArrayBufferWriter<byte>();
        var writer = new QemuStreamWriter(output, _head);
        writer.BeginEnd();
        writer.EndSection();
        // Behind RAM's last section nothing follows but the end.
        output.Write("\0"u8);
        Send(output.WrittenSpan);
    }

    // A section is shorter than what the system takes at once, and is not begun before there is room for it: whoever
    // ends here leaves either all of it or nothing.
    private void Send(ReadOnlySpan<byte> bytes)
    {
        lock (_sending)
        {
            while (!bytes.IsEmpty)
            {
                while (!_qemu.Poll(LookEvery, SelectMode.SelectWrite))
                {
                    ThrowIfEnded();
                }

                ThrowIfEnded();
                bytes = bytes[_qemu.Send(bytes)..];
            }
        }
    }

    private void ThrowIfEnded()
    {
        if (_ended)
        {
            throw new IOException("it was given up");
        }
    }

    [LoggerMessage(3501, LogLevel.Warning, "{Guest} waits for memory that the store does not give: {Reason}")]
    private partial void LogWaits(string guest, string reason);

    /// <summary>A section of pages on its way to QEMU, in one piece.</summary>
    private sealed class Section(LazyMemory owner)
    {
        private readonly ArrayBufferWriter<byte> _output = new();
        private QemuStreamWriter? _writer;
        private int _pages;

        public void Add(long page, ReadOnlySpan<byte> content)
        {
            if (_writer is null)
            {
                _writer = new QemuStreamWriter(_output, owner._head);
                _writer.BeginPart();
            }

            if (content.IsEmpty)
            {
                _writer.ZeroPage(owner._block, new PageNumber(page));
            }
            else
            {
                _writer.Page(owner._block, new PageNumber(page), content);
            }

            if (++_pages == SectionPagesMax)
            {
                Flush();
            }
        }

        public void Flush()
        {
            if (_writer is null)
            {
                return;
            }

            _writer.EndSection();
            owner.Send(_output.WrittenSpan);
            int pages = _pages;
            (_writer, _pages) = (null, 0);
            _output.ResetWrittenCount();
            owner.Delivered(pages);
        }
    }
}
