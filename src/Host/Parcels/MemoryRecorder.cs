using Godwit.ChunkStore;
using Godwit.ChunkStore.Storage;
using Godwit.ChunkStore.Trees;
using Godwit.Host.Qemu;
using Godwit.Pages;

namespace Godwit.Host.Parcels;

/// <summary>Puts a guest's memory into a store, page by page and again as pages change.</summary>
/// <remarks>Holds 32 bytes for each page of the guest. One thread at a time.</remarks>
/// <param name="wake">Pages that belong to the working set whenever they are recorded.</param>
internal sealed class MemoryRecorder(GuestMemory memory, StoreWriter writer, IReadOnlySet<long> wake)
{
    private const int PagesAtOnce = 64;
    private readonly ChunkId[] _ids = new ChunkId[memory.Length / Page.Size];
    private readonly byte[] _buffer = new byte[PagesAtOnce * Page.Size];
    private long _steps;

    /// <summary>Pages put so far: it grows as long as anything gets on.</summary>
    public long Steps => Interlocked.Read(ref _steps);

    /// <summary>Reads pages and puts them.</summary>
    public void Record(DirtySet pages, ChunkGroup group)
    {
        foreach ((PageNumber first, int count) in Runs(pages))
        {
            Span<byte> content = _buffer.AsSpan(0, count * Page.Size);
            memory.Read(first, content);
            for (int i = 0; i < count; i++)
            {
                Put(first.Value + i, content.Slice(i * Page.Size, Page.Size), group);
            }
        }
    }

    /// <summary>Copies pages, to be put when the guest runs again.</summary>
    public HeldPages Hold(DirtySet pages)
    {
        var held = new HeldPages(pages.Count);
        foreach ((PageNumber first, int count) in Runs(pages))
        {
            memory.Read(first, held.Add(first, count));
        }

        return held;
    }

    /// <summary>Puts pages that were held.</summary>
    public void Record(HeldPages held, ChunkGroup group)
    {
        foreach ((long page, ReadOnlyMemory<byte> content) in held.Pages)
        {
            Put(page, content.Span, group);
        }
    }

    /// <summary>Puts the tree over what was recorded.</summary>
    /// <returns>Its root.</returns>
    public ChunkId Finish() => ChunkTree.Build(_ids, node => writer.Put(node, ChunkGroup.Nodes));

    private void Put(long page, ReadOnlySpan<byte> content, ChunkGroup group)
    {
        Interlocked.Increment(ref _steps);
        _ids[page] = ZeroTest.IsZero(content) ? default
            : writer.Put(content, wake.Contains(page) ? ChunkGroup.WorkingSet : group);
    }

    private static IEnumerable<(PageNumber First, int Count)> Runs(DirtySet pages)
    {
        long first = -1;
        int count = 0;
        foreach (PageNumber page in pages)
        {
            if (count == PagesAtOnce || (count > 0 && page.Value != first + count))
            {
                yield return (new PageNumber(first), count);
                count = 0;
            }

            first = count == 0 ? page.Value : first;
            count++;
        }

        if (count > 0)
        {
            yield return (new PageNumber(first), count);
        }
    }
}

/// <summary>Copies of pages as they were while the guest stood still.</summary>
internal sealed class HeldPages(long pages)
{
    /// <summary>So many are held at the most: 1 GiB.</summary>
    public const long CountMax = 1 << 18;

    private readonly List<(long First, int Count, byte[] Content)> _runs = [];

    /// <summary>Pages that were announced.</summary>
    public long Count => pages;

    public IEnumerable<(long Page, ReadOnlyMemory<byte> Content)> Pages =>
        _runs.SelectMany(run => Enumerable.Range(0, run.Count).Select(i =>
            (run.First + i, (ReadOnlyMemory<byte>)run.Content.AsMemory(i * Page.Size, Page.Size))));

    /// <summary>Room for a run of pages.</summary>
    public Span<byte> Add(PageNumber first, int count)
    {
        byte[] content = GC.AllocateUninitializedArray<byte>(count * Page.Size);
        _runs.Add((first.Value, count, content));
        return content;
    }
}
