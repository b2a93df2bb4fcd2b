using System.Buffers;
using Godwit.Pages;

namespace Godwit.Simulation;

/// <summary>What a lane has for itself in the daemon.</summary>
internal sealed class Buffers
{
    [ThreadStatic]
    private static Buffers? _ofThisThread;

    // Seeds differ in the size of their guests: without a bound every size there is would be kept.
    private const long FreeBytesMax = 256 << 20;
    private readonly Dictionary<int, Stack<byte[]>> _free = [];
    private long _freeBytes;
    private readonly List<byte[]> _rented = [];

    public static Buffers OfThisThread => _ofThisThread ??= new Buffers();

    public PageBatchBuilder Batch { get; } = new(PageBatch.Version2);

    public byte[] Frame { get; } = new byte[PageBatch.EncodedBytesMax];

    /// <summary>Without a memory from one batch to the next: only Zstandard has one.</summary>
    public PageBatchDecoder Decoder { get; } = new(PageBatch.Version2);

    public ArrayBufferWriter<byte> Section { get; } = new(1 << 20);

    /// <summary>Guest memory, all zero: allocating it anew took most of the time of a seed.</summary>
    public byte[] Rent(int length)
    {
        byte[] memory;
        if (_free.TryGetValue(length, out Stack<byte[]>? free) && free.TryPop(out byte[]? used))
        {
            memory = used;
            _freeBytes -= length;
            Array.Clear(memory);
        }
        else
        {
            memory = new byte[length];
        }

        _rented.Add(memory);
        return memory;
    }

    /// <summary>The seed is over: what it has rented is free again.</summary>
    public void ReturnAll()
    {
        foreach (byte[] memory in _rented)
        {
            if (!_free.TryGetValue(memory.Length, out Stack<byte[]>? free))
            {
                _free[memory.Length] = free = [];
            }

            free.Push(memory);
            _freeBytes += memory.Length;
        }

        if (_freeBytes > FreeBytesMax)
        {
            _free.Clear();
            _freeBytes = 0;
        }

        _rented.Clear();
    }
}
