namespace Godwit.Pages;

/// <summary>The memory of one RAM block of a guest, readable and writable by page while the guest runs.</summary>
/// <remarks>
/// The guest keeps writing: two reads of one page may differ, and a read may tear inside a page. The dirty feed makes
/// that harmless, because a page written while it was read is reported again. Copy a page out before examining it.
/// </remarks>
public abstract class BlockMemory
{
    /// <summary>Bytes; equals the length of the RAM block.</summary>
    public abstract long Length { get; }

    /// <summary>The page's 4096 bytes, live. Throws ArgumentOutOfRangeException outside the block.</summary>
    public abstract ReadOnlySpan<byte> Read(PageNumber page);

    /// <summary>
    /// False for a page that nobody has written yet: it is zero, and looking at it would allocate it.
    /// </summary>
    public abstract bool IsAllocated(PageNumber page);

    /// <summary>Puts a page in place.</summary>
    /// <param name="page">A page inside the block; anything else throws ArgumentOutOfRangeException.</param>
    /// <param name="content">4096 bytes, or empty for a page of zeros.</param>
    public abstract void Write(PageNumber page, ReadOnlySpan<byte> content);
}
