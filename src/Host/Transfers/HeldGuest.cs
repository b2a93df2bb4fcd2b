using System.Buffers;
using System.Buffers.Binary;
using System.Net.Sockets;
using Godwit.GuestStreams.Qemu;
using Godwit.Host.Qemu;
using Godwit.Migration;
using Godwit.Migration.Postcopy;
using Godwit.Pages;

namespace Godwit.Host.Transfers;

/// <summary>A guest in postcopy whose daemon died, taken up without a word of its QEMU's monitor.</summary>
/// <remarks>
/// A QEMU whose devices wait for a page that is missing answers no command, and no new connection to its monitor, until
/// the page has come. So everything here goes by its process, its memory file and the stream that it holds.
/// </remarks>
public sealed class HeldGuest
{
    internal const uint DrainedPing = 0x47_44_57_32;
    // Who waits for a page asks once, and more processors and devices than this wait nowhere.
    internal const int RequestsMax = 1 << 16;
    internal static readonly TimeSpan DrainTime = TimeSpan.FromSeconds(30);

    private HeldGuest(
        HeldStream stream, Socket qemu, GuestMemory memory, MissingPages missing, QemuProcess process)
    {
        Stream = stream;
        Qemu = qemu;
        Memory = memory;
        Missing = missing;
        Process = process;
    }

    internal HeldStream Stream { get; }

    internal Socket Qemu { get; }

    internal GuestMemory Memory { get; }

    internal MissingPages Missing { get; }

    internal QemuProcess Process { get; }

    /// <summary>What QEMU has said meanwhile: it asks for a page once.</summary>
    internal IReadOnlyList<ReturnPathMessage> Requests { get; private init; } = [];

    /// <summary>Takes it up: waits until QEMU has put in place what it was given, and sees what is missing.</summary>
    /// <returns>Null if there is nothing to take up.</returns>
    /// <exception cref="EndOfStreamException">QEMU has closed its stream: it has all memory, or gave up.</exception>
    /// <exception cref="IOException">It is there and cannot be taken up; the message says why.</exception>
    public static HeldGuest? TryOpen(MachineContract contract, string runtimeDirectory, string migration)
    {
        if (HeldStream.Load(runtimeDirectory) is not { } held || held.Migration != migration
            || QemuMachine.FindProcess(contract, runtimeDirectory) is not { } id
            || QemuProcess.Open(id) is not { } process)
        {
            return null;
        }

        GuestMemory? memory = null;
        Socket? qemu = null;
        try
        {
            memory = GuestMemory.Open(id, QemuCommandLine.MemoryBlock, contract.MemoryBytes);
            qemu = held.Fetch(id);
            return Open(held, process, memory, qemu);
        }
        catch
        {
            qemu?.Dispose();
            memory?.Dispose();
            process.Dispose();
            throw;
        }
    }

    private static HeldGuest Open(HeldStream held, QemuProcess process, GuestMemory memory, Socket qemu)
    {
        var requests = new List<ReturnPathMessage>();
        Drain(qemu, held.Head, requests, DrainTime);
        bool[] shared = [.. held.Head.Blocks.Select(b => b.Name == memory.Name && b.Length == memory.Length)];
        var missing = new MissingPages(held.Head.Blocks, shared);
        int index = Array.IndexOf(shared, true);
        // A page that nobody has written may be one that the source never counted: then it is zero there too.
        for (long at = 0; index >= 0 && at < memory.Length / Page.Size;)
        {
            bool more = memory.TryFindAllocated(new PageNumber(at), out (PageNumber First, long Count) run);
            long end = more ? run.First.Value : memory.Length / Page.Size;
            for (; at < end; at++)
            {
                missing.Add(index, new PageNumber(at));
            }

            at = more ? run.First.Value + run.Count : end;
        }

        // The last daemon may have read requests that it never answered.
        GuestFaults.WakeAll(process.Id);
        return new HeldGuest(held, qemu, memory, missing, process) { Requests = requests };
    }

    // What the last daemon wrote lies between its sections and our PING: when QEMU answers, it is in place.
    internal static void Drain(
        Socket qemu, QemuStreamHead head, List<ReturnPathMessage> requests, TimeSpan patience)
    {
        long begun = System.Diagnostics.Stopwatch.GetTimestamp();
        var output = new ArrayBufferWriter<byte>();
        Span<byte> ping = stackalloc byte[sizeof(uint)];
        BinaryPrimitives.WriteUInt32BigEndian(ping, DrainedPing);
        new QemuStreamWriter(output, head).Command(QemuCommand.Ping, ping);
        qemu.ReceiveTimeout = (int)patience.TotalMilliseconds;
        var reader = new ReturnPathReader(takenUp: true);
        byte[] buffer = new byte[64 << 10];
        try
        {
            qemu.Send(output.WrittenSpan);
            while (true)
            {
                int count = qemu.Receive(buffer);
                if (count == 0)
                {
                    throw new EndOfStreamException("QEMU has closed its migration stream.");
                }

                reader.Feed(buffer.AsSpan(0, count));
                while (reader.TryTake(out ReturnPathMessage message))
                {
                    if (message is { Type: ReturnPathType.Pong, Value: DrainedPing })
                    {
                        qemu.ReceiveTimeout = 0;
                        return;
                    }

                    if (requests.Count == RequestsMax)
                    {
                        throw new IOException(
                            $"QEMU asks for more than {RequestsMax} pages at once: its stream is not taken up.");
                    }

                    requests.Add(message);
                }

                if (System.Diagnostics.Stopwatch.GetElapsedTime(begun) > patience)
                {
                    throw new IOException(
                        $"QEMU has not taken in what it was given within {patience.TotalSeconds:0.#} s.");
                }
            }
        }
        catch (Exception e) when (e is SocketException or StreamFormatException)
        {
            throw new IOException($"QEMU's migration stream cannot be taken up: {e.Message}", e);
        }
    }
}
