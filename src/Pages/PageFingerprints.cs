using System.IO.Hashing;

namespace Godwit.Pages;

/// <summary>What each page of a RAM block held when it was last sent, as 128 bits of XXH3 per page.</summary>
/// <remarks>
/// Tells whether a page has changed since; it does not name contents: the hash is not cryptographic. A page whose
/// change it misses is not sent, so accidents must not happen and nobody may be able to plan one: 128 bits see to the
/// first, a seed that the guest does not know to the second. Different pages may be set and compared by different
/// threads at once.
/// </remarks>
/// <param name="pageCount">Pages of the block; each costs 16 bytes.</param>
/// <param name="seed">Random, and never the same for two migrations.</param>
public sealed class PageFingerprints(long pageCount, long seed)
{
    private readonly UInt128 _ofZeros = Of(new byte[Page.Size], seed);
    private readonly UInt128[] _values = new UInt128[pageCount];

    /// <summary>True once the page has been sent.</summary>
    public bool Has(PageNumber page) => _values[page.Value] != UInt128.Zero;

    /// <summary>Remembers what was sent.</summary>
    /// <param name="content">4096 bytes, or empty for a page of zeros.</param>
    /// <returns>False if the page was last sent with this very content.</returns>
    public bool Set(PageNumber page, ReadOnlySpan<byte> content)
    {
        UInt128 value = content.IsEmpty ? _ofZeros : Of(content, seed);
        bool changed = _values[page.Value] != value;
        _values[page.Value] = value;
        return changed;
    }

    /// <summary>The destination turned out not to have the page: whatever it holds has to be sent again.</summary>
    public void Forget(PageNumber page) => _values[page.Value] = UInt128.Zero;

    /// <summary>True if the page was last sent with this content; false if it was never sent.</summary>
    /// <param name="content">4096 bytes, or empty for a page of zeros.</param>
    public bool Matches(PageNumber page, ReadOnlySpan<byte> content) =>
        _values[page.Value] == (content.IsEmpty ? _ofZeros : Of(content, seed));

    // 0 stands for a page that was never sent.
    private static UInt128 Of(ReadOnlySpan<byte> content, long seed) =>
        UInt128.Max(UInt128.One, XxHash128.HashToUInt128(content, seed));
}
