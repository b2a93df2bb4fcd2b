using System.Buffers.Binary;
using Godwit.GuestStreams.Qemu;
using Godwit.Migration.Postcopy;
using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Migration;

// The guest is loaded, and runs, before its memory has come.
public sealed partial class DestinationEngine
{
    // A source that keeps the link's queue short has to hear soon that there is room.
    private const long AcknowledgeBytesShort = 32 << 10;
    // QEMU's own PING behind the device state of its package.
    private const uint PingLoaded = 3;
    private const int PackageHeaderBytes = 9;

    private readonly Func<RamBlock, bool>? _isShared;
    private readonly HashSet<int> _paused = [];
    private readonly FaultClock _faults = new();
    private readonly byte[] _packageHeader = new byte[PackageHeaderBytes];
    private MissingPages? _missing;
    private bool _missingTold;
    private long _packageSeen;
    private bool _isRunning;
    private bool _isLost;
    private bool _isDetached;
    private bool _rejoined;
    private bool _sentAll;
    private bool _endWritten;
    private bool _memoryShut;

    /// <summary>
    /// An engine for a guest that is this host's by an earlier daemon's move and lacks what <paramref name="missing"/>
    /// says. It is over when the guest has all of its memory and has been found running.
    /// </summary>
    public static DestinationEngine Resume(
        string guest, string from, int lanes, QemuStreamHead head, MissingPages missing, TimeSpan now)
    {
        missing.TakeUp();
        var engine = new DestinationEngine(guest, from, lanes, now)
        {
            Head = head,
            Blocks = head.Blocks,
            Phase = MigrationPhase.Committed,
            _missing = missing,
            _missingTold = true,
            _placed = true,
            _loaded = true,
            _ordered = true,
            _isLost = true,
        };
        engine.EndIfWhole();
        return engine;
    }

    /// <summary>The guest lacks pages here, and nobody is there to send them.</summary>
    public bool IsDetached => _isLost && IsFetching;

    /// <summary>The guest runs here, or is being run, and lacks pages.</summary>
    /// <remarks>QEMU may need some of them before it can answer that the guest runs.</remarks>
    public bool IsFetching =>
        _ordered && _refusal is null && _missingTold && Phase == MigrationPhase.Committed;

    /// <summary>The source said what is missing: from the pause on pages come for QEMU, not for memory.</summary>
    public bool InPostcopy => _missingTold;

    /// <summary>The pages that are missing of a block; null if none can be.</summary>
    public DirtySet? MissingOf(int blockIndex) => _missing?.Of(blockIndex);

    /// <summary>A lane has brought what it had before the guest was stopped.</summary>
    /// <param name="refused">Pages of it that could not be rebuilt: they are missing too.</param>
    public void LanePaused(int lane, IEnumerable<(int Block, PageNumber Page)> refused, TimeSpan now)
    {
        _now = _lastHeard = now;
        if (_missing is null || !_paused.Add(lane) || _placed)
        {
            throw new StreamFormatException(0, $"Lane {lane} pauses out of its turn.");
        }

        foreach ((int block, PageNumber page) in refused)
        {
            _missing.Add(block, page);
        }

        AllPaused();
    }

    /// <summary>A page is about to be given to QEMU.</summary>
    /// <returns>False if QEMU has it already.</returns>
    public bool TryGive(int blockIndex, PageNumber page) => _missing!.TryGive(blockIndex, page);

    /// <summary>Pages are in QEMU's hands.</summary>
    public void Given(int blockIndex, PageNumber first, int count, TimeSpan now)
    {
        for (int i = 0; i < count; i++)
        {
            _faults.Given(blockIndex, new PageNumber(first.Value + i), now);
        }
    }

    /// <summary>QEMU has closed its stream.</summary>
    public void StreamClosed(TimeSpan now)
    {
        if (_missingTold && !_endWritten && Phase is MigrationPhase.Switchover or MigrationPhase.Committed)
        {
            QemuFailed("QEMU has given up its postcopy stream before it had all memory.", now);
        }
    }

    /// <summary>QEMU answers the PING that stands behind the device state: it has loaded it.</summary>
    public void QemuPong(uint value, TimeSpan now)
    {
        _now = now;
        if (value != PingLoaded || !_missingTold || _loaded || Phase != MigrationPhase.Switchover)
        {
            return;
        }

        _loaded = true;
        Do(new Effect.Send(new ControlMessage.Loaded(_firstDeviceStateAt - _placedAt, now - _firstDeviceStateAt)));
    }

