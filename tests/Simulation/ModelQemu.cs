using System.Buffers;
using System.Buffers.Binary;
using Godwit.GuestStreams.Qemu;
using Godwit.Migration.HandOver;
using Godwit.Pages;

namespace Godwit.Simulation;

/// <summary>A QEMU as the daemons meet it: a process that outlives them and has a will of its own.</summary>
/// <remarks>
/// What is modelled of it was seen with real ones (docs/formats/qemu-stream.md, docs/formats/hand-over.md): it resumes
/// a guest by itself when its stream breaks, unless it holds the stream's other end too; it checks nothing that it is
/// sent; what it lists as dirty it lists once.
/// </remarks>
internal sealed class ModelQemu : IQemuStreamSink
{
    private const int SectionPages = 200;
    // A guest that writes faster than QEMU lists is stopped all the same by a limit that everything fits.
    private const int DowntimeLimitAlways = 2_000_000;
    private readonly World _world;
    private readonly ModelGuest _guest;
    private readonly QemuStreamHead _head;
    private readonly bool[][] _dirty;
    private int _dirtyCount;
    private QemuStreamReader? _incoming;
    private bool _migrating;
    private bool _completed;
    private bool _listed;
    private int _deviceBytes;
    private readonly bool[] _missing;
    private readonly HashSet<int> _waitedFor = [];
    // In the socket of its stream, where they outlive the daemon that has not read them.
    private readonly Queue<int> _requests = new();

    public ModelQemu(World world, string host, ModelGuest guest, bool incoming)
    {
        (_world, _guest, Host) = (world, guest, host);
        Memory = guest.NewMemory();
        _head = new QemuStreamHead("", 1, guest.Blocks);
        _dirty = [.. guest.Blocks.Select(block => new bool[block.PageCount])];
        _missing = new bool[guest.Blocks[0].PageCount];
        IsIncoming = incoming;
        if (incoming)
        {
            _incoming = new QemuStreamReader(this);
        }
    }

    // A device's state, the end, and the description of it.
    /// <summary>Of its stream.</summary>
    public QemuStreamHead Head => _head;

    /// <summary>It listens to a postcopy stream that has not come to its end.</summary>
    public bool IsListening { get; private set; }

    private static ReadOnlySpan<byte> DeviceState =>
        [0x04, 1, 2, 3, 4, 5, 6, 7, 0, 6, 0, 0, 0, 2, (byte)'{', (byte)'}'];

    public string Host { get; }

    public byte[][] Memory { get; }

    public bool IsAlive { get; private set; } = true;

    public bool Runs { get; private set; }

    /// <summary>It waits for a guest that has not been handed over to it yet.</summary>
    public bool IsIncoming { get; private set; }

    public bool HasLoaded { get; private set; }

    /// <summary>The migration that it takes part in, or took last.</summary>
    public string Migration { get; set; } = "";

    /// <summary>It has the daemon's end of its stream too, so that the stream does not end with the daemon.</summary>
    public bool IsHeld { get; set; }

    /// <summary>It may stop the guest: the switchover has been released.</summary>
    public bool IsReleased { get; set; }

    public int DowntimeLimitMilliseconds { get; set; } = 1;

    /// <summary>The one who is told of its events; none if its daemon is gone.</summary>
    public IQemuListener? Listener { get; set; }

    public GuestCopy Copy => !IsAlive ? GuestCopy.Gone : Runs ? GuestCopy.Running : GuestCopy.Paused;

    public void Boot()
    {
        _guest.Boot(Memory);
        Start();
    }

    /// <summary>Does what the guest has done up to now; more, to be unlucky.</summary>
    public void CatchUp(int more = 0)
    {
        if (!Runs)
        {
            return;
        }

        _world.CheckAgrees(this);

        _guest.CatchUp(Memory, MarkDirty, Touch, more);
    }

    // Postcopy.

    /// <summary>Pages of its memory that are not there.</summary>
    public int Lacks { get; private set; }

    /// <summary>What it asks for next: once for each page that somebody waits for, whoever reads it.</summary>
    public bool TryReadRequest(out int page) => _requests.TryDequeue(out page);

    /// <summary>Everything that waits touches its page again, and it asks for it again.</summary>
    public void WakeAll()
    {
        foreach (int page in _waitedFor)
        {
            _requests.Enqueue(page);
        }
    }

    public bool IsMissing(int block, int page) => block == 0 && _missing[page];

    /// <summary>A page's content is taken away: who touches it waits for it from now on.</summary>
    public void Punch(int page)
    {
        Memory[0].AsSpan(page * Page.Size, Page.Size).Clear();
        Lacks += _missing[page] ? 0 : 1;
        _missing[page] = true;
    }

