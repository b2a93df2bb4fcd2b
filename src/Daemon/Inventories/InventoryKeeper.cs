using Godwit.ChunkStore;
using Godwit.Daemon.Guests;
using Godwit.Host.Inventory;
using Godwit.Host.Qemu;
using Godwit.Host.Registry;
using Godwit.Migration;

namespace Godwit.Daemon.Inventories;

/// <summary>This host's inventory: what comes into it, what is looked up, and when it is brought up to date.</summary>
internal sealed class InventoryKeeper : IAsyncDisposable
{
    // Images that nobody moves change too. A look at one that has not costs a stat.
    private static readonly TimeSpan LookAgainEvery = TimeSpan.FromMinutes(5);

    // Of running guests that one move may be held against: their indexes are made for it and take 0.7 % of that.
    private const long SiblingBytesMax = 16L << 30;
    private readonly DaemonSettings _settings;
    private readonly HostInventory _inventory;
    private readonly ILogger<InventoryKeeper> _logger;
    private readonly TimeProvider _clock;
    private readonly GuestKeeper _guests;
    private ITimer? _timer;

    public InventoryKeeper(
        DaemonSettings settings, GuestKeeper guests, TimeProvider clock, ILogger<InventoryKeeper> logger)
    {
        _settings = settings;
        _guests = guests;
        _clock = clock;
        _logger = logger;
        _inventory = new HostInventory(
            settings.InventoryDirectory, QuotaBytes, logger);
    }

    public long QuotaBytes => (long)_settings.InventoryMebibytes << 20;

    /// <summary>Indexes the configured images and those of the guests, now and whenever they change.</summary>
    public void Start() => _timer = _clock.CreateTimer(_ => Look(), null, TimeSpan.Zero, LookAgainEvery);

    /// <summary>Indexes a guest's images where they are new or changed.</summary>
    public void Watch(MachineContract contract)
    {
        foreach (var disk in contract.Disks)
        {
            _inventory.Watch(disk.Path);
        }
    }

    /// <summary>What can be rebuilt for a guest on its way here; null if nothing may be.</summary>
    /// <param name="withRunning">The memory of guests that run here counts, where it may: it has to be read.</param>
    public async Task<GuestInventory?> OpenAsync(
        MachineContract contract, MigrationPolicy policy, bool withRunning = true)
    {
        if (policy.Share == ContentSharing.None)
        {
            return null;
        }

        var siblings = policy.Share == ContentSharing.Host;
        var running = siblings && withRunning && _settings.InventoryMebibytes > 0 ? TakeSiblings(contract, policy) : [];
        return await _inventory.OpenAsync(
            contract.Uuid, ImagesOf(contract), [.. Bases()], siblings, running);
    }

    /// <summary>The same without what was hoarded for the guest.</summary>
    public Task<GuestInventory> OpenBesideHoardAsync(MachineContract contract) => _inventory.OpenAsync(
        contract.Uuid, ImagesOf(contract), [.. Bases()], siblings: false, hoard: false);

    /// <summary>Begins to hoard for a guest, upon what was hoarded for it before.</summary>
    /// <exception cref="IOException">The disk cannot be written.</exception>
    public Hoard BeginHoard(MachineContract contract, GuestInventory beside) =>
        _inventory.BeginHoard(contract.Uuid, contract.Name, beside);

    /// <summary>Makes room for what is hoarded for a guest.</summary>
    /// <param name="bytes">What it takes in all.</param>
    /// <param name="bytesMax">What all hoards together may take; the oldest ones go. Null for no such limit.</param>
    /// <returns>What there is room for: less than was asked for if there is no more.</returns>
    public long MakeHoardRoom(MachineContract contract, long bytes, long? bytesMax)
    {
        var images = ImagesOf(contract);
        var hoards = _inventory.Hoards();
        var own = hoards.Where(one => one.Guest == contract.Uuid).Sum(one => one.Bytes);
        // The index comes with it: 28 bytes for a block, more of them for one that holds nodes.
        var takes = bytes + (bytes / 64);
        var room = Math.Min(
            Math.Min(_inventory.HoardRoom(contract.Uuid, images), bytesMax ?? long.MaxValue),
            _inventory.FreeBytes + own);
        if (bytesMax is { } all)
        {
            var others = hoards.Where(one => one.Guest != contract.Uuid).ToList();
            for (var left = others.Sum(one => one.Bytes); others.Count > 0 && left + takes > all; others.RemoveAt(0))
            {
                _inventory.ForgetHoard(others[0].Guest);
                left -= others[0].Bytes;
            }
        }

        _inventory.MakeRoom(contract.Uuid, images, Math.Min(takes, room));
        return Math.Min(bytes, room - (room / 64));
    }

