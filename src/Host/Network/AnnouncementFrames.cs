using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;

namespace Godwit.Host.Network;

/// <summary>
/// The Ethernet frames by which a guest's new place becomes known; all come from the guest's own MAC.
/// </summary>
/// <remarks>
/// Switches learn the MAC's port from any of them. Neighbours that hold an entry for the address refresh it: some only
/// on an ARP request, others only on a reply, hence both (RFC 5227, section 3).
/// </remarks>
internal static class AnnouncementFrames
{
    /// <summary>Bytes of the shortest frame Ethernet carries, without its checksum.</summary>
    private const int FrameBytesMin = 60;

    private static ReadOnlySpan<byte> Broadcast => [0xff, 0xff, 0xff, 0xff, 0xff, 0xff];

    /// <summary>One round of frames for a guest's interface.</summary>
    internal static IReadOnlyList<byte[]> For(byte[] mac, IEnumerable<IPAddress> addresses)
    {
        // RARP comes first: it needs no address and teaches every switch on the way.
        List<byte[]> frames = [Rarp(mac)];
        foreach (IPAddress address in addresses)
        {
            if (address.AddressFamily == AddressFamily.InterNetwork)
            {
                frames.Add(GratuitousArp(mac, address, reply: false));
                frames.Add(GratuitousArp(mac, address, reply: true));
            }
            else
            {
                frames.Add(NeighbourAdvertisement(mac, address));
            }
        }
        return frames;
    }

    /// <summary>Reverse ARP request (RFC 903): who am I? Nobody answers; every switch learns.</summary>
    internal static byte[] Rarp(byte[] mac) => Arp(mac, 0x8035, operation: 3, [0, 0, 0, 0], mac, [0, 0, 0, 0]);

    internal static byte[] GratuitousArp(byte[] mac, IPAddress address, bool reply)
    {
        byte[] own = address.GetAddressBytes();
        return Arp(mac, 0x0806, reply ? (ushort)2 : (ushort)1, own, reply ? mac : new byte[6], own);
    }

    private static byte[] Arp(
        byte[] mac, ushort etherType, ushort operation, byte[] senderAddress, byte[] targetMac, byte[] targetAddress)
    {
        byte[] frame = new byte[FrameBytesMin];
        Header(frame, Broadcast, mac, etherType);
        Span<byte> body = frame.AsSpan(14);
        BinaryPrimitives.WriteUInt16BigEndian(body, 1);             // Ethernet
        BinaryPrimitives.WriteUInt16BigEndian(body[2..], 0x0800);   // IPv4
        body[4] = 6;
        body[5] = 4;
        BinaryPrimitives.WriteUInt16BigEndian(body[6..], operation);
        mac.CopyTo(body[8..]);
        senderAddress.CopyTo(body[14..]);
        targetMac.CopyTo(body[18..]);
        targetAddress.CopyTo(body[24..]);
        return frame;
    }

    /// <summary>
    /// Unsolicited neighbour advertisement with the override flag, to all nodes (RFC 4861, section 7.2.6).
    /// </summary>
    internal static byte[] NeighbourAdvertisement(byte[] mac, IPAddress address)
    {
        byte[] frame = new byte[14 + 40 + 32];
        Header(frame, [0x33, 0x33, 0, 0, 0, 1], mac, 0x86DD);
        Span<byte> ip = frame.AsSpan(14, 40);
        ip[0] = 0x60;
        BinaryPrimitives.WriteUInt16BigEndian(ip[4..], 32);
        ip[6] = 58;     // ICMPv6
        ip[7] = 255;    // Receivers drop anything less: it proves that no router forwarded the frame.
        address.GetAddressBytes().CopyTo(ip[8..]);
        IPAddress.Parse("ff02::1").GetAddressBytes().CopyTo(ip[24..]);
        Span<byte> message = frame.AsSpan(54, 32);
        message[0] = 136;
        message[4] = 0x20;   // override
        address.GetAddressBytes().CopyTo(message[8..]);
        message[24] = 2;     // option: target's link-layer address, one unit of 8 bytes
        message[25] = 1;
        mac.CopyTo(message[26..]);
        BinaryPrimitives.WriteUInt16BigEndian(message[2..], Checksum(ip.Slice(8, 32), message));
        return frame;
    }

    /// <summary>The ones' complement sum over IPv6's pseudo-header and the ICMPv6 message.</summary>
    private static ushort Checksum(ReadOnlySpan<byte> addresses, ReadOnlySpan<byte> message)
    {
        uint sum = (uint)message.Length + 58;
        for (int i = 0; i < addresses.Length; i += 2)
        {
            sum += BinaryPrimitives.ReadUInt16BigEndian(addresses[i..]);
        }
        for (int i = 0; i < message.Length; i += 2)
        {
            sum += BinaryPrimitives.ReadUInt16BigEndian(message[i..]);
        }
        while (sum > 0xffff)
        {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        return (ushort)~sum;
    }

    private static void Header(byte[] frame, ReadOnlySpan<byte> destination, byte[] source, ushort etherType)
    {
        destination.CopyTo(frame);
        source.CopyTo(frame.AsSpan(6));
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(12), etherType);
    }
}
