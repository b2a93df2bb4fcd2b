namespace Godwit.Pages;

/// <summary>How a page of a batch is rebuilt; the values are the wire's.</summary>
public enum PageKind : byte
{
    /// <summary>All zero; costs nothing.</summary>
    Zero = 0,

    /// <summary>One word of 8 bytes over and over; costs the word.</summary>
    Word = 1,

    /// <summary>Content that no coder makes smaller; travels beside the block.</summary>
    Raw = 2,

    /// <summary>Content in the batch's block, through its coder.</summary>
    Content = 3,

    /// <summary>A <see cref="PageDelta"/> against the version sent last; travels in the block.</summary>
    Delta = 4,

    /// <summary>The name of a content that the destination can rebuild by itself.</summary>
    Known = 5,

    /// <summary>
    /// The name of the content, and a <see cref="PageDelta"/> against what the destination keeps of this page from the
    /// guest's last visit; the delta travels in the block.
    /// </summary>
    Changed = 6,
}

/// <summary>What the block of a batch goes through; the values are the wire's.</summary>
public enum BlockCoder : byte
{
    None = 0x00,

    /// <summary>One LZ4 block.</summary>
    Lz4 = 0x10,

    /// <summary>The next block of the lane's one Zstandard stream.</summary>
    Zstd = 0x20,
}

/// <summary>How a batch's block is to be coded.</summary>
/// <param name="Coder">None leaves everything as it is.</param>
/// <param name="Level">
/// For Zstandard <see cref="Zstd.LevelMin"/> to <see cref="Zstd.LevelMax"/>; for LZ4 its acceleration, from 1.
/// </param>
/// <param name="WindowLog">Zstandard only: 18 to <see cref="Zstd.WindowLogMax"/>.</param>
public readonly record struct BlockCoding(BlockCoder Coder, int Level = 0, int WindowLog = 0)
{
    public static BlockCoding Plain => default;

    public static BlockCoding Lz4 => new(BlockCoder.Lz4, 1);

    /// <summary>
    /// Pages that look incompressible travel beside the block: trying them costs time and gives nothing. A window
    /// beyond the batch may have seen the very page before, and there they are tried.
    /// </summary>
    public bool LeavesNoiseOut => Coder == BlockCoder.Lz4 || (Coder == BlockCoder.Zstd && WindowLog <= 18);

    public override string ToString() => Coder switch
    {
        BlockCoder.None => "plain",
        BlockCoder.Lz4 => "lz4",
        _ => $"zstd {Level}",
    };
}
