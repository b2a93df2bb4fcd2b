using Godwit.Pages;

namespace Godwit.Migration;

/// <summary>Why bytes of pages did not cross the wire.</summary>
internal sealed class SavedBytes
{
    private long _zero;
    private long _word;
    private long _unchanged;
    private long _delta;
    private long _compressed;

    public void Add(in SentBatch batch)
    {
        long deltaBytes = batch.BlockBytes - ((long)batch.Content * Page.Size)
            + (batch.Changed * (long)PageBatch.NameBytes);
        _zero += Raw(batch.Zero);
        _word += Raw(batch.Word) - (batch.Word * (long)PageBatch.WordBytes);
        _unchanged += Raw(batch.Unchanged);
        _delta += Raw(batch.Delta + batch.Changed) - deltaBytes;
        _compressed += batch.BlockBytes - batch.CodedBytes;
    }

    /// <summary>By reason, in the order in which a page is looked at.</summary>
    public Dictionary<string, long> ByReason(long supersededPages) => new()
    {
        ["superseded"] = Raw(supersededPages),
        ["zero"] = _zero,
        ["word"] = _word,
        ["unchanged"] = _unchanged,
        ["delta"] = _delta,
        ["compressed"] = Math.Max(0, _compressed),
    };

    private static long Raw(long pages) => pages * Page.Size;
}
