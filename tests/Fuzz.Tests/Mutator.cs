using System.Buffers.Binary;

namespace Godwit.Fuzz.Tests;

/// <summary>Makes hostile inputs out of good ones; the same seed makes the same inputs.</summary>
internal sealed class Mutator(int seed, IReadOnlyList<byte[]> corpus)
{
    private const int LengthMax = 64 << 10;
    private static readonly byte[] _bytes = [0, 1, 0x10, 0x20, 0x7F, 0x80, 0xFF, (byte)'"', (byte)'/', (byte)'\n'];
    private readonly Random _random = new(seed);

    public byte[] Next()
    {
        byte[] bytes = Pick();
        for (int times = 1 + _random.Next(4); times > 0; times--)
        {
            bytes = Mutate(bytes);
        }

        return bytes.Length <= LengthMax ? bytes : bytes[..LengthMax];
    }

    private byte[] Pick() => corpus[_random.Next(corpus.Count)];

    private byte[] Mutate(byte[] bytes)
    {
        if (bytes.Length == 0)
        {
            return Pick();
        }

        int at = Position(bytes.Length);
        byte[] changed = (byte[])bytes.Clone();
        switch (_random.Next(9))
        {
            case 0:
                changed[at] ^= (byte)(1 << _random.Next(8));
                return changed;
            case 1:
                changed[at] = _random.Next(2) == 0 ? (byte)_random.Next(256) : _bytes[_random.Next(_bytes.Length)];
                return changed;
            case 2:
                return bytes[..at];
            case 3:
                BlowUp(changed.AsSpan(at), bytes.Length);
                return changed;
            case 4:
                // A piece taken out.
                return [.. bytes[..at], .. bytes[Math.Min(bytes.Length, at + Piece())..]];
            case 5:
            {
                // A piece that comes twice.
                int to = Math.Min(bytes.Length, at + Piece());
                return [.. bytes[..to], .. bytes[at..to], .. bytes[to..]];
            }

            case 6:
            {
                // The front of one entry and the back of another.
                byte[] other = Pick();
                return [.. bytes[..at], .. other[Math.Min(other.Length, _random.Next(other.Length + 1))..]];
            }

            case 7:
            {
                // A piece of another entry in the middle.
                byte[] other = Pick();
                int from = _random.Next(other.Length + 1);
                return [.. bytes[..at], .. other[from..Math.Min(other.Length, from + Piece())], .. bytes[at..]];
            }

            default:
                return [.. bytes, .. Pick()];
        }
    }

    // Lengths, counts and types stand in front of what they speak of: half of all changes hit the first bytes.
    private int Position(int length) =>
        _random.Next(2) == 0 ? _random.Next(length) : _random.Next(Math.Min(length, 1 << _random.Next(3, 9)));

    private int Piece() => 1 + _random.Next(1 << _random.Next(1, 10));

    // A field of 1, 2, 4 or 8 bytes, in either order, that states far too much, nothing, or nearly the truth.
    private void BlowUp(Span<byte> field, int length)
    {
        long value = _random.Next(8) switch
        {
            0 => -1,
            1 => int.MaxValue,
            2 => int.MinValue,
            3 => 1 << _random.Next(31),
            4 => (1 << 20) - _random.Next(3) + 1,
            5 => 0,
            6 => length + _random.Next(-9, 10),
            _ => _random.NextInt64(),
        };
        Span<byte> bytes = stackalloc byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(bytes, value);
        bytes = bytes[..(1 << _random.Next(4))];
        if (_random.Next(2) == 0)
        {
            bytes.Reverse();
        }

        bytes = bytes[..Math.Min(bytes.Length, field.Length)];
        bytes.CopyTo(field);
    }
}
