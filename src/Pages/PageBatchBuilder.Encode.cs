using System.Buffers.Binary;

namespace Godwit.Pages;

// From the pages gathered to the bytes of a batch.
public sealed partial class PageBatchBuilder
{
    /// <summary>Encodes the whole batch.</summary>
    /// <param name="to">At least <see cref="PageBatch.EncodedBytesMax"/> bytes.</param>
    /// <param name="coding">
    /// What the block goes through. LZ4 leaves it plain when that does not make it smaller; Zstandard does not, because
    /// what has gone into the stream has to arrive.
    /// </param>
    /// <returns>The length of the encoded batch, which can be encoded once.</returns>
    public int Encode(Span<byte> to, BlockCoding coding)
    {
        if (to.Length < PageBatch.EncodedBytesMax)
        {
            throw new ArgumentException(
                $"The buffer has {to.Length} bytes; a batch may need {PageBatch.EncodedBytesMax}.", nameof(to));
        }

        Examine();
        if (Pages == 0)
        {
            throw new InvalidOperationException("A batch without a page cannot be encoded.");
        }

        if (version < PageBatch.Version2)
        {
            return EncodeVersion1(to, coding);
        }

        if (coding.LeavesNoiseOut)
        {
            SortNoiseOut();
        }

        ReadOnlySpan<byte> kinds = Present(out int first);
        int at = PageBatch.HeaderBytes;
        byte flags = 0;
        if (Pages == kinds.Length)
        {
            flags |= PageBatch.AllPresent;
        }
        else
        {
            at += WriteBits(to[at..], kinds, Absent, invert: true);
        }

        if (kinds.IndexOfAnyExcept(kinds[0], Absent) < 0)
        {
            flags |= PageBatch.OneKind;
            to[at++] = (byte)(kinds[0] - 1);
        }
        else
        {
            at += WriteKinds(to[at..], kinds);
        }

        at += WriteContents(to[at..], PageKind.Word, PageBatch.WordBytes);
        at += WriteNames(to[at..]);
        at += WriteContents(to[at..], PageKind.Raw, Page.Size);
        int raw = GatherBlock();
        int coded = Code(to[at..], raw, coding, out BlockCoder coder);
        (BlockBytes, CodedBytes) = (raw, coded);
        PageBatch.WriteHeader(
            to,
            new PageBatchHeader(_blockIndex, _region, first, kinds.Length, (byte)(flags | (byte)coder), (uint)raw));
        return at + coded;
    }

    private int EncodeVersion1(Span<byte> to, BlockCoding coding)
    {
        if (coding.Coder == BlockCoder.Zstd)
        {
            throw new InvalidOperationException($"Batches of version {version} know no Zstandard.");
        }

        ReadOnlySpan<byte> kinds = Present(out int first);
        int at = PageBatch.HeaderBytesVersion1;
        byte flags = 0;
        if (Pages == kinds.Length)
        {
            flags |= PageBatch.AllPresent;
        }
        else
        {
            at += WriteBits(to[at..], kinds, Absent, invert: true);
        }

        if (!kinds.Contains(Kind(PageKind.Content)))
        {
            flags |= PageBatch.AllZero;
        }
        else if (!kinds.Contains(Kind(PageKind.Zero)))
        {
            flags |= PageBatch.NoneZero;
        }
        else
        {
            at += WriteBitsOfPresent(to[at..], kinds, Kind(PageKind.Zero));
        }

        int raw = GatherBlock();
        int coded = Code(to[at..], raw, coding, out BlockCoder coder);
        (BlockBytes, CodedBytes) = (raw, coded);
        PageBatch.WriteHeader(
            to,
            new PageBatchHeader(_blockIndex, _region, first, kinds.Length, (byte)(flags | (byte)coder), (uint)raw));
        BinaryPrimitives.WriteUInt32LittleEndian(to[15..], (uint)coded);
        return at + coded;
    }

    // From the first page present to the last: dropped pages may have been either.
    private ReadOnlySpan<byte> Present(out int first)
    {
        first = _kinds.AsSpan().IndexOfAnyExcept(Absent);
        int last = _kinds.AsSpan().LastIndexOfAnyExcept(Absent);
        return _kinds.AsSpan(first, last - first + 1);
    }

