using System.Net;
using CsCheck;
using Godwit.Host.Network;

namespace Godwit.Host.Tests.Network;

public sealed class AnnouncementFramesTests
{
    private static readonly byte[] Mac = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

    [Fact]
    public void Rarp_is_exact() => Assert.Equal(
        "FFFFFFFFFFFF" + "525400123456" + "8035" + "0001" + "0800" + "06" + "04" + "0003" +
        "525400123456" + "00000000" + "525400123456" + "00000000" + new string('0', 36),
        Convert.ToHexString(AnnouncementFrames.Rarp(Mac)));

    [Fact]
    public void Gratuitous_ARP_request_is_exact() => Assert.Equal(
        "FFFFFFFFFFFF" + "525400123456" + "0806" + "0001" + "0800" + "06" + "04" + "0001" +
        "525400123456" + "0A000014" + "000000000000" + "0A000014" + new string('0', 36),
        Convert.ToHexString(AnnouncementFrames.GratuitousArp(Mac, IPAddress.Parse("10.0.0.20"), reply: false)));

    [Fact]
    public void Gratuitous_ARP_reply_is_exact() => Assert.Equal(
        "FFFFFFFFFFFF" + "525400123456" + "0806" + "0001" + "0800" + "06" + "04" + "0002" +
        "525400123456" + "0A000014" + "525400123456" + "0A000014" + new string('0', 36),
        Convert.ToHexString(AnnouncementFrames.GratuitousArp(Mac, IPAddress.Parse("10.0.0.20"), reply: true)));

    [Fact]
    public void Neighbour_advertisement_is_exact_but_for_its_checksum()
    {
        byte[] frame = AnnouncementFrames.NeighbourAdvertisement(Mac, IPAddress.Parse("fd00::20"));
        byte[] rest = [.. frame];
        rest[56] = rest[57] = 0;
        Assert.Equal(
            "333300000001" + "525400123456" + "86DD" +
            "60000000" + "0020" + "3A" + "FF" +
            "FD000000000000000000000000000020" + "FF020000000000000000000000000001" +
            "88" + "00" + "0000" + "20000000" + "FD000000000000000000000000000020" + "0201" + "525400123456",
            Convert.ToHexString(rest));
    }

    // A receiver adds up the whole message with its checksum and the pseudo-header and has to find all ones.
    [Fact]
    public void Neighbour_advertisements_add_up_at_the_receiver() =>
        Gen.Select(Gen.Byte.Array[6], Gen.Byte.Array[16]).Sample((mac, address) =>
        {
            byte[] frame = AnnouncementFrames.NeighbourAdvertisement(mac, new IPAddress(address));
            uint sum = 32 + 58;
            for (int i = 22; i < frame.Length; i += 2)
            {
                sum += (uint)((frame[i] << 8) | frame[i + 1]);
            }
            while (sum > 0xffff)
            {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            return sum == 0xffff;
        });

    [Fact]
    public void One_round_covers_every_address() => Assert.Equal(
        [0x8035, 0x0806, 0x0806, 0x86DD],
        AnnouncementFrames.For(Mac, [IPAddress.Parse("10.0.0.20"), IPAddress.Parse("fd00::20")])
            .Select(frame => (frame[12] << 8) | frame[13]));
}
