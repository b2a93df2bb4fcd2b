using System.Buffers;
using System.Buffers.Binary;
using Godwit.Pages;

namespace Godwit.Migration.Wire;

// From version 3 on: the guest runs at the destination before its memory is there.
public abstract partial record ControlMessage
{
    /// <summary>
    /// Pages that the destination lacks. The source says it when the guest has been stopped, the destination when it
    /// comes back after the link broke.
    /// </summary>
    /// <param name="Regions">
    /// At most <see cref="RegionsMax"/>, ascending: u32 region and 64 bytes, a bit for each of its pages.
    /// </param>
    public sealed record PagesMissing(int BlockIndex, ReadOnlyMemory<byte> Regions) : ControlMessage
    {
        /// <summary>Regions in one message: 8 GiB of guest memory.</summary>
        public const int RegionsMax = 4096;

        internal const int EntryBytes = 4 + PagesWanted.BitsBytes;

        /// <summary>Adds the pages to a set of the block.</summary>
        /// <exception cref="StreamFormatException">A page lies outside the block.</exception>
        public void AddTo(DirtySet set)
        {
            for (int at = 0; at < Regions.Length; at += EntryBytes)
            {
                ReadOnlySpan<byte> entry = Regions.Span.Slice(at, EntryBytes);
                long first = BinaryPrimitives.ReadUInt32LittleEndian(entry) * (long)Page.RegionPages;
                for (int i = 0; i < Page.RegionPages; i++)
                {
                    if ((entry[4 + (i / 8)] & (1 << (i % 8))) == 0)
                    {
                        continue;
                    }

                    if (first + i >= set.PageCount)
                    {
                        throw new StreamFormatException(
                            0, $"Page {first + i} of RAM block {BlockIndex} is missing; it has {set.PageCount} pages.");
                    }

                    set.Add(new PageNumber(first + i));
                }
            }
        }

        /// <summary>The messages that tell of a set.</summary>
        public static IEnumerable<PagesMissing> Of(int blockIndex, DirtySet set)
        {
            var entries = new ArrayBufferWriter<byte>();
            for (long region = set.NextRegion(0); region >= 0; region = set.NextRegion(region + 1))
            {
                Span<byte> entry = entries.GetSpan(EntryBytes);
                BinaryPrimitives.WriteUInt32LittleEndian(entry, checked((uint)region));
                ReadOnlySpan<ulong> words = set.Region(region);
                for (int i = 0; i < words.Length; i++)
                {
                    BinaryPrimitives.WriteUInt64LittleEndian(entry[(4 + (8 * i))..], words[i]);
                }

                entries.Advance(EntryBytes);
                if (entries.WrittenCount == RegionsMax * EntryBytes)
                {
                    yield return new PagesMissing(blockIndex, entries.WrittenMemory.ToArray());
                    entries.ResetWrittenCount();
                }
            }

            if (entries.WrittenCount > 0)
            {
                yield return new PagesMissing(blockIndex, entries.WrittenMemory.ToArray());
            }
        }
    }

    /// <summary>That was all that is missing.</summary>
    public sealed record MissingTold : ControlMessage;

    /// <summary>The guest waits for these pages.</summary>
    public sealed record PagesRequested(int BlockIndex, PageNumber First, int Count) : ControlMessage;

    /// <summary>The destination's QEMU has every page; the source's copy is not needed any more.</summary>
    public sealed record MemoryComplete(FaultReport Faults) : ControlMessage;

    private static void WriteMissing(IBufferWriter<byte> writer, PagesMissing missing)
    {
        ReadOnlySpan<byte> raw = missing.Regions.Span;
        byte[] body = new byte[6 + Math.Max(raw.Length, Lz4.CodedBytesMax(raw.Length))];
        BinaryPrimitives.WriteUInt16LittleEndian(body, checked((ushort)missing.BlockIndex));
        int coded = Lz4.Compress(raw, body.AsSpan(6));
        bool shorter = coded > 0 && coded < raw.Length;
        BinaryPrimitives.WriteInt32LittleEndian(body.AsSpan(2), shorter ? raw.Length : 0);
        if (!shorter)
        {
            raw.CopyTo(body.AsSpan(6));
        }

        WriteFrame(writer, FrameType.PagesMissing, body.AsSpan(0, 6 + (shorter ? coded : raw.Length)));
    }