    /// <summary>It listens, and loads the devices' state; for some of that it needs memory.</summary>
    public void Listen()
    {
        if (!IsAlive)
        {
            return;
        }

        _world.CheckArrived(this);
        (_incoming, IsListening) = (null, true);
        for (int i = 0; i < 3 && _world.Time.Happens(0.3); i++)
        {
            Touch(0, _world.Time.Chance.Next(_missing.Length));
        }

        Load();
    }

    // As long as it waits for a page it does not answer.
    private void Load() => _world.Time.After(_world.Time.Between(0.5, 20), () =>
    {
        if (IsAlive && _waitedFor.Count == 0)
        {
            HasLoaded = true;
            Listener?.Loaded();
        }
        else if (IsAlive)
        {
            Load();
        }
    });

    /// <summary>A page comes by the stream.</summary>
    public void Give(int page, ReadOnlySpan<byte> content)
    {
        if (!IsAlive)
        {
            return;
        }

        if (!_missing[page])
        {
            _world.Violate($"{Host}: page {page} of {Migration} reaches QEMU a second time");
            return;
        }

        content.CopyTo(Memory[0].AsSpan(page * Page.Size));
        _missing[page] = false;
        // What it asked is still to be read.
        _waitedFor.Remove(page);
        Lacks--;
        _world.CheckPage(this, 0, page);
    }

    /// <summary>The end of a postcopy.</summary>
    public void EndPostcopy()
    {
        IsListening = false;
        if (IsAlive && Lacks > 0)
        {
            _world.Violate($"{Host}: the postcopy of {Migration} ends, and {Lacks} pages are missing");
        }
    }

    private bool Touch(int block, int page)
    {
        if (!IsMissing(block, page))
        {
            return true;
        }

        if (_waitedFor.Add(page))
        {
            _requests.Enqueue(page);
        }

        return false;
    }

    public void Kill()
    {
        if (IsAlive)
        {
            CatchUp();
            Stop();
            IsAlive = false;
            Listener?.QemuEnded();
        }
    }

    /// <summary>QMP cont.</summary>
    /// <returns>False if it says no.</returns>
    public bool Continue()
    {
        if (!IsAlive || (IsIncoming && !HasLoaded) || _completed)
        {
            return false;
        }

        if (IsIncoming)
        {
            _world.CheckArrived(this);
            _world.Arrived(Migration);
            IsIncoming = false;
        }

        Start();
        return true;
    }

    // The source's side.

    /// <summary>QMP migrate: every page counts as dirty.</summary>
    public void BeginMigration(string migration)
    {
        Migration = migration;
        Array.ForEach(_dirty, block => Array.Fill(block, true));
        _dirtyCount = _dirty.Sum(block => block.Length);
        (_migrating, IsReleased, _listed, DowntimeLimitMilliseconds) = (true, false, false, 1);
    }

    /// <summary>The head of its stream.</summary>
    public byte[] Prologue()
    {
        var bytes = new ArrayBufferWriter<byte>();
        Put32(bytes, 0x5145564D);
        Put32(bytes, 3);
        bytes.Write("\a"u8);
        Put32(bytes, 11);
        bytes.Write("pc-q35-10.0"u8);
        bytes.Write((ReadOnlySpan<byte>)[1]);
        Put32(bytes, 1);
        bytes.Write("\u0003ram"u8);
        Put32(bytes, 0);
        Put32(bytes, 4);
        Put64(bytes, (ulong)_guest.Blocks.Sum(block => block.Length) | 4);
        foreach (RamBlock block in _guest.Blocks)
        {
            bytes.Write((ReadOnlySpan<byte>)[(byte)block.Name.Length]);
            bytes.Write(System.Text.Encoding.ASCII.GetBytes(block.Name));
            Put64(bytes, (ulong)block.Length);
        }

        Put64(bytes, 0x10);
        bytes.Write((ReadOnlySpan<byte>)[0x7E]);
        Put32(bytes, 1);
        return bytes.WrittenSpan.ToArray();
    }

