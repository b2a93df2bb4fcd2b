using System.Buffers.Binary;

namespace Godwit.ChunkStore.Parcels;

/// <summary>Pages of memory that a guest is likely to touch first when it wakes, the likeliest first.</summary>
/// <remarks>A guess: a guest waits for what it leaves out, and what it names in vain costs only its transfer.</remarks>
public static class WakeSet
{
    /// <summary>Pages of the longest one: 32 MiB of memory.</summary>
    public const int PagesMax = 8192;

    /// <summary>Name of its part in a manifest.</summary>
    public const string PartName = "wake";

    /// <summary>Puts guesses together: each page once, the first ones first, as many as there is room for.</summary>
    public static IReadOnlyList<long> Merge(params IEnumerable<long>[] guesses) =>
        [.. guesses.SelectMany(pages => pages).Distinct().Take(PagesMax)];

    /// <summary>Page numbers as they lie in a store: 4 bytes each, little-endian.</summary>
    /// <exception cref="OverflowException">A page lies behind the first 16 TiB.</exception>
    public static byte[] Encode(IReadOnlyList<long> pages)
    {
        byte[] content = new byte[pages.Count * sizeof(uint)];
        for (int i = 0; i < pages.Count; i++)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(content.AsSpan(i * sizeof(uint)), checked((uint)pages[i]));
        }

        return content;
    }

    /// <summary>Reads page numbers; what no memory of this size has is left out.</summary>
    /// <param name="pages">Pages of the memory.</param>
    public static IReadOnlyList<long> Decode(ReadOnlySpan<byte> content, long pages)
    {
        var found = new List<long>();
        for (; content.Length >= sizeof(uint) && found.Count < PagesMax; content = content[sizeof(uint)..])
        {
            uint page = BinaryPrimitives.ReadUInt32LittleEndian(content);
            if (page < pages)
            {
                found.Add(page);
            }
        }

        return found;
    }
}
