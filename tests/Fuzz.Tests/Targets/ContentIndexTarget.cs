using System.Buffers.Binary;
using Godwit.ChunkStore;

namespace Godwit.Fuzz.Tests.Targets;

/// <summary>An index of contents as a full disk, a bad one, or an older version may have left it.</summary>
internal static class ContentIndexTarget
{
    private const int ChecksumAt = 56;

    public static bool Fuzz(ReadOnlySpan<byte> bytes)
    {
        // No change gets past a checksum: the same bytes are read with a good one too.
        byte[] sealedBytes = bytes.ToArray();
        if (sealedBytes.Length > ChecksumAt + 8)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(
                sealedBytes.AsSpan(ChecksumAt), ContentIndex.Checksum(sealedBytes));
            Read(sealedBytes);
        }

        return Read(bytes.ToArray());
    }

    private static bool Read(byte[] bytes)
    {
        if (!ContentIndex.TryOpen(bytes, out ContentIndex? index, out string why))
        {
            Require.That(why.Length > 0 && index is null, "a refusal says why");
            return false;
        }

        Require.That(index!.Fingerprints.Length == index.Count * Fingerprint.Size, "one fingerprint for each block");
        // Names in no order at all: whatever is asked for, the search ends.
        for (int i = 0; i < 8; i++)
        {
            index.TryFind(new ContentName(((UInt128)(uint)i << 125) | 12345), out _);
        }

        index.TryFind(new ContentName(0), out _);
        index.TryFind(new ContentName(UInt128.MaxValue), out _);
        return true;
    }
}