    private static PagesMissing ReadMissing(ReadOnlySpan<byte> body)
    {
        const int bytesMax = PagesMissing.RegionsMax * PagesMissing.EntryBytes;
        if (body.Length < 6)
        {
            throw Malformed(FrameType.PagesMissing, body, "at least 6");
        }

        uint rawLength = BinaryPrimitives.ReadUInt32LittleEndian(body[2..]);
        byte[] regions;
        if (rawLength == 0)
        {
            regions = body[6..].ToArray();
        }
        else
        {
            // A byte of an LZ4 block stands for 255 at most: who claims more gets no memory for it.
            if (rawLength > bytesMax || rawLength > 255L * (body.Length - 6))
            {
                throw new StreamFormatException(
                    2, $"{rawLength} bytes of missing pages in a message of {body.Length}; {bytesMax} are possible.");
            }

            regions = new byte[rawLength];
            if (Lz4.Decompress(body[6..], regions) != regions.Length)
            {
                throw new StreamFormatException(6, "Missing pages do not decode to the length they announce.");
            }
        }

        if (regions.Length is 0 or > bytesMax || regions.Length % PagesMissing.EntryBytes != 0)
        {
            throw Malformed(FrameType.PagesMissing, body, $"1 to {PagesMissing.RegionsMax} regions");
        }

        long last = -1;
        for (int at = 0; at < regions.Length; at += PagesMissing.EntryBytes)
        {
            long region = BinaryPrimitives.ReadUInt32LittleEndian(regions.AsSpan(at));
            if (region <= last)
            {
                throw new StreamFormatException(6, $"Region {region} of missing pages follows region {last}.");
            }

            last = region;
        }

        return new PagesMissing(BinaryPrimitives.ReadUInt16LittleEndian(body), regions);
    }

    private static void WriteRequested(IBufferWriter<byte> writer, PagesRequested requested) => WriteNumbers(
        writer, FrameType.PagesRequested, requested.BlockIndex, requested.First.Value, requested.Count);

    private static PagesRequested ReadRequested(ReadOnlySpan<byte> body)
    {
        long block = Numbers(FrameType.PagesRequested, body, 3, 0);
        long first = Numbers(FrameType.PagesRequested, body, 3, 1);
        long count = Numbers(FrameType.PagesRequested, body, 3, 2);
        return block is < 0 or >= RamBlock.CountMax || first is < 0 or >= RamBlock.LengthMax / Page.Size
            || count is < 1 or > Page.RegionPages
            ? throw new StreamFormatException(
                0, $"{count} pages from page {first} of RAM block {block} are requested.")
            : new PagesRequested((int)block, new PageNumber(first), (int)count);
    }

    private static void WriteComplete(IBufferWriter<byte> writer, MemoryComplete complete) => WriteNumbers(
        writer, FrameType.MemoryComplete, complete.Faults.Count, complete.Faults.Mean.Ticks,
        complete.Faults.Median.Ticks, complete.Faults.Worst99.Ticks, complete.Faults.Longest.Ticks);

    private static MemoryComplete ReadComplete(ReadOnlySpan<byte> body) => new(new FaultReport(
        Numbers(FrameType.MemoryComplete, body, 5, 0), Span(FrameType.MemoryComplete, body, 5, 1),
        Span(FrameType.MemoryComplete, body, 5, 2), Span(FrameType.MemoryComplete, body, 5, 3),
        Span(FrameType.MemoryComplete, body, 5, 4)));
}
