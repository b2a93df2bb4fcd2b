using System.Buffers.Binary;
using System.Net;
using System.Runtime.InteropServices;
using System.Text;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Network;

/// <summary>A network device as the kernel lists it.</summary>
/// <param name="Kind">The driver's kind, for example <c>bridge</c> or <c>tun</c>; empty for hardware.</param>
/// <param name="Master">Index of the bridge it is a port of; 0 for none.</param>
internal sealed record Link(int Index, string Name, string Kind, byte[] Mac, bool Up, int Master);

/// <summary>The few rtnetlink requests Godwit makes, one system call each.</summary>
/// <remarks>
/// A netlink socket stays in the network namespace of the thread that opened it, so whatever was opened for a guest
/// acts where the guest's device is. Fields are in the host's byte order: netlink never leaves the machine.
/// </remarks>
internal sealed partial class RouteNetlink : IDisposable
{
    private const ushort NewLink = 16, DeleteLink = 17, GetLink = 18, GetAddress = 22;
    private const ushort NewNeighbour = 28, DeleteNeighbour = 29;
    private const ushort Request = 1, Acknowledge = 4, Dump = 0x300, Replace = 0x100, Exclusive = 0x200, Create = 0x400;
    private const ushort LinkAddress = 1, LinkName = 3, LinkMaster = 10, LinkInfo = 18, InfoKind = 1;
    private const int HeaderBytes = 16;
    private const byte FamilyBridge = 7;

    private readonly SafeFileHandle _socket;
    private uint _sequence;

    internal RouteNetlink()
    {
        // AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE.
        int descriptor = OpenSocket(16, 0x80003, 0);
        if (descriptor < 0)
        {
            throw new NetworkException("open a netlink socket", Marshal.GetLastPInvokeError());
        }
        _socket = new SafeFileHandle(descriptor, ownsHandle: true);
    }

    /// <summary>Every device of this network namespace.</summary>
    internal IReadOnlyList<Link> Links()
    {
        List<Link> links = [];
        Exchange(GetLink, Dump, new byte[16], "list the network devices", (type, payload) =>
        {
            if (type == NewLink && payload.Length >= 16)
            {
                links.Add(ReadLink(payload));
            }
        });
        return links;
    }

    /// <summary>The device of this name, or null.</summary>
    internal Link? Find(string name) => Links().FirstOrDefault(link => link.Name == name);

    /// <summary>Every address of this network namespace's own devices.</summary>
    internal IReadOnlyList<IPAddress> Addresses()
    {
        List<IPAddress> addresses = [];
        Exchange(GetAddress, Dump, new byte[8], "list the addresses", (_, payload) =>
        {
            // IFA_LOCAL (2) is the host's own address where IFA_ADDRESS (1) may be its peer's.
            byte[]? address = payload.Length < 8 ? null : Attribute(payload[8..], 2) ?? Attribute(payload[8..], 1);
            if (address is { Length: 4 or 16 })
            {
                addresses.Add(new IPAddress(address));
            }
        });
        return addresses;
    }

    internal void CreateBridge(string name) =>
        Send(NewLink, Create | Exclusive, "create bridge " + name, LinkMessage(0, 0, 0,
            (LinkName, Text(name)), (LinkInfo, Encode(InfoKind, "bridge"u8.ToArray()))));

    internal void SetUp(int index, bool up, string name) =>
        Send(NewLink, 0, $"set {name} {(up ? "up" : "down")}", LinkMessage(index, up ? 1u : 0u, 1));

    internal void SetMac(int index, byte[] mac, string name) =>
        Send(NewLink, 0, $"set the MAC address of {name}", LinkMessage(index, 0, 0, (LinkAddress, mac)));

    internal void SetMaster(int index, int bridge, string name) =>
        Send(NewLink, 0, $"make {name} a port of its bridge",
            LinkMessage(index, 0, 0, (LinkMaster, BitConverter.GetBytes(bridge))));

    internal void Delete(int index, string name) => Send(DeleteLink, 0, "delete " + name, LinkMessage(index, 0, 0));

    /// <summary>
    /// The bridge sends frames for this MAC to this port from now on; the entry ages like a learned one.
    /// </summary>
    internal void ReplaceForwarding(int port, byte[] mac, string name) =>
        Send(NewNeighbour, Create | Replace, $"point the bridge's entry of {name}'s guest to {name}",
            ForwardingMessage(port, mac));

    /// <summary>The bridge forgets that this MAC is behind this port.</summary>
    internal void DeleteForwarding(int port, byte[] mac, string name) =>
        Send(DeleteNeighbour, 0, $"delete the bridge's entry of {name}'s guest", ForwardingMessage(port, mac));

    private static byte[] ForwardingMessage(int port, byte[] mac)
    {
        byte[] message = new byte[12];
        message[0] = FamilyBridge;
        BitConverter.TryWriteBytes(message.AsSpan(4), port);
        BitConverter.TryWriteBytes(message.AsSpan(8), (ushort)2);   // NUD_REACHABLE: ages
        message[10] = 4;                                            // NTF_MASTER: the bridge's table
        return [.. message, .. Encode(2, mac)];                     // NDA_LLADDR
    }

    private static byte[] LinkMessage(
        int index, uint flags, uint change, params (ushort Type, byte[] Value)[] attributes)
    {
        byte[] message = new byte[16];
        BitConverter.TryWriteBytes(message.AsSpan(4), index);
        BitConverter.TryWriteBytes(message.AsSpan(8), flags);
        BitConverter.TryWriteBytes(message.AsSpan(12), change);
        return [.. message, .. attributes.SelectMany(attribute => Encode(attribute.Type, attribute.Value))];
    }

