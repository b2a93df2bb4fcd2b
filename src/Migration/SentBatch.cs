using Godwit.Pages;

namespace Godwit.Migration;

/// <summary>What a lane tells of a batch it is about to send, and of its work since the last.</summary>
public readonly record struct SentBatch
{
    /// <summary>Pages taken for it, whatever has become of them.</summary>
    public required int Pages { get; init; }
    /// <summary>Those that QEMU's record called zero.</summary>
    public int ZeroByRecord { get; init; }
    /// <summary>All that are zero.</summary>
    public int Zero { get; init; }
    /// <summary>Pages of one repeated word.</summary>
    public int Word { get; init; }
    /// <summary>Pages left out, because the destination holds them as they are.</summary>
    public int Unchanged { get; init; }
    public int Delta { get; init; }
    /// <summary>Pages that go as what changed since the guest left the destination.</summary>
    public int Changed { get; init; }
    public int Known { get; init; }
    /// <summary>Content beside the block.</summary>
    public int Raw { get; init; }
    /// <summary>Content in the block.</summary>
    public int Content { get; init; }
    /// <summary>The block before coding.</summary>
    public int BlockBytes { get; init; }
    /// <summary>The block as it travels.</summary>
    public int CodedBytes { get; init; }
    /// <summary>Header and body; 0 if nothing was left to send.</summary>
    public long FrameBytes { get; init; }
    /// <summary>What the block went through.</summary>
    public BlockCoding Coding { get; init; }
    /// <summary>Processor time of coding the block.</summary>
    public TimeSpan CodingCpu { get; init; }
    /// <summary>Processor time of everything else that goes with the number of pages.</summary>
    public TimeSpan ReadingCpu { get; init; }
    /// <summary>Processor time of the last write to the connection: that of the last batch's bytes.</summary>
    public TimeSpan WritingCpu { get; init; }
    /// <summary>Time that reading and coding took; more than their processor time on a busy host.</summary>
    public TimeSpan Working { get; init; }
    /// <summary>Time that the last write took.</summary>
    public TimeSpan Writing { get; init; }
    /// <summary>Time in which the lane was told to wait because enough was on its way.</summary>
    public TimeSpan LinkWait { get; init; }
    /// <summary>
    /// Time in which the connection had bytes on their way and room at the receiver for more; null where nobody can
    /// tell. A link that is full has them all the time, one whose receiver is slow to answer has not.
    /// </summary>
    public TimeSpan? Carrying { get; init; }
    /// <summary>Time since the lane's last report.</summary>
    public TimeSpan Elapsed { get; init; }

    /// <summary>Processor time since the lane's last report.</summary>
    public TimeSpan Cpu => CodingCpu + ReadingCpu + WritingCpu;

    /// <summary>Bytes of pages that a coder could have worked on.</summary>
    public long WorkBytes => ((long)Raw * Page.Size) + BlockBytes;
}