    private static IReadOnlyList<string> ImagesOf(MachineContract contract) =>
        [.. contract.Disks.Select(disk => disk.Path)];

    // The newest first: what is moved together arrives one after another.
    private List<GuestMemory> TakeSiblings(MachineContract contract, MigrationPolicy policy)
    {
        List<GuestMemory> taken = [];
        var bytes = 0L;
        foreach (var guest in _guests.All.Where(guest => guest.Record.Uuid != contract.Uuid)
            .OrderByDescending(guest => guest.Record.Started))
        {
            bytes += guest.Record.Contract.MemoryBytes;
            if (bytes > SiblingBytesMax)
            {
                break;
            }

            if (TakeMemory(guest, policy) is { } memory)
            {
                taken.Add(memory);
            }
        }

        return taken;
    }

    /// <summary>Tells blocks that a configured base image holds from others, by the indexes there are now.</summary>
    public Func<ChunkId, bool> BaseTest()
    {
        var indexes = _inventory.OpenIndexes(Bases());
        return id => indexes.Any(index => index.TryFind(new ContentName(id.High), out _));
    }

    /// <summary>
    /// Takes hold of a guest's memory, which then outlives its QEMU; null if nothing may be rebuilt from it.
    /// </summary>
    public GuestMemory? TakeMemory(LocalGuest guest, MigrationPolicy policy)
    {
        if (policy.Share == ContentSharing.None || _settings.InventoryMebibytes == 0
            || guest.Machine is not { } machine)
        {
            return null;
        }

        try
        {
            return machine.OpenMemory().SingleOrDefault();
        }
        catch (GodwitException exception)
        {
            Log.MemoryNotKept(_logger, guest.Record.Name, exception.Message);
            return null;
        }
    }

    /// <summary>The guest is another host's: what it left behind makes its return cheap.</summary>
    public void Left(LocalGuest guest, GuestMemory? memory)
    {
        if (memory is not null)
        {
            _inventory.Keep(guest.Record.Uuid, guest.Record.Name, memory);
        }
        else
        {
            _inventory.Forget(guest.Record.Uuid);
        }

        Watch(guest.Record.Contract);
    }

    /// <summary>Begins to note what a guest comes with; null if nothing may be kept of it.</summary>
    public ArrivedMemory? BeginArrival(MachineContract contract, MigrationPolicy policy, string from) =>
        policy.Share == ContentSharing.None || !contract.SharedMemory
            ? null
            : _inventory.BeginArrival(contract.Uuid, contract.Name, from, contract.MemoryBytes);

    /// <summary>What a guest came with from the host it now goes back to; null if that is not known.</summary>
    public ArrivedMemory? OpenArrival(MachineContract contract, MigrationPolicy policy, string from) =>
        policy.Share == ContentSharing.None
            ? null
            : _inventory.OpenArrival(contract.Uuid, from, contract.MemoryBytes);

    /// <summary>The guest is here again: what it left behind is no more than a copy of what it was.</summary>
    /// <param name="memory">What was noted of its memory, if it moved here.</param>
    public void Arrived(LocalGuest guest, ArrivedMemory? memory = null)
    {
        _inventory.Arrived(guest.Record.Uuid, memory);
        Watch(guest.Record.Contract);
    }

    /// <summary>The guest is no more.</summary>
    public void Removed(Guid guest) => _inventory.Forget(guest);

    public IReadOnlyList<InventoryEntry> List() => _inventory.List();

    /// <summary>Removes the oldest until no more than this is left, and says how much that freed.</summary>
    public long Trim(long bytesMax) => _inventory.Trim(bytesMax);

    public async ValueTask DisposeAsync()
    {
        if (_timer is not null)
        {
            await _timer.DisposeAsync();
        }

        await _inventory.DisposeAsync();
    }

    private void Look()
    {
        foreach (var image in Bases())
        {
            _inventory.Watch(image);
        }

        foreach (var guest in _guests.All)
        {
            Watch(guest.Record.Contract);
        }
    }

    // The files that inventoryImages names, itself or by their directory.
    private List<string> Bases()
    {
        List<string> bases = [];
        foreach (var image in _settings.InventoryImages.Split(':', StringSplitOptions.RemoveEmptyEntries))
        {
            try
            {
                bases.AddRange(Directory.Exists(image) ? Directory.EnumerateFiles(image) : [image]);
            }
            catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
            {
                Log.ImagesUnreadable(_logger, image, exception.Message);
            }
        }

        return bases;
    }
}