    private static byte[] Encode(ushort type, byte[] value)
    {
        byte[] attribute = new byte[(4 + value.Length + 3) & ~3];
        BitConverter.TryWriteBytes(attribute, (ushort)(4 + value.Length));
        BitConverter.TryWriteBytes(attribute.AsSpan(2), type);
        value.CopyTo(attribute.AsSpan(4));
        return attribute;
    }

    private static byte[] Text(string name) => [.. Encoding.ASCII.GetBytes(name), 0];

    private static Link ReadLink(ReadOnlySpan<byte> payload)
    {
        ReadOnlySpan<byte> attributes = payload[16..];
        byte[]? kind = Attribute(attributes, LinkInfo) is { } info ? Attribute(info, InfoKind) : null;
        return new Link(
            BinaryPrimitives.ReadInt32LittleEndian(payload[4..]),
            Decode(Attribute(attributes, LinkName)),
            Decode(kind),
            Attribute(attributes, LinkAddress) ?? [],
            (payload[8] & 1) != 0,
            Attribute(attributes, LinkMaster) is { Length: 4 } master ? BitConverter.ToInt32(master) : 0);
    }

    private static string Decode(byte[]? text) => text is null ? "" : Encoding.ASCII.GetString(text).TrimEnd('\0');

    private static byte[]? Attribute(ReadOnlySpan<byte> attributes, ushort type)
    {
        while (attributes.Length >= 4)
        {
            int length = BitConverter.ToUInt16(attributes);
            if (length < 4 || length > attributes.Length)
            {
                return null;
            }
            // The two top bits say "nested" and "big-endian"; they are no part of the type.
            if ((BitConverter.ToUInt16(attributes[2..]) & 0x3FFF) == type)
            {
                return attributes[4..length].ToArray();
            }
            attributes = attributes[Math.Min((length + 3) & ~3, attributes.Length)..];
        }
        return null;
    }

    private delegate void Visit(ushort type, ReadOnlySpan<byte> payload);

    private void Send(ushort type, ushort flags, string purpose, byte[] payload) =>
        Exchange(type, (ushort)(flags | Acknowledge), payload, purpose, (_, _) => { });

    private void Exchange(ushort type, ushort flags, byte[] payload, string purpose, Visit visit)
    {
        lock (_socket)
        {
            byte[] message = new byte[HeaderBytes + payload.Length];
            uint sequence = ++_sequence;
            BitConverter.TryWriteBytes(message, message.Length);
            BitConverter.TryWriteBytes(message.AsSpan(4), type);
            BitConverter.TryWriteBytes(message.AsSpan(6), (ushort)(flags | Request));
            BitConverter.TryWriteBytes(message.AsSpan(8), sequence);
            payload.CopyTo(message.AsSpan(HeaderBytes));
            if (SendBytes(_socket, message, (nuint)message.Length, 0) < 0)
            {
                throw new NetworkException(purpose, Marshal.GetLastPInvokeError());
            }
            byte[] buffer = new byte[64 << 10];
            while (true)
            {
                nint received = ReceiveBytes(_socket, buffer, (nuint)buffer.Length, 0);
                if (received < 0)
                {
                    throw new NetworkException(purpose, Marshal.GetLastPInvokeError());
                }
                if (Take(buffer.AsSpan(0, (int)received), sequence, purpose, visit))
                {
                    return;
                }
            }
        }
    }

    private static bool Take(ReadOnlySpan<byte> datagram, uint sequence, string purpose, Visit visit)
    {
        while (datagram.Length >= HeaderBytes)
        {
            int length = BitConverter.ToInt32(datagram);
            if (length < HeaderBytes || length > datagram.Length)
            {
                throw new NetworkException(purpose, 74);   // EBADMSG
            }
            ushort type = BitConverter.ToUInt16(datagram[4..]);
            ReadOnlySpan<byte> payload = datagram[HeaderBytes..length];
            if (BitConverter.ToUInt32(datagram[8..]) == sequence)
            {
                if (type == 2)   // NLMSG_ERROR, which with 0 is the acknowledgement
                {
                    int error = -BitConverter.ToInt32(payload);
                    return error == 0 ? true : throw new NetworkException(purpose, error);
                }
                if (type == 3)   // NLMSG_DONE
                {
                    return true;
                }
                visit(type, payload);
            }
            datagram = datagram[Math.Min((length + 3) & ~3, datagram.Length)..];
        }
        return false;
    }

    public void Dispose() => _socket.Dispose();

    [LibraryImport("libc", EntryPoint = "socket", SetLastError = true)]
    private static partial int OpenSocket(int family, int type, int protocol);

    [LibraryImport("libc", EntryPoint = "send", SetLastError = true)]
    private static partial nint SendBytes(SafeFileHandle socket, byte[] buffer, nuint length, int flags);

    [LibraryImport("libc", EntryPoint = "recv", SetLastError = true)]
    private static partial nint ReceiveBytes(SafeFileHandle socket, [Out] byte[] buffer, nuint length, int flags);
}

/// <summary>The kernel refused something about the network.</summary>
internal sealed class NetworkException(string purpose, int error)
    : Exception($"Cannot {purpose}: {Marshal.GetPInvokeErrorMessage(error)}.")
{
    /// <summary>The kernel's errno.</summary>
    internal int Error { get; } = error;
}
