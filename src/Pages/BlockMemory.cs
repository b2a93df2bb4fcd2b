namespace Godwit.Pages;

/// <summary>Index of a page in its RAM block.</summary>
public readonly record struct PageNumber(long Value);

/// <summary>A RAM block's memory, readable and writable by page at any time.</summary>
public abstract class BlockMemory
{
    /// <summary>Bytes.</summary>
    public abstract long Length { get; }
    /// <summary>The page's bytes as they are now; the guest may change them while they are read.</summary>
    public abstract ReadOnlySpan<byte> Read(PageNumber page);
    /// <summary>Puts 4096 bytes in place; an empty content means zero.</summary>
    public abstract void Write(PageNumber page, ReadOnlySpan<byte> content);
}
