using System.Numerics;

namespace Godwit.ChunkStore;

/// <summary>Fingerprints that somebody says it has contents for, each with where that comes from.</summary>
/// <remarks>
/// One thread at a time adds; any number look up meanwhile without a lock. A look-up beside an addition may miss what
/// is being added, and never sees what was not: a slot is written once, whole, and a grown table is published complete.
/// </remarks>
public sealed class FingerprintSet
{
    private const int SlotsMin = 1 << 10;

    /// <summary>Origins that can be told apart.</summary>
    public const int Origins = 4;

    // Two bits of a fingerprint make way for the origin: what is left is still far beyond chance.
    private const ulong OriginMask = Origins - 1;
    private readonly int _max;
    private volatile ulong[] _slots = new ulong[SlotsMin];

    /// <param name="max">Fingerprints held at most; the table takes at most 32 bytes for each.</param>
    public FingerprintSet(int max)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(max);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(max, 1 << 28);
        _max = max;
    }

    /// <summary>Fingerprints in the set.</summary>
    public int Count { get; private set; }

    /// <summary>Adds a fingerprint; the first origin it was given stays.</summary>
    /// <returns>False if it was there, or the set is full.</returns>
    public bool Add(ulong fingerprint, int origin)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)origin, (uint)Origins);
        if (Count >= _max)
        {
            return false;
        }

        if (Count >= _slots.Length / 2)
        {
            Grow();
        }

        if (!Put(_slots, Entry(fingerprint, origin)))
        {
            return false;
        }

        Count++;
        return true;
    }

    /// <summary>The origin a fingerprint was added with; -1 if it was not.</summary>
    public int Find(ulong fingerprint)
    {
        ulong[] slots = _slots;
        ulong key = Key(fingerprint);
        for (uint i = Slot(slots, key); ; i = (i + 1) & (uint)(slots.Length - 1))
        {
            ulong entry = Volatile.Read(ref slots[i]);
            if (entry == 0)
            {
                return -1;
            }

            if ((entry & ~OriginMask) == key)
            {
                return (int)(entry & OriginMask);
            }
        }
    }

    /// <summary>Forgets everything.</summary>
    public void Clear()
    {
        _slots = new ulong[SlotsMin];
        Count = 0;
    }

    private void Grow()
    {
        ulong[] larger = new ulong[_slots.Length * 2];
        foreach (ulong entry in _slots)
        {
            if (entry != 0)
            {
                Put(larger, entry);
            }
        }

        _slots = larger;
    }

    private static bool Put(ulong[] slots, ulong entry)
    {
        ulong key = entry & ~OriginMask;
        for (uint i = Slot(slots, key); ; i = (i + 1) & (uint)(slots.Length - 1))
        {
            if (slots[i] == 0)
            {
                Volatile.Write(ref slots[i], entry);
                return true;
            }

            if ((slots[i] & ~OriginMask) == key)
            {
                return false;
            }
        }
    }

    // 0 marks an empty slot, so no key may be 0.
    private static ulong Key(ulong fingerprint) => Math.Max(OriginMask + 1, fingerprint & ~OriginMask);

    private static ulong Entry(ulong fingerprint, int origin) => Key(fingerprint) | (uint)origin;

    // A peer chooses the fingerprints; the multiplication keeps it from filling neighbouring slots by counting up.
    private static uint Slot(ulong[] slots, ulong key) =>
        (uint)((key * 0x9E3779B97F4A7C15) >> (64 - BitOperations.Log2((uint)slots.Length)));
}
