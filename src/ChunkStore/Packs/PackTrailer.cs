using System.Buffers.Binary;
using System.Security.Cryptography;
using Godwit.ChunkStore.Storage;

namespace Godwit.ChunkStore.Packs;

/// <summary>What a pack says it holds.</summary>
internal sealed record PackTrailer(IReadOnlyList<(ChunkId Id, ChunkPlace Place)> Chunks)
{
    /// <summary>Bytes of the largest pack that is read: four times what this build makes.</summary>
    public const int PackBytesMax = 64 << 20;

    /// <summary>A pack's name.</summary>
    /// <param name="header">The pack's.</param>
    /// <param name="trailerAndFooter">As they are stored.</param>
    public static ChunkId IdOf(ReadOnlySpan<byte> header, ReadOnlySpan<byte> trailerAndFooter)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        hash.AppendData(header);
        hash.AppendData(trailerAndFooter);
        return ChunkId.Read(hash.GetHashAndReset());
    }

    /// <summary>Where the trailer begins, by the pack's last bytes.</summary>
    /// <param name="packBytes">The pack's length.</param>
    /// <returns>-1 if these are no pack's last bytes.</returns>
    public static long Start(ReadOnlySpan<byte> footer, long packBytes)
    {
        uint length = BinaryPrimitives.ReadUInt32LittleEndian(footer);
        return footer[12..].SequenceEqual(PackBuilder.Magic) && packBytes <= PackBytesMax
            && length <= packBytes - PackBuilder.FooterBytes - ObjectHeader.Size
            ? packBytes - PackBuilder.FooterBytes - length : -1;
    }

    /// <summary>Reads and checks a trailer.</summary>
    /// <param name="name">The pack's, for messages.</param>
    /// <param name="header">The pack's first 32 bytes.</param>
    /// <param name="trailer">From <see cref="Start"/> to the pack's end.</param>
    /// <param name="start">Where that is.</param>
    /// <exception cref="StoreFormatException">It is not what was written.</exception>
    public static PackTrailer Parse(
        string name, ReadOnlySpan<byte> header, ReadOnlySpan<byte> trailer, long start, StoreKey? key)
    {
        using ObjectCipher? cipher = ObjectHeader.Read(name, header, PackBuilder.Magic).Cipher(name, key);
        ReadOnlySpan<byte> footer = trailer[^PackBuilder.FooterBytes..];
        ReadOnlySpan<byte> plain = trailer[..^PackBuilder.FooterBytes];
        uint segments = BinaryPrimitives.ReadUInt32LittleEndian(footer[4..]);
        uint chunks = BinaryPrimitives.ReadUInt32LittleEndian(footer[8..]);
        if (cipher is not null)
        {
            byte[] opened = new byte[Math.Max(0, plain.Length - StoreKey.TagBytes)];
            if (!cipher.TryOpen(PackBuilder.TrailerPart, plain, footer, opened))
            {
                throw new StoreFormatException(name, "its trailer does not open with the store's key");
            }

            plain = opened;
        }

        if (((long)segments * PackBuilder.EntryBytes) + ((long)chunks * ChunkId.Size) != plain.Length)
        {
            throw new StoreFormatException(
                name, $"its trailer of {plain.Length} bytes announces {segments} segments and {chunks} chunks");
        }

        ReadOnlySpan<byte> ids = plain[((int)segments * PackBuilder.EntryBytes)..];
        var found = new List<(ChunkId, ChunkPlace)>((int)chunks);
        long end = ObjectHeader.Size;
        for (int i = 0; i < segments; i++)
        {
            ReadOnlySpan<byte> entry = plain[(i * PackBuilder.EntryBytes)..];
            uint offset = BinaryPrimitives.ReadUInt32LittleEndian(entry);
            uint length = BinaryPrimitives.ReadUInt32LittleEndian(entry[4..]);
            // One behind the other, as they were written: nothing overlaps, nothing reaches into the trailer.
            if (offset != end || length is < Segment.HeaderBytes or > Segment.StoredBytesMax
                || offset + length > start || entry[8] > chunks - found.Count)
            {
                throw new StoreFormatException(name, $"segment {i} of its trailer is out of place");
            }

            end += length;
            for (int slot = 0; slot < entry[8]; slot++)
            {
                found.Add((ChunkId.Read(ids[(found.Count * ChunkId.Size)..]),
                    new ChunkPlace(offset, (int)length, (byte)slot)));
            }
        }

        return found.Count == chunks && end == start
            ? new PackTrailer(found)
            : throw new StoreFormatException(name, "its trailer leaves out a part of it");
    }
}
