using System.Buffers;
using Godwit.GuestStreams.Qemu;
using Godwit.Pages;

namespace Godwit.GuestStreams.Tests;

public class ReturnPathTests
{
    private static readonly byte[] _messages =
        [0, 2, 0, 4, 0, 0, 0, 1, 0, 7, 0, 0, 0, 1, 0, 4, 0, 0, 0, 0, 0, 1, 0, 4, 0xFF, 0xFF, 0xFF, 0xEA];

    [Fact]
    public void Any_cut_gives_the_same_messages()
    {
        for (int cut = 0; cut <= _messages.Length; cut++)
        {
            var reader = new ReturnPathReader();
            var taken = new List<ReturnPathMessage>();
            foreach (byte[] piece in new[] { _messages[..cut], _messages[cut..] })
            {
                reader.Feed(piece);
                while (reader.TryTake(out ReturnPathMessage message))
                {
                    taken.Add(message);
                }
            }

            Assert.Equal(
                [
                    new(ReturnPathType.Pong, 1), new(ReturnPathType.SwitchoverAck, 0), new(ReturnPathType.Shut, 0),
                    new(ReturnPathType.Shut, 0xFFFFFFEA),
                ],
                taken);
        }
    }

    [Fact]
    public void The_writer_writes_what_the_reader_reads()
    {
        var output = new ArrayBufferWriter<byte>();
        ReturnPathWriter.Pong(output, 1);
        ReturnPathWriter.SwitchoverAck(output);
        ReturnPathWriter.Shut(output, 0);
        ReturnPathWriter.Shut(output, 0xFFFFFFEA);
        Assert.Equal(_messages, output.WrittenSpan);
    }

    [Theory]
    [InlineData(0, 3, 0, 12)]
    [InlineData(0, 4, 0, 12)]
    [InlineData(0, 9, 0, 0)]
    [InlineData(0, 1, 0, 5)]
    [InlineData(0, 1, 0xFF, 0xFF)]
    [InlineData(0, 7, 0, 4)]
    public void Messages_of_no_precopy_are_refused_where_they_stand(byte a, byte b, byte c, byte d)
    {
        var reader = new ReturnPathReader();
        reader.Feed([0, 7, 0, 0, a, b, c, d]);
        Assert.True(reader.TryTake(out _));
        StreamFormatException e = Assert.Throws<StreamFormatException>(() => reader.TryTake(out _));
        Assert.Equal(4, e.Offset);
    }
}
