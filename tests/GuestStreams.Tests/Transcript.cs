using System.Buffers;
using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;
using Godwit.GuestStreams.Qemu;
using Godwit.Pages;

namespace Godwit.GuestStreams.Tests;

/// <summary>Everything a reader reported, in a form that can be compared.</summary>
/// <remarks>The pieces of the tail are joined, because a reader is free in where it cuts them.</remarks>
internal sealed class Transcript : IQemuStreamSink
{
    private readonly IncrementalHash _calls = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
    private readonly MemoryStream _tail = new();

    public QemuStreamHead? Head { get; private set; }
    public byte[] Prologue { get; private set; } = [];
    public Dictionary<(int Block, long Page), byte[]> Newest { get; } = [];
    public List<ushort> Commands { get; } = [];
    public List<(bool Final, int Pages)> Sections { get; } = [];
    public long PageRecords { get; private set; }
    public byte[] Tail => _tail.ToArray();

    public static Transcript Of(ReadOnlySpan<byte> stream, int cut = 0)
    {
        var transcript = new Transcript();
        var reader = new QemuStreamReader(transcript);
        reader.Feed(stream[..cut]);
        reader.Feed(stream[cut..]);
        return transcript;
    }

    /// <summary>One string for all calls in their order with all their bytes.</summary>
    public string Digest()
    {
        using IncrementalHash all = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        all.AppendData(_calls.GetCurrentHash());
        all.AppendData(_tail.GetBuffer().AsSpan(0, (int)_tail.Length));
        return Convert.ToHexString(all.GetCurrentHash());
    }

    void IQemuStreamSink.Prologue(ReadOnlySpan<byte> verbatim, QemuStreamHead head)
    {
        Head = head;
        Prologue = verbatim.ToArray();
        Call(1, verbatim.Length, (int)head.RamSectionId, verbatim);
        Call(1, head.Blocks.Count, head.PostcopyAdvised ? 1 : 0, Encoding.ASCII.GetBytes(head.Machine));
    }

    void IQemuStreamSink.Page(int blockIndex, PageNumber page, ReadOnlySpan<byte> content)
    {
        PageRecords++;
        Newest[(blockIndex, page.Value)] = content.ToArray();
        Call(2, blockIndex, (int)page.Value, content);
    }

    void IQemuStreamSink.SectionEnd(bool final, int pages)
    {
        Sections.Add((final, pages));
        Call(3, final ? 1 : 0, pages, []);
    }

    void IQemuStreamSink.Command(ushort number, ReadOnlySpan<byte> payload)
    {
        Commands.Add(number);
        Call(4, number, payload.Length, payload);
    }

    void IQemuStreamSink.Tail(ReadOnlySpan<byte> verbatim) => _tail.Write(verbatim);

    private void Call(int kind, int first, int second, ReadOnlySpan<byte> bytes)
    {
        Span<byte> head = stackalloc byte[16];
        BinaryPrimitives.WriteInt32LittleEndian(head, kind);
        BinaryPrimitives.WriteInt32LittleEndian(head[4..], first);
        BinaryPrimitives.WriteInt32LittleEndian(head[8..], second);
        BinaryPrimitives.WriteInt32LittleEndian(head[12..], bytes.Length);
        _calls.AppendData(head);
        _calls.AppendData(bytes);
    }
}

/// <summary>What a destination does: prologue and tail as they came, the pages in sections of its own making.</summary>
internal static class Rewriter
{
    /// <summary>The newest version of each page, once, in shuffled order, in small parts and the END section.</summary>
    public static byte[] Rewrite(byte[] stream, int seed)
    {
        Transcript read = Transcript.Of(stream);
        var output = new ArrayBufferWriter<byte>();
        var writer = new QemuStreamWriter(output, read.Head!);
        writer.Prologue(read.Prologue);
        writer.Footer();
        (int Block, long Page)[] order = [.. read.Newest.Keys.Order()];
        new Random(seed).Shuffle(order);
        const int PartCount = 5;
        int parts = 0;
        foreach ((int Block, long Page)[] part in order.Chunk((order.Length + PartCount - 1) / PartCount))
        {
            if (++parts == PartCount)
            {
                writer.BeginEnd();
            }
            else
            {
                writer.BeginPart();
            }

            // Runs of one block exercise CONTINUE, changes of the block its absence.
            foreach ((int block, long number) in parts % 2 == 0 ? part : [.. part.Order()])
            {
                byte[] content = read.Newest[(block, number)];
                if (content.Length == 0)
                {
                    writer.ZeroPage(read.Head!.Blocks[block], new PageNumber(number));
                }
                else
                {
                    writer.Page(read.Head!.Blocks[block], new PageNumber(number), content);
                }
            }

            writer.EndSection();
        }

        output.Write(read.Tail);
        return output.WrittenSpan.ToArray();
    }
}