    private static int WriteBits(Span<byte> to, ReadOnlySpan<byte> kinds, byte kind, bool invert)
    {
        int length = (kinds.Length + 7) / 8;
        to[..length].Clear();
        for (int i = 0; i < kinds.Length; i++)
        {
            to[i / 8] |= (byte)(((kinds[i] == kind) ^ invert ? 1 : 0) << (i % 8));
        }

        return length;
    }

    private int WriteBitsOfPresent(Span<byte> to, ReadOnlySpan<byte> kinds, byte kind)
    {
        int length = (Pages + 7) / 8;
        to[..length].Clear();
        int page = 0;
        foreach (byte k in kinds)
        {
            to[page / 8] |= (byte)((k == kind ? 1 : 0) << (page % 8));
            page += k == Absent ? 0 : 1;
            if (page == Pages)
            {
                break;
            }
        }

        return length;
    }

    private int WriteKinds(Span<byte> to, ReadOnlySpan<byte> kinds)
    {
        int length = (Pages + 1) / 2;
        to[..length].Clear();
        int page = 0;
        foreach (byte kind in kinds)
        {
            if (kind != Absent)
            {
                to[page / 2] |= (byte)((kind - 1) << (page % 2 * 4));
                page++;
            }
        }

        return length;
    }

    // The first bytes of each page of a kind.
    private int WriteContents(Span<byte> to, PageKind kind, int bytesEach)
    {
        int at = 0;
        for (int slot = 0; slot < _slotCount; slot++)
        {
            if (_kinds[_slots[slot]] == Kind(kind))
            {
                ContentOf(slot)[..bytesEach].CopyTo(to[at..]);
                at += bytesEach;
            }
        }

        return at;
    }

    private int WriteNames(Span<byte> to)
    {
        int at = 0;
        for (int slot = 0; slot < _slotCount; slot++)
        {
            if (IsNamed(slot))
            {
                _names.AsSpan(slot * PageBatch.NameBytes, PageBatch.NameBytes).CopyTo(to[at..]);
                at += PageBatch.NameBytes;
            }
        }

        return at;
    }

    // Moves contents to the front of the staging and puts deltas behind them: what a coder takes lies in one piece.
    // A delta and its length never take more room than the page they stand for.
    private int GatherBlock()
    {
        int at = 0;
        int deltas = 0;
        for (int slot = 0; slot < _slotCount; slot++)
        {
            if (_kinds[_slots[slot]] == Kind(PageKind.Content))
            {
                if (at != slot * Page.Size)
                {
                    ContentOf(slot).CopyTo(_staging.AsSpan(at));
                }

                at += Page.Size;
            }

            deltas += HasDelta(slot) ? 1 : 0;
        }

        int lengths = at;
        at += deltas * PageBatch.DeltaLengthBytes;
        for (int slot = 0; slot < _slotCount && deltas > 0; slot++)
        {
            if (HasDelta(slot))
            {
                (int from, int length) = _deltaOf[slot];
                BinaryPrimitives.WriteUInt16LittleEndian(_staging.AsSpan(lengths), (ushort)length);
                lengths += PageBatch.DeltaLengthBytes;
                _deltas.AsSpan(from, length).CopyTo(_staging.AsSpan(at));
                at += length;
            }
        }

        return at;
    }

    private void SortNoiseOut()
    {
        for (int slot = 0; slot < _slotCount; slot++)
        {
            if (_classes[slot] == PageClass.Incompressible && _kinds[_slots[slot]] == Kind(PageKind.Content))
            {
                _kinds[_slots[slot]] = Kind(PageKind.Raw);
            }
        }
    }

    private int Code(Span<byte> to, int length, BlockCoding coding, out BlockCoder coder)
    {
        ReadOnlySpan<byte> raw = _staging.AsSpan(0, length);
        coder = length == 0 ? BlockCoder.None : coding.Coder;
        switch (coder)
        {
            case BlockCoder.Zstd:
                _zstd ??= new ZstdEncoder();
                return _zstd.Compress(raw, to, coding.Level, coding.WindowLog);
            // One byte less than raw as capacity: what would not shrink is given up as soon as that shows.
            case BlockCoder.Lz4 when Lz4.Compress(raw, to[..(length - 1)], coding.Level) is > 0 and var coded:
                return coded;
            default:
                coder = BlockCoder.None;
                raw.CopyTo(to);
                return length;
        }
    }
}
