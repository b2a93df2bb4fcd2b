using System.Numerics;
using Godwit.Pages;

namespace Godwit.Migration.Convergence;

/// <summary>In which of the last rounds each page was written: what tells the writable working set.</summary>
/// <remarks>
/// Source: Clark et al. 2005, section 2.2. A page that is written in nearly every round would be sent in nearly every
/// round and in the last one too. Eight bits per page, the newest round lowest.
/// </remarks>
public sealed class WriteHistory(long pageCount)
{
    private const int RoundsLooked = 4;
    private const int RoundsHot = 3;
    private const byte Looked = (1 << RoundsLooked) - 1;
    private readonly byte[] _rounds = new byte[pageCount];

    /// <summary>The page was written in the round in progress.</summary>
    /// <returns>True if that is news.</returns>
    public bool Mark(PageNumber page)
    {
        ref byte rounds = ref _rounds[page.Value];
        bool news = (rounds & 1) == 0;
        rounds |= 1;
        return news;
    }

    /// <summary>A new round begins.</summary>
    public void BeginRound()
    {
        foreach (ref byte rounds in _rounds.AsSpan())
        {
            rounds <<= 1;
        }
    }

    /// <summary>Written in at least three of the last four rounds, the one in progress among them.</summary>
    public bool IsHot(PageNumber page) => BitOperations.PopCount((uint)(_rounds[page.Value] & Looked)) >= RoundsHot;

    /// <summary>Rounds of the last eight in which the page was written: the more, the sooner it is needed.</summary>
    public int Heat(PageNumber page) => BitOperations.PopCount(_rounds[page.Value]);
}
