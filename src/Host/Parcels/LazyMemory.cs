using System.Buffers;
using System.Net.Sockets;
using System.Text.Json.Nodes;
using Godwit.ChunkStore;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.ChunkStore.Trees;
using Godwit.GuestStreams.Qemu;
using Godwit.Host.Inventory;
using Godwit.Host.Qemu;
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
/// it does.
/// </remarks>
public sealed partial class LazyMemory : IAsyncDisposable
{
    // What lies beside a page that is asked for is likely to be wanted next, and lies beside it in the store.
    private const int PagesAround = 16;
    private const int PagesAtOnce = 512;
    private const int SectionPagesMax = 7;
    private static readonly TimeSpan RetryAfter = TimeSpan.FromSeconds(1);
    private readonly QemuMachine _machine;
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
    private readonly TaskCompletionSource _completed = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly List<Thread> _threads = [];
    private long _delivered;
    private long _fetched;
    private long _asked;
    private volatile bool _ended;

    private LazyMemory(
        QemuMachine machine, Store store, GuestInventory? inventory, Socket qemu, QemuStreamHead head, RamBlock block,
        ChunkId[] ids, ILogger logger)
    {
        _machine = machine;
        _store = store;
        _inventory = inventory;
        _qemu = qemu;
        _head = head;
        _block = block;
        _ids = ids;
        _logger = logger;
        _unclaimed = new DirtySet(ids.Length);
        _unclaimed.AddAll();
    }

    /// <summary>Ends when all of the memory is there; fails if QEMU ended before.</summary>
    public Task Completed => _completed.Task;

    /// <summary>Bytes of packs read so far.</summary>
    public long FetchedBytes => Interlocked.Read(ref _fetched);

    /// <summary>Pages that the guest has waited for.</summary>
    public long PagesAsked => Interlocked.Read(ref _asked);

    /// <summary>Loads the state of the machine; when this returns the guest may be let run.</summary>
    /// <param name="machine">It waits for a stream.</param>
    /// <param name="restorer">Reads the state.</param>
    /// <param name="inventory">What this host can rebuild; the caller keeps it until this is disposed of.</param>
    /// <exception cref="GodwitException"><c>parcel-load</c>: QEMU does not take it; it has not run.</exception>
    public static async Task<LazyMemory> BeginAsync(
        QemuMachine machine, ParcelManifest manifest, ParcelRestorer restorer, Store store, GuestInventory? inventory,
        string runtimeDirectory, ILogger logger, CancellationToken cancellationToken)
    {
        (byte[] head, byte[] tail, IReadOnlyList<(string Name, byte[] Content)> carried) = await Task.Run(
            restorer.ReadState, cancellationToken);
        ParcelPart part = manifest.Memory[0];
        ChunkId[] ids = await Task.Run(
            () =>
            {
                using StoreReader reader = store.OpenReader();
                return ChunkTree.Load(part.RootId, part.Pages, reader);
            },
            cancellationToken);
        QemuStreamHead known = StateStream.Parse(head);
        RamBlock block = known.Blocks.FirstOrDefault(one => one.Name == part.Name && one.Length == part.Bytes)
            ?? throw new GodwitException("parcel-memory",
                $"The state of parcel {manifest.Id} has no block {part.Name} of {part.Bytes} bytes.",
                "The parcel is of no use: take another one.");
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            await ConnectAsync(machine, socket, runtimeDirectory, cancellationToken);
        }
        catch (Exception e) when (e is SocketException or QmpException)
        {
            socket.Dispose();
            throw Refused(machine, e.Message);
        }

        var lazy = new LazyMemory(machine, store, inventory, socket, known, block, ids, logger);
        try
        {
            lazy.Send(StateStream.Advised(head, carried));
            lazy.Send(StateStream.Packaged(known, block, tail));
            lazy.Start("serve", lazy.Serve);
            lazy.Start("fetch", lazy.Fetch);
            await lazy.LoadedAsync(cancellationToken);
            return lazy;
        }
        catch (Exception e)
        {
            await lazy.DisposeAsync();
            throw e is SocketException or QmpException or StreamFormatException or IOException
                ? Refused(machine, e.Message) : e;
        }
    }

    public async ValueTask DisposeAsync()
    {
        _ended = true;
        _qemu.Dispose();
        await Task.Run(() => _threads.ForEach(thread => thread.Join()));
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
    private async Task LoadedAsync(CancellationToken cancellationToken)
    {
        for (int attempt = 0; attempt < 6000; attempt++)
        {
            if (_machine.Exited.IsCompleted)
            {
                throw Refused(_machine, "it has ended");
            }

            if (_completed.Task.IsFaulted)
            {
                await _completed.Task;
            }

            if (await _machine.QueryStateAsync(cancellationToken) != "inmigrate")
            {
                return;
            }

            await Task.Delay(10, cancellationToken);
        }

        throw Refused(_machine, "it has not loaded it within a minute");
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
        var path = new ReturnPathReader();
        byte[] buffer = new byte[4096];
        while (!_ended)
        {
            int count = _qemu.Receive(buffer);
            if (count == 0)
            {
                throw new IOException("it was closed");
            }

            path.Feed(buffer.AsSpan(0, count));
            while (path.TryTake(out ReturnPathMessage message))
            {
                switch (message.Type)
                {
                    case ReturnPathType.RequestPagesOf or ReturnPathType.RequestPages
                        when message.Block == _block.Name:
                        Interlocked.Increment(ref _asked);
                        Deliver(reader, Claim(
                            message.Offset / Page.Size / PagesAround * PagesAround, PagesAround, PagesAround));
                        break;
                    case ReturnPathType.Shut when message.Value == 0:
                        _completed.TrySetResult();
                        return;
                    case ReturnPathType.Shut:
                        throw new IOException($"QEMU ended with code {message.Value}");
                }
            }
        }
    }

    private void Fetch(StoreReader reader)
    {
        LowPriority.Lower();
        for (long from = 0; from < _ids.Length && !_ended;)
        {
            List<long> pages = Claim(from, _ids.Length, PagesAtOnce);
            if (pages.Count == 0)
            {
                break;
            }

            Deliver(reader, pages);
            from = pages[^1] + 1;
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

    private void Deliver(StoreReader reader, List<long> pages)
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
                LogWaits(_machine.Contract.Name, e.Message);
                Thread.Sleep(RetryAfter);
            }

            section.Flush();
            Interlocked.Add(ref _fetched, reader.BytesRead - before);
            wanted.RemoveAll(one => got.Contains(one.Tag));
        }
    }

    private void Delivered(int pages)
    {
        if (Interlocked.Add(ref _delivered, pages) != _ids.Length)
        {
            return;
        }

        var output = new ArrayBufferWriter<byte>();
        var writer = new QemuStreamWriter(output, _head);
        writer.BeginEnd();
        writer.EndSection();
        // Behind RAM's last section nothing follows but the end.
        output.Write("\0"u8);
        Send(output.WrittenSpan);
    }

    private void Send(ReadOnlySpan<byte> bytes)
    {
        lock (_sending)
        {
            while (!bytes.IsEmpty)
            {
                bytes = bytes[_qemu.Send(bytes)..];
            }
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
