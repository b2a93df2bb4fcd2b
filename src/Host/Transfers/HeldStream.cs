using System.Globalization;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using Godwit.GuestStreams.Qemu;
using Godwit.Host.Qemu;
using Godwit.Pages;

namespace Godwit.Host.Transfers;

/// <summary>What a daemon needs to take up the stream of a QEMU in postcopy that another one left.</summary>
/// <remarks>
/// QEMU holds our end of the stream beside its own, so the stream outlives the daemon. The next daemon fetches that end
/// out of QEMU's files, without asking QEMU: one whose devices wait for a page does not answer.
/// </remarks>
/// <param name="Migration">The migration's id.</param>
/// <param name="Inode">The kernel's number of our end.</param>
public sealed record HeldStream(string Migration, string Inode, QemuStreamHead Head)
{
    private const string Title = "godwit postcopy 1";

    /// <summary>The kernel's number of a socket.</summary>
    public static string InodeOf(Socket socket) =>
        File.ResolveLinkTarget($"/proc/self/fd/{(int)socket.Handle}", returnFinalTarget: false)?.Name ?? "";

    public static void Save(string runtimeDirectory, HeldStream held)
    {
        string path = PathIn(runtimeDirectory);
        File.WriteAllLines(path + ".new",
        [
            Title, held.Migration, held.Inode, held.Head.Machine,
            held.Head.RamSectionId.ToString(CultureInfo.InvariantCulture),
            .. held.Head.Blocks.Select(block => $"{block.Length} {block.Name}"),
        ]);
        File.Move(path + ".new", path, overwrite: true);
    }

    /// <summary>Null if there is none, or none that can be read.</summary>
    public static HeldStream? Load(string runtimeDirectory)
    {
        try
        {
            string[] lines = File.ReadAllLines(PathIn(runtimeDirectory));
            return lines.Length < 6 || lines[0] != Title
                ? null
                : new HeldStream(lines[1], lines[2], new QemuStreamHead(
                    lines[3], uint.Parse(lines[4], CultureInfo.InvariantCulture),
                    [.. lines.Skip(5).Select((line, index) => BlockOf(line, index))]) { PostcopyAdvised = true });
        }
        catch (Exception e) when (e is IOException or FormatException or ArgumentException or OverflowException)
        {
            return null;
        }
    }

    /// <summary>There is none any more; it need not have been there, nor the directory.</summary>
    public static void Forget(string runtimeDirectory)
    {
        if (Directory.Exists(runtimeDirectory))
        {
            File.Delete(PathIn(runtimeDirectory));
        }
    }

    /// <summary>Fetches our end of the stream out of QEMU.</summary>
    /// <exception cref="IOException">QEMU has ended, does not hold it, or the kernel refuses.</exception>
    public Socket Fetch(int processId)
    {
        (int descriptor, string name) = ForeignFile.List(processId).FirstOrDefault(file => file.Name == Inode);
        if (name is null)
        {
            throw new IOException($"Process {processId} does not hold the stream {Inode}.");
        }

        nint socket = ForeignFile.TryFetch(processId, descriptor);
        return socket >= 0
            ? new Socket(new SafeSocketHandle(socket, ownsHandle: true))
            : throw new IOException(
                $"The stream of process {processId} cannot be fetched: "
                + $"{Marshal.GetPInvokeErrorMessage((int)-socket)}.");
    }

    private static RamBlock BlockOf(string line, int index)
    {
        string[] parts = line.Split(' ', 2);
        return new RamBlock(index, parts[1], long.Parse(parts[0], CultureInfo.InvariantCulture));
    }

    private static string PathIn(string runtimeDirectory) => Path.Combine(runtimeDirectory, "postcopy");
}
