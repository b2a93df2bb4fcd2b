using System.Text.Json;
using Godwit.ChunkStore;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.ChunkStore.Trees;
using Godwit.Host.Qemu;
using Godwit.Pages;

namespace Godwit.Host.Parcels;

/// <summary>Who a new parcel is of, and what it follows.</summary>
/// <param name="Home">Id of the store that it is made in.</param>
/// <param name="Contract">The machine, as the daemon describes it.</param>
/// <param name="Parent">The guest's last parcel, or empty.</param>
public sealed record ParcelSubject(
    string Id, ParcelKind Kind, string Host, string Home, long Epoch, JsonElement Contract, string Parent,
    IReadOnlyList<string> CpuFeaturesMissing);

/// <summary>
/// Makes a parcel of a running guest: most of it while the guest runs, the rest while it stands still.
/// </summary>
/// <remarks>
/// The order decides how little is stored: disks first, so that memory that caches them is known already, then memory,
/// then both again as far as they have changed.
/// </remarks>
public sealed class ParcelRecorder : IAsyncDisposable
{
    // The rest that the guest is stopped for: QEMU writes it and we copy it in some ten milliseconds.
    private const long RestPagesMax = 4096;
    private const int RoundsMax = 12;

    // Of the disks: what is read while the guest stands still, and how often before.
    private const long DiskRestBytesMax = 8 << 20;
    private const int DiskPassesMax = 8;
    private readonly QemuMachine _machine;
    private readonly StoreWriter _writer;
    private readonly string _runtimeDirectory;
    private readonly Func<ChunkId, bool> _isBase;
    private readonly List<FileRecorder> _disks = [];
    private readonly List<FileRecorder> _bases = [];
    private DiskChanges? _changes;
    private IReadOnlyDictionary<string, IReadOnlyList<(long From, long Length)>>? _diskRest;
    private GuestCapture? _capture;
    private MemoryRecorder? _memory;
    private HeldPages? _rest;
    private DirtySet? _taken;

    // Written in the last rounds.
    private readonly List<long> _recent = [];
    private long _stoodStillUnixMs;
    private bool _isAbandoned;

    /// <param name="isBase">Whether a block is one of a base image's.</param>
    public ParcelRecorder(
        QemuMachine machine, StoreWriter writer, string runtimeDirectory, Func<ChunkId, bool> isBase)
    {
        _machine = machine;
        _writer = writer;
        _runtimeDirectory = runtimeDirectory;
        _isBase = isBase;
    }

    /// <summary>What is known from before of the pages that the guest touches first.</summary>
    public IReadOnlyList<long> WakeBefore { get; init; } = [];

    /// <summary>Pages and blocks looked at so far: it grows as long as the store takes what it is given.</summary>
    public long Steps => (_memory?.Steps ?? 0) + _disks.ToArray().Concat(_bases.ToArray())
        .Sum(one => one?.Steps ?? 0);

    /// <summary>How long the guest stood still; zero as long as it does.</summary>
    public TimeSpan Pause => _capture?.Pause ?? TimeSpan.Zero;

    /// <summary>Rounds over memory, the one with the guest stopped included.</summary>
    public int Rounds { get; private set; }

    /// <summary>Puts what there is while the guest runs, until little is left.</summary>
    /// <exception cref="Godwit.Migration.GodwitException"><c>parcel-capture</c>, <c>parcel-memory</c>,
    /// <c>parcel-disk</c>: the guest runs on.</exception>
    /// <exception cref="StorageException">The store failed: the guest runs on.</exception>
    public async Task PrepareAsync(CancellationToken cancellationToken)
    {
        GuestMemory memory = _machine.OpenMemory().SingleOrDefault()
            ?? throw new Godwit.Migration.GodwitException("parcel-memory",
                $"Guest {_machine.Contract.Name} has private memory, which cannot be put into a store.",
                "Only a guest with shared memory, the default, can be suspended.");
        try
        {
            _changes = await DiskChanges.TryBeginAsync(
                _machine, [.. WatchedImages()], _runtimeDirectory, cancellationToken);
            await Task.Run(() => RecordDisks(cancellationToken), cancellationToken);
            _capture = await GuestCapture.BeginAsync(_machine, memory, _runtimeDirectory, cancellationToken);
        }
        catch
        {
            memory.Dispose();
            throw;
        }

        _memory = new MemoryRecorder(memory, _writer, WakeBefore.ToHashSet());
        await Task.Run(() => RecordFirstRound(cancellationToken), cancellationToken);
        await RecordDiskPassesAsync(cancellationToken);
        await Task.Run(() => RecordRounds(cancellationToken), cancellationToken);
    }

