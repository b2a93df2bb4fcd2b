using System.Buffers;
using System.Buffers.Binary;
using System.Globalization;
using System.Net.Sockets;
using System.Text;
using System.Text.Json.Nodes;
using Godwit.GuestStreams.Qemu;
using Godwit.Migration;
using Godwit.Pages;

namespace Godwit.Host.Qemu;

// What a QEMU needs that has turned to postcopy.
public sealed partial class QemuMachine
{
    private static readonly TimeSpan TakeBackTime = TimeSpan.FromSeconds(10);

    /// <summary>True for a RAM block whose memory <see cref="OpenMemory"/> opens.</summary>
    public bool Holds(RamBlock block) => Contract.SharedMemory && block.Name == QemuCommandLine.MemoryBlock
        && block.Length == Contract.MemoryBytes;

    /// <summary>
    /// Lets a guest run here again whose QEMU has turned to postcopy, and that has not run elsewhere.
    /// </summary>
    /// <remarks>
    /// QEMU takes itself for left: it refuses to cancel and to go on. But it takes up a postcopy whose connection broke
    /// with whoever says what has arrived, and here everything has: then it completes, and its guest may go on.
    /// The caller has closed its end of the stream and let go of any hold on it.
    /// </remarks>
    /// <param name="runtimeDirectory">For a socket.</param>
    /// <exception cref="QmpException">QEMU refused.</exception>
    /// <exception cref="GodwitException">
    /// <c>qemu-silent</c>: it did not come to an end in time; <c>qemu-ended</c>.
    /// </exception>
    public async Task TakeBackFromPostcopyAsync(string runtimeDirectory, CancellationToken cancellationToken)
    {
        string status = await AwaitMigrationAsync(
            s => s is "failed" or "cancelled" or "completed" or "none" or "postcopy-paused", cancellationToken);
        if (status == "postcopy-paused")
        {
            Dictionary<string, long> pages = await ReadBlockPagesAsync(cancellationToken);
            string path = Path.Combine(runtimeDirectory, "back.sock");
            File.Delete(path);
            using var listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            listener.Bind(new UnixDomainSocketEndPoint(path));
            listener.Listen(1);
            try
            {
                await ExecuteAsync(
                    "migrate", new JsonObject { ["uri"] = $"unix:{path}", ["resume"] = true }, cancellationToken);
                using Socket stream = await listener.AcceptAsync(cancellationToken).AsTask()
                    .WaitAsync(TakeBackTime, cancellationToken);
                await Task.Run(() => AnswerForAll(stream, pages), cancellationToken);
                await AwaitMigrationAsync(s => s is "completed" or "failed", cancellationToken);
            }
            catch (TimeoutException)
            {
                throw NotTakenBack();
            }
            catch (SocketException e)
            {
                throw new GodwitException("qemu-ended",
                    $"QEMU of {Contract.Name} broke off while its guest was taken back: {e.Message}.",
                    "QEMU's log in the guest's runtime directory says why.", e);
            }
            finally
            {
                File.Delete(path);
            }
        }

        JsonNode? run = await ExecuteAsync("query-status", null, cancellationToken);
        if (run?["running"]?.GetValue<bool>() == false)
        {
            await ExecuteAsync("cont", null, cancellationToken);
        }
    }

    private async Task<string> AwaitMigrationAsync(Predicate<string> isThere, CancellationToken cancellationToken)
    {
        long deadline = Environment.TickCount64 + (long)TakeBackTime.TotalMilliseconds;
        while (true)
        {
            JsonNode? migration = await ExecuteAsync("query-migrate", null, cancellationToken);
            string status = migration?["status"]?.GetValue<string>() ?? "none";
            if (isThere(status))
            {
                return status;
            }

            if (Environment.TickCount64 > deadline)
            {
                throw NotTakenBack();
            }

            await Task.Delay(5, cancellationToken);
        }
    }

    private GodwitException NotTakenBack() => new("qemu-silent",
        $"QEMU of {Contract.Name} did not end its postcopy within {TakeBackTime.TotalSeconds:0} s.",
        "The guest is paused. Look into QEMU's log and at the load of the host.");

    // A line for each block: name, page size, offset, used bytes and total bytes, these three in hexadecimal.
    private async Task<Dictionary<string, long>> ReadBlockPagesAsync(CancellationToken cancellationToken)
    {
        JsonNode? answer = await ExecuteAsync(
            "human-monitor-command", new JsonObject { ["command-line"] = "info ramblock" }, cancellationToken);
        var pages = new Dictionary<string, long>(StringComparer.Ordinal);
        foreach (string line in (answer?.GetValue<string>() ?? "").Split('\n'))
        {
            string[] parts = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
            if (parts.Length >= 6 && parts[4].StartsWith("0x", StringComparison.Ordinal)
                && long.TryParse(
                    parts[4].AsSpan(2), NumberStyles.HexNumber, CultureInfo.InvariantCulture, out long used))
            {
                pages[parts[0]] = used / Page.Size;
            }
        }

        return pages;
    }

    // Stands in for a destination that has everything: a bitmap of ones for each block, ready, and well received.
    private void AnswerForAll(Socket stream, Dictionary<string, long> pages)
    {
        const int EndBytes = 19;
        stream.ReceiveTimeout = (int)TakeBackTime.TotalMilliseconds;
        var pending = new List<byte>();
        byte[] buffer = new byte[64 << 10];
        bool resumed = false;
        while (true)
        {
            int count = stream.Receive(buffer);
            if (count == 0)
            {
                return;
            }

            pending.AddRange(buffer.AsSpan(0, count));
            while (!resumed && pending.Count >= 5 && pending[0] == 8)
            {
                byte[] bytes = [.. pending];
                ushort command = BinaryPrimitives.ReadUInt16BigEndian(bytes.AsSpan(1));
                int length = BinaryPrimitives.ReadUInt16BigEndian(bytes.AsSpan(3));
                if (bytes.Length < 5 + length)
                {
                    break;
                }

                var answer = new ArrayBufferWriter<byte>();
                switch (command)
                {
                    case QemuCommand.RecvBitmap:
                        string block = Encoding.UTF8.GetString(bytes.AsSpan(6, length - 1));
                        ReturnPathWriter.HasAllOf(answer, block, pages.GetValueOrDefault(block));
                        break;
                    case QemuCommand.PostcopyResume:
                        ReturnPathWriter.ResumeAck(answer);
                        resumed = true;
                        break;
                    case QemuCommand.Ping:
                        ReturnPathWriter.Pong(answer, BinaryPrimitives.ReadUInt32BigEndian(bytes.AsSpan(5)));
                        break;
                }

                stream.Send(answer.WrittenSpan);
                pending.RemoveRange(0, 5 + length);
            }

            // RAM's last section with nothing in it, and the stream's end.
            if (resumed && pending.Count >= EndBytes && pending[^6] == 0x7E && pending[^1] == 0)
            {
                var shut = new ArrayBufferWriter<byte>();
                ReturnPathWriter.Shut(shut, 0);
                stream.Send(shut.WrittenSpan);
                return;
            }

            if (pending.Count > buffer.Length)
            {
                throw NotTakenBack();
            }
        }
    }
}
