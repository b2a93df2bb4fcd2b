namespace Godwit.Pages;

/// <summary>Consecutive pages of a batch that are rebuilt in the same way.</summary>
public readonly ref struct PageRun
{
    internal PageRun(
        PageNumber first, int count, PageKind kind, ReadOnlySpan<byte> content, ReadOnlySpan<byte> name = default)
    {
        Name = name;
        First = first;
        Count = count;
        Kind = kind;
        Content = content;
    }

    /// <summary>The first of the pages, in the batch's block.</summary>
    public PageNumber First { get; }

    /// <summary>Pages in the run, at least one; exactly one where a delta came.</summary>
    public int Count { get; }

    /// <summary>How to rebuild them. Content that travelled raw comes out as <see cref="PageKind.Content"/>.</summary>
    public PageKind Kind { get; }

    /// <summary>
    /// By kind: nothing for zero pages, 8 bytes per page for words, 4096 bytes per page for content, 16 bytes per page
    /// for names, and one delta, to be applied with <see cref="PageDelta.TryApply"/> to what the page holds now, or for
    /// <see cref="PageKind.Changed"/> to what was kept of it.
    /// </summary>
    public ReadOnlySpan<byte> Content { get; }

    /// <summary>The name of a <see cref="PageKind.Changed"/> page, 16 bytes; else empty.</summary>
    public ReadOnlySpan<byte> Name { get; }
}