    /// <summary>What it writes next: a section of what it finds dirty, or the rest and the device state.</summary>
    /// <param name="holds">It waits for the acknowledgement before it stops the guest, as from 8.1 on.</param>
    /// <param name="bytes">Where it is written to.</param>
    /// <returns>Whether it is the last.</returns>
    public bool WriteSection(ArrayBufferWriter<byte> bytes, bool holds)
    {
        CatchUp();
        int count = _dirtyCount;
        // What its limit allows at the rate at which it believes to send.
        bool isListed = _listed || DowntimeLimitMilliseconds >= DowntimeLimitAlways;
        bool mayStop = isListed && (holds ? IsReleased : count <= DowntimeLimitMilliseconds * 8);
        if (Runs && mayStop)
        {
            Stop();
            _world.Paused(this);
            Listener?.GuestStopped();
        }

        _listed |= count <= SectionPages;
        bool last = !Runs;
        bytes.ResetWrittenCount();
        var writer = new QemuStreamWriter(bytes, _head);
        if (last)
        {
            if (holds)
            {
                writer.Command(QemuCommand.SwitchoverStart, []);
            }

            writer.BeginEnd();
        }
        else
        {
            writer.BeginPart();
        }

        int left = last ? count : Math.Min(count, SectionPages);
        foreach (RamBlock block in _guest.Blocks)
        {
            for (int page = 0; page < block.PageCount && left > 0; page++)
            {
                if (_dirty[block.Index][page])
                {
                    _dirty[block.Index][page] = false;
                    _dirtyCount--;
                    left--;
                    ReadOnlySpan<byte> content = ContentOf(block.Index, page);
                    if (content.ContainsAnyExcept((byte)0))
                    {
                        writer.Page(block, new PageNumber(page), content);
                    }
                    else
                    {
                        writer.ZeroPage(block, new PageNumber(page));
                    }
                }
            }
        }

        writer.EndSection();
        if (last)
        {
            bytes.Write(DeviceState);
        }

        return last;
    }

    /// <summary>The destination has everything: it completes and keeps the guest stopped.</summary>
    public void Confirm()
    {
        (_migrating, _completed) = (false, IsAlive);
    }

    /// <summary>Its stream has ended, or its migration was cancelled.</summary>
    public void StreamBroke()
    {
        if (IsIncoming)
        {
            if (!HasLoaded)
            {
                Kill();
            }

            return;
        }

        if (IsAlive && _migrating && !IsHeld)
        {
            _migrating = false;
            Start();
        }
    }

    /// <summary>QMP closefd and migrate_cancel.</summary>
    public void CancelMigration()
    {
        IsHeld = false;
        StreamBroke();
    }

    // The destination's side.

    public void Feed(ReadOnlySpan<byte> bytes)
    {
        if (IsAlive)
        {
            _incoming?.Feed(bytes);
        }
    }

    void IQemuStreamSink.Prologue(ReadOnlySpan<byte> verbatim, QemuStreamHead head)
    {
    }

    void IQemuStreamSink.Page(int blockIndex, PageNumber page, ReadOnlySpan<byte> content)
    {
        Span<byte> place = Memory[blockIndex].AsSpan((int)page.ByteOffset, Page.Size);
        if (content.IsEmpty)
        {
            place.Clear();
        }
        else
        {
            content.CopyTo(place);
        }
    }

    void IQemuStreamSink.SectionEnd(bool final, int pages)
    {
    }

    void IQemuStreamSink.Command(ushort number, ReadOnlySpan<byte> payload)
    {
    }

    void IQemuStreamSink.Tail(ReadOnlySpan<byte> verbatim)
    {
        _deviceBytes += verbatim.Length;
        if (_deviceBytes < DeviceState.Length)
        {
            return;
        }

        // Loading devices reads guest memory: it is all there, or the guest is damaged.
        _world.CheckArrived(this);
        HasLoaded = true;
        _incoming = null;
        _world.Time.After(_world.Time.Between(0.5, 20), () =>
        {
            if (IsAlive)
            {
                Listener?.Loaded();
            }
        });
    }

    private void MarkDirty(int block, int page)
    {
        _dirtyCount += _dirty[block][page] ? 0 : 1;
        _dirty[block][page] = true;
    }

    private ReadOnlySpan<byte> ContentOf(int block, int page) =>
        Memory[block].AsSpan(page * Page.Size, Page.Size);

    private void Start()
    {
        if (!Runs)
        {
            Runs = true;
            _guest.Resume();
            _world.Started(this);
        }
    }

    private void Stop()
    {
        if (Runs)
        {
            Runs = false;
            _world.Stopped(this);
        }
    }

    private static void Put32(ArrayBufferWriter<byte> bytes, uint value)
    {
        BinaryPrimitives.WriteUInt32BigEndian(bytes.GetSpan(4), value);
        bytes.Advance(4);
    }

    private static void Put64(ArrayBufferWriter<byte> bytes, ulong value)
    {
        BinaryPrimitives.WriteUInt64BigEndian(bytes.GetSpan(8), value);
        bytes.Advance(8);
    }
}

/// <summary>What a daemon hears of a QEMU.</summary>
internal interface IQemuListener
{
    void GuestStopped();

    void Loaded();

    void QemuEnded();
}
