using Godwit.GuestStreams.Qemu;
using Godwit.Pages;

namespace Godwit.Fuzz.Tests.Targets;

/// <summary>QEMU's stream: what the sink is told holds, and does not depend on how the bytes are cut.</summary>
internal static class QemuStreamTarget
{
    public static bool Fuzz(ReadOnlySpan<byte> bytes)
    {
        string whole = Outcome(bytes, bytes.Length, 1);
        int piece = Math.Min(bytes.Length, 1 + (bytes.IsEmpty ? 0 : bytes[^1] % 61));
        string cut = Outcome(bytes, piece, piece);
        Require.That(whole == cut, $"pieces of {piece} give the same: {whole} - {cut}");
        return whole[0] != 'R';
    }

    /// <summary>All that came of the bytes, in a first piece and then equal ones; begins with R if refused.</summary>
    public static string Outcome(ReadOnlySpan<byte> bytes, int first, int then)
    {
        var sink = new Checking();
        var reader = new QemuStreamReader(sink);
        try
        {
            reader.Feed(bytes[..first]);
            for (int at = first; at < bytes.Length; at += then)
            {
                reader.Feed(bytes.Slice(at, Math.Min(then, bytes.Length - at)));
            }

            return sink.Seen;
        }
        catch (StreamFormatException e)
        {
            Require.That(e.Offset >= 0 && e.Offset <= bytes.Length, $"a refusal at {e.Offset} of {bytes.Length} bytes");
            return $"Refused at {e.Offset} after {sink.Seen}";
        }
    }

    private sealed class Checking : IQemuStreamSink
    {
        private readonly HashCode[] _hash = new HashCode[1];
        private QemuStreamHead? _head;
        private bool _final;
        private int _pages;
        private long _tail;

        public string Seen => $"{_hash[0].ToHashCode():x8} and {_tail} bytes of device state";

        public void Prologue(ReadOnlySpan<byte> verbatim, QemuStreamHead head)
        {
            Require.That(_head is null && verbatim.Length <= QemuStreamReader.PrologueBytesMax && head.Blocks.Count > 0,
                "the prologue");
            _head = head;
            _hash[0].AddBytes(verbatim);
        }

        public void Page(int blockIndex, PageNumber page, ReadOnlySpan<byte> content)
        {
            Require.That(
                _head is not null && !_final && page.Value >= 0 && page.Value < _head.Blocks[blockIndex].PageCount
                && content.Length is 0 or Godwit.Pages.Page.Size, "a page");
            _pages++;
            _hash[0].Add((blockIndex, page));
            _hash[0].AddBytes(content);
        }

        public void SectionEnd(bool final, int pages)
        {
            Require.That(_head is not null && !_final && pages == _pages, "a section's end");
            _final = final;
            _pages = 0;
            _hash[0].Add(final);
        }

        public void Command(ushort number, ReadOnlySpan<byte> payload)
        {
            Require.That(payload.Length <= 16, "a command");
            _hash[0].Add(number);
            _hash[0].AddBytes(payload);
        }

        public void Tail(ReadOnlySpan<byte> verbatim)
        {
            Require.That(_final && verbatim.Length > 0, "the tail");
            _tail += verbatim.Length;
        }
    }
}
