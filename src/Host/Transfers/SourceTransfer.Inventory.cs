using System.Buffers.Binary;
using Godwit.ChunkStore;
using Godwit.Migration;
using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Host.Transfers;

// Pages that the destination can rebuild by itself go by their names.
public sealed partial class SourceTransfer
{
    // What a host may have us remember of its inventory: four contents for each page, since its disks hold more than
    // the guest has read, and 64 MiB of memory at most.
    private const int OffersPerPage = 4;
    private const int OffersMost = 1 << 21;

    private int OffersMax()
    {
        long pages = _memory.Sum(m => m.Length) / Page.Size;
        return terms.WireVersion < WireVersions.Inventory || terms.Policy.Share == ContentSharing.None
            ? 0
            : (int)Math.Min(pages * OffersPerPage, OffersMost);
    }

    // A page is named only when its fingerprint was offered: a name costs ten times as much as a fingerprint.
    private void NameKnown(LaneState state)
    {
        (TakenPages taken, PageBatchBuilder batch) = (state.Taken, state.Batch);
        Span<byte> name = stackalloc byte[ContentName.Size];
        Span<byte> sums = stackalloc byte[PageLines.SumsBytes];
        for (int slot = 0, at = 0; slot < batch.Slots; slot++)
        {
            PageNumber page = batch.PageOf(slot);
            while (taken[at] != page)
            {
                at++;
            }

            if (taken.IsPlain(at) || batch.KindOf(slot) != PageKind.Content)
            {
                continue;
            }

            ReadOnlySpan<byte> content = batch.ContentOf(slot);
            int origin = _engine.OriginOf(Fingerprint.Of(content));
            if (origin >= 0)
            {
                ContentName.Of(content).Write(name);
                batch.SetKnown(slot, name);
                state.Known.Add((page, origin));
            }
            else if (state.TakesChanged && arrived!.TryRead(page, sums)
                && batch.TrySetChanged(slot, sums, state.DeltaBytesMax, out Span<byte> changed))
            {
                ContentName.Of(content).Write(changed);
                state.Known.Add((page, SourceEngine.ChangedSinceLeft));
            }
        }
    }

    // Which of the destination's wishes this lane has answered: a wish that crossed the barrier makes it void.
    private int WriteBarrier(Lane lane, byte[] frame)
    {
        if (terms.WireVersion < WireVersions.Inventory)
        {
            new FrameHeader(FrameType.Barrier, 0).Write(frame);
            return FrameHeader.Size;
        }

        lock (_gate)
        {
            BinaryPrimitives.WriteInt32LittleEndian(
                frame.AsSpan(FrameHeader.Size), _engine.AsksAnswered(lane.Number - 1));
        }

        new FrameHeader(FrameType.Barrier, sizeof(int)).Write(frame);
        return FrameHeader.Size + sizeof(int);
    }
}
