using Godwit.Pages;

namespace Godwit.Migration.Convergence;

/// <summary>What a coder made of a sample of pages.</summary>
/// <param name="WireBytesPerPage">Frames included.</param>
/// <param name="SecondsPerPage">Of processor time.</param>
public sealed record SampledCoder(BlockCoding Coding, double WireBytesPerPage, double SecondsPerPage)
{
    /// <summary>What is tried, the quickest first; those beyond it gain a few hundredths for many times the time.
    /// </summary>
    public static IReadOnlyList<BlockCoding> Candidates { get; } =
    [
        BlockCoding.Plain, BlockCoding.Lz4, new(BlockCoder.Zstd, -1, 18), new(BlockCoder.Zstd, 1, 23),
        new(BlockCoder.Zstd, 3, 23),
    ];

    /// <summary>
    /// The mix of at most two coders that moves pages soonest, as <see cref="CodingChooser"/> comes to choose it.
    /// </summary>
    /// <param name="linkBytesPerSecond">What the link carries.</param>
    /// <param name="cores">That coding has.</param>
    /// <param name="besides">Seconds of processor time per page for anything but coding.</param>
    /// <returns>Bytes and seconds of processor time per page.</returns>
    public static (double WireBytesPerPage, double SecondsPerPage) Mix(
        IReadOnlyList<SampledCoder> coders, double linkBytesPerSecond, double cores, double besides)
    {
        (double Bytes, double Seconds, double Rate) best = (Page.Size, besides, 0);
        foreach (SampledCoder a in coders)
        {
            foreach (SampledCoder b in coders)
            {
                if (a != b && a.Coding.Coder == BlockCoder.Zstd && b.Coding.Coder == BlockCoder.Zstd)
                {
                    continue;
                }

                // The share of a at which link and processors are equally busy.
                double slope = (cores * (a.WireBytesPerPage - b.WireBytesPerPage))
                    - (linkBytesPerSecond * (a.SecondsPerPage - b.SecondsPerPage));
                double share = ((linkBytesPerSecond * (b.SecondsPerPage + besides)) - (cores * b.WireBytesPerPage))
                    / slope;
                share = double.IsFinite(share) ? Math.Clamp(share, 0, 1) : 1;
                double bytes = (share * a.WireBytesPerPage) + ((1 - share) * b.WireBytesPerPage);
                double seconds = (share * a.SecondsPerPage) + ((1 - share) * b.SecondsPerPage) + besides;
                double rate = Math.Min(cores / seconds, linkBytesPerSecond / Math.Max(bytes, 1e-3));
                if (rate > best.Rate)
                {
                    best = (bytes, seconds, rate);
                }
            }
        }

        return (best.Bytes, best.Seconds);
    }
}