    /// <summary>Stops the guest and takes what is left of its memory; its disks stand still too.</summary>
    /// <param name="nowUnixMs">The time, for the manifest.</param>
    /// <exception cref="Godwit.Migration.GodwitException"><c>parcel-capture</c>: the guest is to go on.</exception>
    public async Task StopGuestAsync(Func<long> nowUnixMs, CancellationToken cancellationToken)
    {
        await _capture!.StopGuestAsync(cancellationToken);
        _stoodStillUnixMs = nowUnixMs();
        // Before QEMU closes the disks: it says nothing of them afterwards.
        _diskRest = await TakeChangesAsync(isLast: true);
        await _capture.TakeStateAsync();
        _taken = _capture.TakeDirty(_taken);
        Rounds++;
    }

    /// <summary>Keeps the guest stopped whatever becomes of this process.</summary>
    public Task HoldAsync() => _capture!.HoldAsync();

    /// <summary>Lets the guest run here; another recorder may begin, whenever this one is disposed of.</summary>
    /// <remarks>What holds this one may be a store that does not answer.</remarks>
    public async Task GoOnAsync()
    {
        if (_capture is not null)
        {
            await _capture.GoOnAsync();
        }

        if (_changes is not null)
        {
            await _changes.DisposeAsync();
        }
    }

    /// <summary>Puts what is left. Disks that are still being written to have to be recorded before.</summary>
    /// <param name="disksStandStill">False: the disks were recorded by <see cref="RecordDisksAgain"/>.</param>
    /// <returns>The manifest; everything it names is durable.</returns>
    public ParcelManifest Finish(ParcelSubject subject, bool disksStandStill)
    {
        if (disksStandStill)
        {
            // The memory stands still as well: however much is left of it, it goes from there into the store.
            _memory!.Record(_taken!, ChunkGroup.WorkingSet);
            _disks.ForEach(disk => RecordRest(disk, disk.Record, disk.Record));
        }
        else
        {
            _memory!.Record(_rest!, ChunkGroup.WorkingSet);
            _disks.ForEach(disk => disk.RecordHeld());
        }

        (byte[] head, byte[] tail) = _capture!.State;
        MachineContract contract = _machine.Contract;
        IReadOnlyList<long> wake = WakeSet.Merge(
            WakeBefore, _taken!.Select(page => page.Value), Enumerable.Reverse(_recent));
        ParcelPart[] carried = [.. _capture.Carried.Select(one => Blob(one.Block.Name, one.Content))];
        var manifest = new ParcelManifest
        {
            Format = ParcelManifest.FormatVersion,
            Id = subject.Id,
            Kind = subject.Kind,
            Guest = contract.Uuid.ToString(),
            Name = contract.Name,
            Host = subject.Host,
            Home = subject.Home,
            Epoch = subject.Epoch,
            CreatedUnixMs = _stoodStillUnixMs,
            Parent = subject.Parent,
            Contract = subject.Contract,
            Qemu = _machine.Version.ToString(),
            CpuFeaturesMissing = subject.CpuFeaturesMissing,
            State = Blob("state", [.. head, .. tail]),
            StateHeadBytes = head.Length,
            Memory =
            [
                new ParcelPart(
                    _capture.Memory.Name, _capture.Memory.Length, _memory.Finish().ToString()),
                .. carried,
            ],
            Disks = [.. _disks.Concat(_bases).Select(disk => disk.Finish())],
            Wake = Blob(WakeSet.PartName, WakeSet.Encode(wake)),
            PauseMs = Pause.TotalMilliseconds,
        };
        _writer.Flush();
        return manifest with { BytesWritten = _writer.BytesWritten };
    }

    /// <summary>
    /// Copies what is left of the memory and of the writable disks, for the guest to go on. If QEMU does not tell what
    /// has changed of the disks they are looked through again.
    /// </summary>
    /// <exception cref="Godwit.Migration.GodwitException">
    /// <c>parcel-busy</c>: too much is left to be copied.
    /// </exception>
    public void RecordDisksAgain()
    {
        long disks = _diskRest?.Values.Sum(parts => parts.Sum(part => part.Length)) / Page.Size ?? 0;
        if (_taken!.Count + disks > HeldPages.CountMax)
        {
            throw new Godwit.Migration.GodwitException("parcel-busy",
                $"{_machine.Contract.Name} writes to its memory or disks faster than the store takes it: "
                + $"{(_taken.Count + disks) * Page.Size >> 20} MiB were left after {Rounds} rounds, and a checkpoint "
                + $"holds {(HeldPages.CountMax * Page.Size) >> 20} MiB.",
                "Try again when it has less to do, or suspend it: that holds nothing.");
        }

        _rest = _memory!.Hold(_taken);
        _disks.ForEach(disk => RecordRest(disk, disk.Record, disk.Hold));
    }

    private void RecordRest(
        FileRecorder disk, Action all, Action<IReadOnlyList<(long From, long Length)>> parts)
    {
        if (_diskRest?.GetValueOrDefault(disk.Path) is { } rest)
        {
            parts(rest);
        }
        else
        {
            all();
        }
    }

