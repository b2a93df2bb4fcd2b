using System.Buffers;
using CsCheck;
using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Migration.Tests;

public class ControlMessageTests
{
    public static TheoryData<ControlMessage> Messages =>
    [
        new ControlMessage.Prologue(new byte[] { 1, 2, 3 }),
        new ControlMessage.StreamCommand(11, ReadOnlyMemory<byte>.Empty),
        new ControlMessage.DeviceState(new byte[] { 9 }),
        new ControlMessage.Received(1L << 40),
        new ControlMessage.Ping(7),
        new ControlMessage.Pong(-1),
        new ControlMessage.PagesPlaced(),
        new ControlMessage.Loaded(TimeSpan.FromMilliseconds(3), TimeSpan.FromMilliseconds(4)),
        new ControlMessage.Commit(),
        new ControlMessage.Running(TimeSpan.FromTicks(1), TimeSpan.FromTicks(2), TimeSpan.FromTicks(3)),
        new ControlMessage.Abort("link-lost", "b does not answer"),
        new ControlMessage.InventoryOffer(ContentOrigin.Disk, new byte[16]),
        new ControlMessage.InventoryReady(false), new ControlMessage.InventoryReady(true),
        new ControlMessage.PagesWanted(3, 70_000, (byte[])[1, .. new byte[63]]),
        new ControlMessage.PagesMissing(3, (byte[])[7, 0, 0, 0, 1, .. new byte[63]]),
        new ControlMessage.MissingTold(),
        new ControlMessage.PagesRequested(3, new PageNumber(70_000), 2),
        new ControlMessage.MemoryComplete(new FaultReport(
            5, TimeSpan.FromTicks(1), TimeSpan.FromTicks(2), TimeSpan.FromTicks(3), TimeSpan.FromTicks(4))),
    ];

    [Theory]
    [MemberData(nameof(Messages))]
    public void Comes_back_as_it_was(ControlMessage message)
    {
        (FrameHeader header, byte[] body) = Encode(message);
        ControlMessage read = ControlMessage.Decode(header.Type, body);
        Assert.Equal(message.GetType(), read.GetType());
        Assert.Equal(Encode(message).Body, Encode(read).Body);
    }

    [Fact]
    public void Device_state_of_any_length_and_content_comes_back() =>
        Gen.Byte.Array[0, 5000].Sample(bytes =>
        {
            (FrameHeader header, byte[] body) = Encode(new ControlMessage.DeviceState(bytes));
            var read = (ControlMessage.DeviceState)ControlMessage.Decode(header.Type, body);
            return read.Bytes.Span.SequenceEqual(bytes);
        });

    [Fact]
    public void Hostile_bodies_are_refused_or_read_but_never_hurt() =>
        Gen.Select(Gen.Byte, Gen.Byte.Array[0, 300]).Sample((type, body) =>
        {
            try
            {
                ControlMessage.Decode((FrameType)type, body);
            }
            catch (StreamFormatException)
            {
            }
        });

    [Fact]
    public void Device_state_that_claims_to_be_huge_costs_no_memory()
    {
        byte[] body = [0xFF, 0xFF, 0xFF, 0x7F, 1, 2, 3];
        Assert.Throws<StreamFormatException>(() => ControlMessage.Decode(FrameType.DeviceState, body));
    }

    [Fact]
    public void An_offer_has_an_origin_and_whole_fingerprints()
    {
        byte[][] bad =
        [
            [], [3], [9, 0, 0, 0, 0, 0, 0, 0, 0], [1, 2, 3], new byte[2 + (8 * ControlMessage.InventoryOffer.CountMax)],
            new byte[1 + (8 * (ControlMessage.InventoryOffer.CountMax + 1))],
        ];
        Assert.All(bad, body => Assert.Throws<StreamFormatException>(
            () => ControlMessage.Decode(FrameType.InventoryOffer, body)));
    }

    [Fact]
    public void Pages_that_are_wanted_are_named_by_their_bits()
    {
        byte[] body = new byte[6 + ControlMessage.PagesWanted.BitsBytes];
        Assert.Throws<StreamFormatException>(() => ControlMessage.Decode(FrameType.PagesWanted, body));
        body[2] = 2;
        body[6] = 0x81;
        body[^1] = 0x80;
        var wanted = (ControlMessage.PagesWanted)ControlMessage.Decode(FrameType.PagesWanted, body);
        Assert.Equal([1024, 1031, 1535], wanted.Pages().Select(page => page.Value));
    }

    [Fact]
    public void Missing_pages_come_back_as_the_set_they_were() =>
        Gen.Select(Gen.Int[1, 5000], Gen.Int[0, 4999].Array[0, 400]).Sample((count, pages) =>
        {
            var set = new DirtySet(count);
            foreach (int page in pages.Where(page => page < count))
            {
                set.Add(new PageNumber(page));
            }

            var read = new DirtySet(count);
            foreach (ControlMessage.PagesMissing told in ControlMessage.PagesMissing.Of(2, set))
            {
                (FrameHeader header, byte[] body) = Encode(told);
                ((ControlMessage.PagesMissing)ControlMessage.Decode(header.Type, body)).AddTo(read);
            }

            return set.SequenceEqual(read);
        });

    [Fact]
    public void Missing_pages_outside_of_the_block_or_out_of_order_are_refused()
    {
        byte[] entry = [9, 0, 0, 0, 1, .. new byte[63]];
        byte[][] bad = [[], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, .. entry, .. entry], [0, 0, 0xFF, 0xFF, 0, 0, 1]];
        Assert.All(bad, body => Assert.Throws<StreamFormatException>(
            () => ControlMessage.Decode(FrameType.PagesMissing, body)));
        var outside = (ControlMessage.PagesMissing)ControlMessage.Decode(
            FrameType.PagesMissing, (byte[])[0, 0, 0, 0, 0, 0, .. entry]);
        Assert.Throws<StreamFormatException>(() => outside.AddTo(new DirtySet(4096)));
    }

    [Theory]
    [InlineData(FrameHeader.ControlBodyMax + 1, 0)]
    [InlineData(-1, 0)]
    [InlineData(10, 1)]
    public void A_header_that_states_too_much_is_refused(int length, byte reserved)
    {
        byte[] header = new byte[FrameHeader.Size];
        new FrameHeader(FrameType.Ping, length).Write(header);
        header[6] = reserved;
        Assert.Throws<StreamFormatException>(() => FrameHeader.Read(header, FrameHeader.ControlBodyMax));
    }

    [Fact]
    public void A_lane_begins_with_version_number_and_ticket()
    {
        byte[] ticket = [.. Enumerable.Range(0, LanePreamble.TicketBytes).Select(i => (byte)i)];
        byte[] preamble = new byte[LanePreamble.Size];
        LanePreamble.Write(preamble, 1, 2, ticket);
        (int version, int lane, byte[] read) = LanePreamble.Read(preamble);
        Assert.Equal((1, 2), (version, lane));
        Assert.Equal(ticket, read);
        preamble[0] = (byte)'H';
        Assert.Throws<StreamFormatException>(() => LanePreamble.Read(preamble));
    }

    private static (FrameHeader Header, byte[] Body) Encode(ControlMessage message)
    {
        var writer = new ArrayBufferWriter<byte>();
        message.Encode(writer);
        byte[] body = writer.WrittenSpan[FrameHeader.Size..].ToArray();
        return (FrameHeader.Read(writer.WrittenSpan, FrameHeader.ControlBodyMax), body);
    }
}
