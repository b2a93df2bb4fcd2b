using System.Buffers.Binary;
using Godwit.Pages;

namespace Godwit.Simulation;

/// <summary>The storage that both hosts reach: it knows how often the guest has written to it.</summary>
internal sealed class SharedStorage
{
    public long Writes { get; set; }
}

/// <summary>A guest that keeps writing to its memory and its disk, wherever it runs.</summary>
/// <remarks>
/// What it has written to its disk it also counts in its memory. A copy that has gone back in time, or two copies,
/// find the disk ahead of their memory.
/// </remarks>
internal sealed class ModelGuest
{
    private const int CounterOffset = 64;
    private readonly Timeline _time;
    private readonly double _writesPerSecond;
    private readonly int _hotPages;
    private TimeSpan _writtenUntil;
    private double _owed;

    public ModelGuest(Timeline time, int pages, int romPages, double writesPerSecond, int hotPages)
    {
        _time = time;
        _writesPerSecond = writesPerSecond;
        _hotPages = Math.Clamp(hotPages, 1, pages);
        Blocks =
        [
            new RamBlock(0, "pc.ram", (long)pages * Page.Size),
            new RamBlock(1, "vga.vram", (long)romPages * Page.Size),
        ];
    }

    public RamBlock[] Blocks { get; }

    public SharedStorage Storage { get; } = new();

    /// <summary>Memory that holds nothing.</summary>
    public byte[][] NewMemory() => [.. Blocks.Select(block => Buffers.OfThisThread.Rent((int)block.Length))];

    /// <summary>Memory as it is after a boot: most pages hold something, some hold nothing.</summary>
    public void Boot(byte[][] memory)
    {
        foreach (byte[] block in memory)
        {
            for (int page = 0; page < block.Length / Page.Size; page++)
            {
                if (_time.Happens(0.7))
                {
                    Span<byte> content = block.AsSpan(page * Page.Size, Page.Size);
                    _time.Chance.NextBytes(content[..(_time.Happens(0.9) ? 64 : Page.Size)]);
                }
            }
        }

        BinaryPrimitives.WriteInt64LittleEndian(memory[0].AsSpan(CounterOffset), Storage.Writes);
    }

    private static long DiskWritesIn(byte[][] memory) =>
        BinaryPrimitives.ReadInt64LittleEndian(memory[0].AsSpan(CounterOffset));

    /// <summary>The guest begins to run, here or there.</summary>
    public void Resume() => _writtenUntil = _time.Now;

    /// <summary>False if the disk is ahead of this copy's memory: another copy, or a later one, has run.</summary>
    public bool Agrees(byte[][] memory) => DiskWritesIn(memory) == Storage.Writes;

    /// <summary>Does what the guest has done since it was last looked at.</summary>
    /// <param name="more">Writes besides those that its rate makes due.</param>
    /// <param name="touch">Asked before a page is touched: false for one that is not there, which it then waits for.
    /// </param>
    public void CatchUp(byte[][] memory, Action<int, int> dirty, Func<int, int, bool> touch, int more = 0)
    {
        _owed += ((_time.Now - _writtenUntil).TotalSeconds * _writesPerSecond) + more;
        _writtenUntil = _time.Now;
        // A guest that nobody has looked at for long has written every page of its working set several times over.
        int writes = (int)Math.Min(_owed, 4 * _hotPages);
        _owed -= Math.Floor(_owed);
        for (int i = 0; i < writes; i++)
        {
            WriteMemory(memory, dirty, touch);
        }
    }

    private void WriteMemory(byte[][] memory, Action<int, int> dirty, Func<int, int, bool> touch)
    {
        int block = _time.Happens(0.05) ? 1 : 0;
        int pages = block == 0 ? _hotPages : memory[1].Length / Page.Size;
        int page = _time.Chance.Next(pages);
        if (!touch(0, 0) || !touch(block, page))
        {
            return;
        }

        Span<byte> content = memory[block].AsSpan(page * Page.Size, Page.Size);
        if (_time.Happens(0.02))
        {
            content.Clear();
        }
        else
        {
            int at = 8 * _time.Chance.Next(Page.Size / 8);
            BinaryPrimitives.WriteInt64LittleEndian(content[at..], _time.Chance.NextInt64());
        }

        dirty(block, page);
        Storage.Writes++;
        BinaryPrimitives.WriteInt64LittleEndian(memory[0].AsSpan(CounterOffset), Storage.Writes);
        dirty(0, 0);
    }
}