    /// <summary>The guest, or QEMU on its behalf, waits for pages.</summary>
    public void PagesTouched(int blockIndex, PageNumber first, int count, TimeSpan now)
    {
        _now = now;
        DirtySet? missing = _missing?.Of(blockIndex);
        if (missing is null || first.Value + count > missing.PageCount)
        {
            return;
        }

        for (int i = 0; i < count; i++)
        {
            var page = new PageNumber(first.Value + i);
            if (missing.Contains(page))
            {
                if (_faults.Asked(blockIndex, page, now))
                {
                    Do(new Effect.Send(new ControlMessage.PagesRequested(blockIndex, page, 1)));
                }
            }
            else if (_missing!.TryGive(blockIndex, page))
            {
                // Zero when the guest was stopped, and never written here.
                Do(new Effect.WriteZeroPage(blockIndex, page));
            }
        }
    }

    /// <summary>The source is back, over lanes of its own, and hears what is still missing.</summary>
    public void Rejoined(TimeSpan now)
    {
        _now = _lastHeard = now;
        (_isLost, _isDetached, _rejoined) = (false, false, true);
        _received = _acknowledged = 0;
        _barriers.Clear();
        Array.Clear(_asks);
        foreach (ControlMessage.PagesMissing told in _missing!.Told())
        {
            Do(new Effect.Send(told));
        }

        Do(new Effect.Send(new ControlMessage.MissingTold()));
        foreach ((int block, PageNumber page) in _faults.Waiting)
        {
            Do(new Effect.Send(new ControlMessage.PagesRequested(block, page, 1)));
        }
    }

    /// <summary>The lanes of a source that is lost are closed, and nobody brings pages any more.</summary>
    public void LanesClosed(TimeSpan now)
    {
        _now = now;
        if (IsDetached)
        {
            EndIfWhole();
        }
    }

    // The source need not come back for that, and may have nothing any more to come back with.
    private void EndIfWhole()
    {
        if (_missing!.Count == 0)
        {
            EndMemory();
        }
    }

    private void AllPaused()
    {
        if (!_missingTold || _paused.Count < _lanes || _placed)
        {
            return;
        }

        _placed = true;
        _placedAt = _now;
        Phase = MigrationPhase.Switchover;
        Acknowledge();
        Do(new Effect.Send(new ControlMessage.PagesPlaced()));
        Do(new Effect.ForgetMissing());
        HandOverDeviceState();
    }

    // Behind the package's last byte pages may follow, and not one byte before.
    private void FollowPackage(ReadOnlySpan<byte> bytes)
    {
        foreach (byte b in bytes[..(int)Math.Clamp(PackageHeaderBytes - _packageSeen, 0, bytes.Length)])
        {
            _packageHeader[_packageSeen++] = b;
            bytes = bytes[1..];
        }

        _packageSeen += bytes.Length;
        if (_packageSeen < PackageHeaderBytes)
        {
            return;
        }

        ReadOnlySpan<byte> header = _packageHeader;
        long whole = PackageHeaderBytes + (long)BinaryPrimitives.ReadUInt32BigEndian(header[5..]);
        if (header[0] != 8 || BinaryPrimitives.ReadUInt16BigEndian(header[1..]) != QemuCommand.Packaged
            || BinaryPrimitives.ReadUInt16BigEndian(header[3..]) != 4 || _packageSeen > whole)
        {
            throw new StreamFormatException(0, "The device state of a postcopy is not one package.");
        }

        if (_packageSeen == whole)
        {
            Do(new Effect.BeginDelivery());
        }
    }

    private void AllSent()
    {
        if (Phase < MigrationPhase.Committed)
        {
            // The lanes were faster than the word that it is this host's guest.
            _sentAll = true;
            return;
        }

        if (_missing!.Count > 0)
        {
            Lost($"{_from} has sent everything it was asked for, and {_missing.Count} pages have not come.");
            return;
        }

        Acknowledge();
        EndMemory();
    }

    // Once: what follows the end QEMU does not read.
    private void EndMemory()
    {
        if (!_endWritten)
        {
            _endWritten = true;
            Do(new Effect.WriteEndOfPostcopy());
        }
    }

    private void MemoryShut(uint code)
    {
        if (code != 0)
        {
            Lose($"QEMU ended the postcopy with code {code}.");
            return;
        }

        _memoryShut = true;
        CompleteIfRunning();
    }

    private void CompleteIfRunning()
    {
        if (!_memoryShut || !_isRunning)
        {
            return;
        }

        // A source that is not there asks how it has ended.
        Do(new Effect.Send(new ControlMessage.MemoryComplete(_faults.Report())));
        Outcome = MigrationOutcome.Completed;
        Phase = MigrationPhase.Ended;
        Do(new Effect.End());
    }

    // The guest goes on until it touches a page that is missing; the source keeps them and comes back.
    private void Lost(string text)
    {
        if (!_isLost && !_endWritten)
        {
            _isLost = true;
            _lostBecause = text;
            DetachIfLost();
        }
    }

    private string _lostBecause = "";

    private void DetachIfLost()
    {
        if (IsDetached && !_isDetached)
        {
            _isDetached = true;
            Do(new Effect.CloseLanes(_lostBecause));
        }
    }
}
