using System.Buffers.Binary;

namespace Godwit.Pages;

// From a checked batch to its pages.
public readonly ref partial struct PageBatchReader
{
    private bool IsPresent(int index) =>
        index < _span && (_presence.IsEmpty || (_presence[index / 8] & (1 << (index % 8))) != 0);

    /// <summary>Walks the pages of a batch in runs as long as they get, ascending.</summary>
    public ref struct Enumerator
    {
        private readonly PageBatchReader _batch;
        // The next page: its place in the span and among the present pages.
        private int _index;
        private int _page;
        // What follows of each section.
        private ReadOnlySpan<byte> _words;
        private ReadOnlySpan<byte> _names;
        private ReadOnlySpan<byte> _raw;
        private ReadOnlySpan<byte> _contents;
        private ReadOnlySpan<byte> _deltaLengths;
        private ReadOnlySpan<byte> _deltas;

        internal Enumerator(PageBatchReader batch)
        {
            _batch = batch;
            _words = batch._words;
            _names = batch._names;
            _raw = batch._raw;
            _contents = batch._block[..(batch._contentPages * Page.Size)];
            _deltas = batch._block[_contents.Length..];
            _deltaLengths = Take(ref _deltas, batch._deltaPages * PageBatch.DeltaLengthBytes);
        }

        public PageRun Current { get; private set; }

        public bool MoveNext()
        {
            while (!_batch.IsPresent(_index))
            {
                if (++_index >= _batch._span)
                {
                    return false;
                }
            }

            var first = new PageNumber(_batch._firstPage + _index);
            PageKind kind = _batch._kinds[_page];
            int count = 0;
            do
            {
                count++;
                _index++;
                _page++;
            }
            while (kind is not (PageKind.Delta or PageKind.Changed)
                && _batch.IsPresent(_index) && _batch._kinds[_page] == kind);

            Current = kind switch
            {
                PageKind.Zero => new(first, count, kind, default),
                PageKind.Word => new(first, count, kind, Take(ref _words, count * PageBatch.WordBytes)),
                PageKind.Known => new(first, count, kind, Take(ref _names, count * PageBatch.NameBytes)),
                PageKind.Raw => new(first, count, PageKind.Content, Take(ref _raw, count * Page.Size)),
                PageKind.Content => new(first, count, kind, Take(ref _contents, count * Page.Size)),
                PageKind.Changed => new(first, count, kind, TakeDelta(), Take(ref _names, PageBatch.NameBytes)),
                _ => new(first, count, kind, TakeDelta()),
            };
            return true;
        }

        private ReadOnlySpan<byte> TakeDelta() => Take(
            ref _deltas,
            BinaryPrimitives.ReadUInt16LittleEndian(Take(ref _deltaLengths, PageBatch.DeltaLengthBytes)));

        private static ReadOnlySpan<byte> Take(scoped ref ReadOnlySpan<byte> from, int length)
        {
            ReadOnlySpan<byte> taken = from[..length];
            from = from[length..];
            return taken;
        }
    }
}
