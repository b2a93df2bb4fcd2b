using System.Runtime.InteropServices;
using Godwit.Host.Qemu;
using Godwit.Pages;

namespace Godwit.Host.Transfers;

// From a batch to the guest's memory, or to QEMU's stream for blocks without a file.
public sealed partial class DestinationTransfer
{
    private void Place(Lane lane, ReadOnlySpan<byte> body, PageBatchDecoder decoder, RefusedPages refused)
    {
        PageBatchReader batch = PageBatchReader.Parse(body, _blocks, decoder);
        GuestMemory? memory = _memoryOf[batch.BlockIndex];
        if (memory is not null)
        {
            refused.Begin(batch.BlockIndex);
            foreach (PageRun run in batch)
            {
                Place(run, memory, refused);
            }

            AskAgain(lane, batch.BlockIndex, refused);
            return;
        }

        RamBlock block = _blocks[batch.BlockIndex];
        lock (_streamGate)
        {
            _stream!.BeginPart();
            foreach (PageRun run in batch)
            {
                Carry(run, block);
            }

            _stream.EndSection();
            FlushStream();
        }
    }

    private void Place(in PageRun run, GuestMemory memory, RefusedPages refused)
    {
        if (run.Kind == PageKind.Delta && refused.Contains(run.First))
        {
            return;
        }

        refused.Remove(run.First, run.Count);
        switch (run.Kind)
        {
            case PageKind.Known:
                PlaceKnown(run, memory, refused);
                break;
            case PageKind.Changed:
                PlaceChanged(run, memory, refused);
                break;
            case PageKind.Zero:
                if (memory.Clear(run.First, run.Count))
                {
                    arrived?.NoteZeros(run.First, run.Count);
                }

                break;
            case PageKind.Word:
                PlaceWords(run, memory);
                break;
            case PageKind.Content:
                Put(run.First, run.Content, memory);
                break;
            case PageKind.Delta:
                ApplyDelta(run, memory);
                break;
            default:
                throw Unexpected(run);
        }
    }

    private void Put(PageNumber first, ReadOnlySpan<byte> contents, GuestMemory memory)
    {
        memory.Write(first, contents);
        arrived?.Note(first, contents);
    }

    private void PlaceWords(in PageRun run, GuestMemory memory)
    {
        Span<byte> page = stackalloc byte[Page.Size];
        for (int i = 0; i < run.Count; i++)
        {
            FillWithWord(run, i, page);
            Put(new PageNumber(run.First.Value + i), page, memory);
        }
    }

    // Nobody else writes the page meanwhile: the guest stands still, and all versions of a page come by one lane.
    private void ApplyDelta(in PageRun run, GuestMemory memory)
    {
        Span<byte> page = stackalloc byte[Page.Size];
        memory.Read(run.First, page);
        if (!PageDelta.TryApply(run.Content, page))
        {
            throw new StreamFormatException(0, $"The delta of page {run.First} reaches past the page.");
        }

        Put(run.First, page, memory);
    }

    private void Carry(in PageRun run, RamBlock block)
    {
        Span<byte> word = stackalloc byte[Page.Size];
        for (int i = 0; i < run.Count; i++)
        {
            var page = new PageNumber(run.First.Value + i);
            switch (run.Kind)
            {
                case PageKind.Zero:
                    _stream!.ZeroPage(block, page);
                    break;
                case PageKind.Word:
                    FillWithWord(run, i, word);
                    _stream!.Page(block, page, word);
                    break;
                case PageKind.Content:
                    _stream!.Page(block, page, run.Content.Slice(i * Page.Size, Page.Size));
                    break;
                // Its old version is inside QEMU, where nobody can read it.
                default:
                    throw Unexpected(run);
            }
        }
    }

    private static void FillWithWord(in PageRun run, int index, Span<byte> page) => MemoryMarshal
        .Cast<byte, ulong>(page)
        .Fill(MemoryMarshal.Read<ulong>(run.Content[(index * PageBatch.WordBytes)..]));

    private static StreamFormatException Unexpected(in PageRun run) => new(
        0, $"Page {run.First} came as {run.Kind}, which this host has not offered to rebuild.");
}
