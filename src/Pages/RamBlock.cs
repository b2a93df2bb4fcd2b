namespace Godwit.Pages;

/// <summary>A named, contiguous piece of guest memory, as the hypervisor's stream names it.</summary>
/// <remarks>
/// A block never has length zero: QEMU maps each block with mmap, which refuses an empty mapping, and its loader
/// reads block entries until their lengths add up to the announced total, so an empty last entry would be taken for a
/// page record. Names are printable ASCII because QEMU builds them from device paths and from object ids, which it
/// restricts itself; a name is therefore safe to log and has one byte per character.
/// </remarks>
public sealed record RamBlock
{
    /// <summary>The longest name the stream can carry.</summary>
    public const int NameBytesMax = 255;

    /// <summary>The largest block accepted, 16 TiB: a bound on what a forged length can make anyone allocate.</summary>
    public const long LengthMax = 1L << 44;

    /// <summary>The largest number of blocks in one guest.</summary>
    public const int CountMax = 1024;

    /// <summary>A block at a position of its guest's block table.</summary>
    /// <exception cref="ArgumentException">Index, name or length is outside what the type promises.</exception>
    public RamBlock(int index, string name, long length)
    {
        ArgumentNullException.ThrowIfNull(name);
        if (Refusal(index, name, length) is { } refusal)
        {
            throw new ArgumentException(refusal);
        }

        Index = index;
        Name = name;
        Length = length;
    }

    /// <summary>Position in the guest's block table, which is the order in which the stream lists the blocks.</summary>
    public int Index { get; }

    /// <summary>1 to 255 printable ASCII characters.</summary>
    public string Name { get; }

    /// <summary>Bytes; a positive multiple of <see cref="Page.Size"/>.</summary>
    public long Length { get; }

    /// <summary>Pages in the block.</summary>
    public long PageCount => Length / Page.Size;

    /// <summary>Says why these values make no block, or null when they do.</summary>
    public static string? Refusal(int index, string name, long length)
    {
        if ((uint)index >= CountMax)
        {
            return $"RAM block number {index} is outside 0..{CountMax - 1}.";
        }

        if (name.Length is 0 or > NameBytesMax)
        {
            return $"RAM block {index} has a name of {name.Length} bytes; 1 to {NameBytesMax} are allowed.";
        }

        if (name.AsSpan().ContainsAnyExceptInRange(' ', '~'))
        {
            return $"RAM block {index} has a name with a byte outside printable ASCII.";
        }

        if (length <= 0 || length > LengthMax || length % Page.Size != 0)
        {
            return $"RAM block {name} has length {length}; it must be a multiple of {Page.Size} "
                + $"from {Page.Size} to {LengthMax}.";
        }

        return null;
    }
}
