using System.Net.Sockets;
using System.Runtime.InteropServices;

namespace Godwit.Host.Qemu;

/// <summary>Hands open files to another process over a Unix socket (SCM_RIGHTS, unix(7)).</summary>
internal static unsafe partial class DescriptorPassing
{
    private const int SocketLevel = 1;
    private const int Rights = 1;
    private const int NoSignal = 0x4000;
    private const int TryAgain = 11;

    /// <summary>Sends bytes and one descriptor with the first of them.</summary>
    /// <returns>
    /// How many bytes were sent, with the descriptor; 0 if the socket is full, and nothing was sent.
    /// </returns>
    /// <exception cref="IOException">The socket is broken.</exception>
    internal static int TrySend(SafeSocketHandle over, ReadOnlySpan<byte> bytes, SafeHandle descriptor)
    {
        bool overHeld = false;
        bool descriptorHeld = false;
        try
        {
            over.DangerousAddRef(ref overHeld);
            descriptor.DangerousAddRef(ref descriptorHeld);
            Control control = new()
            {
                Length = 20,   // CMSG_LEN(sizeof(int))
                Level = SocketLevel,
                Type = Rights,
                Descriptor = (int)descriptor.DangerousGetHandle(),
            };
            // Everything pointed to is on this stack or pinned until sendmsg has returned, and sendmsg keeps nothing.
            fixed (byte* start = bytes)
            {
                Vector vector = new() { Start = start, Length = (nuint)bytes.Length };
                Message message = new()
                {
                    Vectors = &vector, VectorCount = 1, Control = &control, ControlLength = (nuint)sizeof(Control),
                };
                nint sent = SendMessage((int)over.DangerousGetHandle(), &message, NoSignal);
                if (sent >= 0)
                {
                    return (int)sent;
                }
            }

            return Marshal.GetLastPInvokeError() == TryAgain
                ? 0 : throw new IOException(Marshal.GetLastPInvokeErrorMessage());
        }
        finally
        {
            if (descriptorHeld)
            {
                descriptor.DangerousRelease();
            }

            if (overHeld)
            {
                over.DangerousRelease();
            }
        }
    }

    [LibraryImport("libc", EntryPoint = "sendmsg", SetLastError = true)]
    private static partial nint SendMessage(int socket, Message* message, int flags);

    [StructLayout(LayoutKind.Sequential)]
    private struct Vector
    {
        internal byte* Start;
        internal nuint Length;
    }

    // struct msghdr of 64-bit Linux.
    [StructLayout(LayoutKind.Sequential)]
    private struct Message
    {
        internal void* Name;
        internal uint NameLength;
        internal Vector* Vectors;
        internal nuint VectorCount;
        internal Control* Control;
        internal nuint ControlLength;
        internal int Flags;
    }

    // struct cmsghdr with one descriptor: CMSG_SPACE(sizeof(int)) is 24 bytes.
    [StructLayout(LayoutKind.Sequential, Size = 24)]
    private struct Control
    {
        internal nuint Length;
        internal int Level;
        internal int Type;
        internal int Descriptor;
    }
}
