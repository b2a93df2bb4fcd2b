using System.IO.Hashing;

namespace Godwit.Pages;

/// <summary>What each page of a RAM block held when it was last sent, as 64 bits of XXH3 per page.</summary>
/// <remarks>
/// Tells whether a page has changed since; it does not name contents: the hash is not cryptographic. Different pages
/// may be set and compared by different threads at once.
/// </remarks>
public sealed class PageFingerprints(long pageCount)
{
    private static readonly ulong _ofZeros = Of(new byte[Page.Size]);

    private readonly ulong[] _values = new ulong[pageCount];

    /// <summary>Remembers what was sent.</summary>
    /// <param name="content">4096 bytes, or empty for a page of zeros.</param>
    public void Set(PageNumber page, ReadOnlySpan<byte> content) =>
        _values[page.Value] = content.IsEmpty ? _ofZeros : Of(content);

    /// <summary>True if the page was last sent with this content; false if it was never sent.</summary>
    /// <param name="content">4096 bytes, or empty for a page of zeros.</param>
    public bool Matches(PageNumber page, ReadOnlySpan<byte> content) =>
        _values[page.Value] == (content.IsEmpty ? _ofZeros : Of(content));

    // 0 stands for a page that was never sent.
    private static ulong Of(ReadOnlySpan<byte> content) => Math.Max(1, XxHash3.HashToUInt64(content));
}