    private async Task<IReadOnlyDictionary<string, IReadOnlyList<(long From, long Length)>>?> TakeChangesAsync(
        bool isLast)
    {
        try
        {
            return _changes is null ? null : await _changes.TakeAsync(isLast);
        }
        catch (Exception e) when (e is QmpException or IOException)
        {
            throw new Godwit.Migration.GodwitException("parcel-capture",
                $"QEMU of {_machine.Contract.Name} does not tell what has changed of its disks: {e.Message}",
                "The guest runs on. Try again; what QEMU said last is in its log.", e);
        }
    }

    // While the guest runs: what it writes meanwhile is left for the next pass, and less of it each time.
    private async Task RecordDiskPassesAsync(CancellationToken cancellationToken)
    {
        for (int pass = 0; _changes is not null && pass < DiskPassesMax
            && await _changes.CountAsync(cancellationToken) > DiskRestBytesMax; pass++)
        {
            var changed = (await TakeChangesAsync(isLast: false))!;
            await Task.Run(() => _disks.ForEach(disk =>
            {
                cancellationToken.ThrowIfCancellationRequested();
                disk.Record(changed.GetValueOrDefault(disk.Path) ?? []);
            }), cancellationToken);
        }
    }

    // A format with tables of its own is not watched: QEMU writes them when it closes the image, which is after the
    // last word on what has changed. It is looked through as a whole.
    private IEnumerable<string> WatchedImages() => _machine.Contract.Disks
        .Where(disk => !disk.ReadOnly && disk.Format == "raw")
        .Select(disk => DiskImage.Chain(disk.Path)[0]).Distinct();

    /// <summary>The guest's QEMU is being killed.</summary>
    public void Abandon()
    {
        _isAbandoned = true;
        _capture?.Abandon();
    }

    public async ValueTask DisposeAsync()
    {
        if (_changes is not null && !_isAbandoned)
        {
            await _changes.DisposeAsync();
        }

        if (_capture is not null)
        {
            await _capture.DisposeAsync();
        }
    }

    private void RecordDisks(CancellationToken cancellationToken)
    {
        HashSet<string> seen = [];
        // What QEMU is started with has to be there wherever the guest is resumed.
        foreach (string? path in (string?[])[_machine.Contract.KernelPath, _machine.Contract.InitramfsPath])
        {
            if (path is not null && seen.Add(path))
            {
                Record(path, _bases, _ => true, cancellationToken);
            }
        }

        foreach (DiskContract disk in _machine.Contract.Disks)
        {
            IReadOnlyList<string> chain = DiskImage.Chain(disk.Path);
            for (int i = 0; i < chain.Count; i++)
            {
                if (!seen.Add(chain[i]))
                {
                    continue;
                }

                bool isOwn = i == 0 && !disk.ReadOnly;
                // What others may be based on as well goes where base images go.
                Record(chain[i], isOwn ? _disks : _bases, isOwn ? _isBase : _ => true, cancellationToken);
            }
        }
    }

    private void Record(
        string path, List<FileRecorder> to, Func<ChunkId, bool> isBase, CancellationToken cancellationToken)
    {
        cancellationToken.ThrowIfCancellationRequested();
        var recorder = new FileRecorder(path, _writer, isBase);
        to.Add(recorder);
        recorder.Record();
    }

    private void RecordFirstRound(CancellationToken cancellationToken)
    {
        while (!_capture!.FirstPassOver || _capture.DirtyCount > 0)
        {
            RecordDirty(ChunkGroup.Memory, cancellationToken);
        }
    }

    private void RecordRounds(CancellationToken cancellationToken)
    {
        for (Rounds = 1; Rounds < RoundsMax; Rounds++)
        {
            _capture!.Rest();
            _capture.CatchUp();
            if (_capture.DirtyCount <= RestPagesMax)
            {
                break;
            }

            RecordDirty(ChunkGroup.WorkingSet, cancellationToken);
        }
    }

    private void RecordDirty(ChunkGroup group, CancellationToken cancellationToken)
    {
        cancellationToken.ThrowIfCancellationRequested();
        _taken = _capture!.TakeDirty(_taken);
        if (_taken.Count > 0)
        {
            _memory!.Record(_taken, group);
            if (group == ChunkGroup.WorkingSet)
            {
                _recent.AddRange(_taken.Take(WakeSet.PagesMax).Select(page => page.Value));
            }
        }
        else
        {
            // QEMU is behind us.
            Thread.Sleep(1);
        }
    }

    private ParcelPart Blob(string name, byte[] content)
    {
        ChunkId[] ids = new ChunkId[(content.Length + Page.Size - 1) / Page.Size];
        byte[] page = new byte[Page.Size];
        for (int i = 0; i < ids.Length; i++)
        {
            ReadOnlySpan<byte> part = content.AsSpan(
                i * Page.Size, Math.Min(Page.Size, content.Length - (i * Page.Size)));
            page.AsSpan().Clear();
            part.CopyTo(page);
            ids[i] = ZeroTest.IsZero(page) ? default : _writer.Put(page, ChunkGroup.WorkingSet);
        }

        return new ParcelPart(
            name, content.Length, ChunkTree.Build(ids, node => _writer.Put(node, ChunkGroup.Nodes)).ToString());
    }
}
