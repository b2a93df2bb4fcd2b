using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Migration.Postcopy;

/// <summary>What the destination of a postcopy still lacks, and what it has got: each page reaches QEMU once.</summary>
/// <remarks>
/// QEMU takes a page that it has already for a broken stream, so one that comes twice, whoever errs, is passed over
/// here. A page that was never missing and never came is a hole: zero, and nobody sends it.
/// </remarks>
public sealed class MissingPages
{
    private readonly DirtySet?[] _missing;
    // Given to QEMU since it began to listen.
    private readonly DirtySet?[] _given;

    /// <param name="blocks">As the stream's head lists them.</param>
    /// <param name="shared">For each, whether its memory is a file; others are never missing.</param>
    public MissingPages(IReadOnlyList<RamBlock> blocks, IReadOnlyList<bool> shared)
    {
        _missing = [.. blocks.Select((b, i) => shared[i] ? new DirtySet(b.PageCount) : null)];
        _given = [.. blocks.Select((b, i) => shared[i] ? new DirtySet(b.PageCount) : null)];
    }

    /// <summary>Pages of all blocks.</summary>
    public long Count { get; private set; }

    /// <summary>The block's missing pages; null if the block has none ever.</summary>
    public DirtySet? Of(int blockIndex) => blockIndex < _missing.Length ? _missing[blockIndex] : null;

    /// <exception cref="StreamFormatException">The block cannot miss pages, or has no such page.</exception>
    public void Add(ControlMessage.PagesMissing told)
    {
        DirtySet set = Of(told.BlockIndex) ?? throw new StreamFormatException(
            0, $"Pages of RAM block {told.BlockIndex} are missing, which cannot be sent after the guest.");
        told.AddTo(set);
        Count = _missing.Sum(s => s?.Count ?? 0);
    }

    public void Add(int blockIndex, PageNumber page)
    {
        if (Of(blockIndex) is { } set && set.Add(page))
        {
            Count++;
        }
    }

    /// <summary>
    /// Takes up what another daemon left: every page that is not missing has been given, also one that QEMU asked for
    /// before it came and whose request nobody has read yet.
    /// </summary>
    public void TakeUp()
    {
        for (int i = 0; i < _given.Length; i++)
        {
            if (_missing[i] is not { } missing || _given[i] is not { } given)
            {
                continue;
            }

            given.AddAll();
            foreach (PageNumber page in missing)
            {
                given.Remove(page);
            }
        }
    }

    /// <summary>A page is about to be given to QEMU.</summary>
    /// <returns>False if it has it: it must not be given again.</returns>
    public bool TryGive(int blockIndex, PageNumber page)
    {
        if (Of(blockIndex) is not { } missing || !_given[blockIndex]!.Add(page))
        {
            return false;
        }

        Count -= missing.Remove(page) ? 1 : 0;
        return true;
    }

    /// <summary>The messages that tell the source of what is missing.</summary>
    public IEnumerable<ControlMessage.PagesMissing> Told()
    {
        for (int i = 0; i < _missing.Length; i++)
        {
            if (_missing[i] is { } set)
            {
                foreach (ControlMessage.PagesMissing told in ControlMessage.PagesMissing.Of(i, set))
                {
                    yield return told;
                }
            }
        }
    }
}
