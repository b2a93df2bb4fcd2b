using Godwit.GuestStreams.Qemu;
using Godwit.Pages;

namespace Godwit.GuestStreams.Tests;

/// <summary>The fuzz targets of this folder's parsers, in the shape that a fuzzing driver calls.</summary>
internal static class QemuStreamFuzz
{
    /// <summary>Any bytes are either refused by name or keep what the sink was promised.</summary>
    /// <returns>Whether the bytes were taken to the end.</returns>
    public static bool Fuzz(ReadOnlySpan<byte> bytes)
    {
        try
        {
            new QemuStreamReader(new Checking()).Feed(bytes);
            return true;
        }
        catch (StreamFormatException e)
        {
            return e.Offset >= 0 && e.Offset <= bytes.Length
                ? false
                : throw new InvalidOperationException($"A refusal at {e.Offset} of {bytes.Length} bytes.", e);
        }
    }

    /// <summary>The same for the return path.</summary>
    public static bool FuzzReturnPath(ReadOnlySpan<byte> bytes)
    {
        var reader = new ReturnPathReader();
        reader.Feed(bytes);
        try
        {
            while (reader.TryTake(out _))
            {
            }

            return true;
        }
        catch (StreamFormatException)
        {
            return false;
        }
    }

    private sealed class Checking : IQemuStreamSink
    {
        private QemuStreamHead? _head;
        private bool _final;
        private int _pages;

        public void Prologue(ReadOnlySpan<byte> verbatim, QemuStreamHead head)
        {
            Require(_head is null && verbatim.Length <= QemuStreamReader.PrologueBytesMax && head.Blocks.Count > 0);
            _head = head;
        }

        public void Page(int blockIndex, PageNumber page, ReadOnlySpan<byte> content)
        {
            Require(_head is not null && !_final && page.Value >= 0 && page.Value < _head.Blocks[blockIndex].PageCount);
            Require(content.Length is 0 or Godwit.Pages.Page.Size);
            _pages++;
        }

        public void SectionEnd(bool final, int pages)
        {
            Require(_head is not null && !_final && pages == _pages);
            _final = final;
            _pages = 0;
        }

        public void Command(ushort number, ReadOnlySpan<byte> payload) => Require(payload.Length <= 16);

        public void Tail(ReadOnlySpan<byte> verbatim) => Require(_final && verbatim.Length > 0);

        private static void Require(bool holds)
        {
            if (!holds)
            {
                throw new InvalidOperationException("The reader broke a promise to its sink.");
            }
        }
    }
}

public class QemuStreamFuzzTests
{
    public static TheoryData<string> AllVectors => [.. Vectors.Names];

    // Goal: hostile bytes cost the stream its life and this process nothing. Method: seeded flips, cuts and spliced
    // pieces of real streams, most of them near the front, where the lengths are.
    [Theory]
    [MemberData(nameof(AllVectors))]
    public void Mangled_streams_are_refused_or_keep_every_promise(string name)
    {
        byte[] stream = Vectors.Load(name);
        Assert.True(QemuStreamFuzz.Fuzz(stream));
        var random = new Random(4711);
        int refused = 0;
        for (int run = 0; run < 2000; run++)
        {
            byte[] mangled = stream.AsSpan(0, random.Next(1, 60_000)).ToArray();
            for (int flips = random.Next(1, 6); flips > 0; flips--)
            {
                mangled[random.Next(Math.Min(mangled.Length, 1 << random.Next(4, 16)))] = (byte)random.Next(256);
            }

            if (run % 3 == 0)
            {
                int to = random.Next(mangled.Length);
                int from = random.Next(stream.Length);
                int length = Math.Min(random.Next(300), Math.Min(mangled.Length - to, stream.Length - from));
                stream.AsSpan(from, length).CopyTo(mangled.AsSpan(to));
            }

            refused += QemuStreamFuzz.Fuzz(mangled) ? 0 : 1;
        }

        Assert.True(refused > 500, $"only {refused} of 2000 mangled streams were refused");
    }

    [Fact]
    public void Any_return_path_is_read_or_refused()
    {
        var random = new Random(4712);
        byte[] bytes = new byte[64];
        int refused = 0;
        for (int run = 0; run < 20_000; run++)
        {
            for (int i = 0; i < bytes.Length; i++)
            {
                bytes[i] = (byte)(random.Next(3) == 0 ? random.Next(8) : 0);
            }

            refused += QemuStreamFuzz.FuzzReturnPath(bytes.AsSpan(0, random.Next(bytes.Length))) ? 0 : 1;
        }

        Assert.True(refused > 5000, $"only {refused} return paths were refused");
    }
}
