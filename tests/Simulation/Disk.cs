using Godwit.Migration.HandOver;

namespace Godwit.Simulation;

/// <summary>The host crashes in the middle of a write.</summary>
internal sealed class CrashException : Exception;

/// <summary>A host's disk under the state directory: journal and registry, and how it fails.</summary>
internal sealed class Disk(Timeline time, Canary canary) : IJournalFile
{
    private byte[] _journal = [];
    // What power failing now would take away. Empty unless a canary has the disk lie.
    private byte[] _flushed = [];
    private GuestOwnership? _registry;
    private bool _isTorn;

    public bool IsFull { get; set; }

    /// <summary>The next write fails in the middle, and part of it, or all, is there.</summary>
    public bool TearsNextWrite { get; set; }

    /// <summary>The daemon dies in the middle of the next write.</summary>
    public bool CrashesInNextWrite { get; set; }

    /// <summary>How long a flush takes; long on a disk that is dying.</summary>
    public TimeSpan FlushTime { get; set; } = TimeSpan.FromMilliseconds(1);

    /// <summary>What the registry has of the guest; null if it does not know it.</summary>
    public GuestOwnership? Registry => _registry;

    /// <summary>The same content on a disk that does not fail.</summary>
    public Disk Copy() => new(time, Canary.None) { _journal = _journal, _flushed = _flushed, _registry = _registry };

    public byte[] ReadAll() => [.. _journal];

    public void Append(ReadOnlySpan<byte> bytes)
    {
        bool crashes = Take(out bool fails);
        if (crashes || fails)
        {
            // All of it as often as a part: the write was there, and the answer was not.
            int part = time.Happens(0.5) ? bytes.Length : time.Chance.Next(bytes.Length);
            _isTorn = true;
            _journal = [.. _journal, .. bytes[..part]];
            Flush();
            throw crashes ? new CrashException() : new IOException("No space left on device.");
        }

        _journal = [.. _journal, .. bytes];
        if (canary != Canary.FlushForgotten)
        {
            Flush();
        }
    }

    public void Replace(ReadOnlySpan<byte> bytes)
    {
        bool crashes = Take(out bool fails);
        if (fails)
        {
            throw new IOException("No space left on device.");
        }

        if (canary == Canary.TornRecordLeft && _isTorn)
        {
            _isTorn = false;
            return;
        }

        if (!crashes || time.Happens(0.5))
        {
            _journal = bytes.ToArray();
            Flush();
        }

        if (crashes)
        {
            throw new CrashException();
        }
    }

    /// <summary>The registry's transaction: replaces the record if its epoch is the one known.</summary>
    /// <exception cref="IOException">Nothing has changed.</exception>
    public bool TryStore(GuestOwnership? next, long? knownEpoch)
    {
        bool crashes = Take(out bool fails);
        if (fails)
        {
            throw new IOException("No space left on device.");
        }

        bool fits = _registry?.Epoch == knownEpoch;
        if (fits && (!crashes || time.Happens(0.5)))
        {
            _registry = next;
        }

        return crashes ? throw new CrashException() : fits;
    }

    /// <summary>The machine loses its power, and with it what was not flushed.</summary>
    public void LosePower() => _journal = [.. _flushed];

    private void Flush() => _flushed = _journal;

    private bool Take(out bool fails)
    {
        bool crashes = CrashesInNextWrite;
        fails = !crashes && (IsFull || TearsNextWrite);
        CrashesInNextWrite = false;
        TearsNextWrite = false;
        return crashes;
    }
}
