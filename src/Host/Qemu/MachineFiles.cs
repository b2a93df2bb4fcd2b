using Godwit.Migration;

namespace Godwit.Host.Qemu;

/// <summary>The files of one guest's QEMU in its runtime directory.</summary>
internal sealed class MachineFiles
{
    /// <summary>The kernel's limit for the path of a Unix socket, without its final zero byte.</summary>
    private const int SocketPathBytesMax = 107;

    internal MachineFiles(string runtimeDirectory)
    {
        RuntimeDirectory = Path.GetFullPath(runtimeDirectory);
        if (System.Text.Encoding.UTF8.GetByteCount(ConsoleSocket) > SocketPathBytesMax)
        {
            throw new GodwitException("path-too-long",
                $"Socket path {ConsoleSocket} exceeds the kernel's limit of {SocketPathBytesMax} bytes.",
                "Choose a shorter runtime directory.");
        }
    }

    internal string RuntimeDirectory { get; }
    internal string Monitor => Path.Combine(RuntimeDirectory, "qmp.sock");
    internal string ConsoleSocket => Path.Combine(RuntimeDirectory, "console.sock");
    internal string ConsoleLog => Path.Combine(RuntimeDirectory, "console.log");
    internal string Log => Path.Combine(RuntimeDirectory, "qemu.log");
    internal string ProcessIdFile => Path.Combine(RuntimeDirectory, "qemu.pid");

    /// <summary>Makes the directory, for its owner only: whoever reaches the monitor owns the guest.</summary>
    internal void Prepare()
    {
        Directory.CreateDirectory(
            RuntimeDirectory, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        RemoveSockets();
        File.WriteAllBytes(Log, []);
    }

    internal void RemoveSockets()
    {
        foreach (string path in new[] { Monitor, ConsoleSocket, ProcessIdFile })
        {
            try
            {
                File.Delete(path);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                // Stale files do no harm: QEMU replaces them, and an adoption checks the process behind the number.
            }
        }
    }

    /// <summary>The last words of QEMU, in one line.</summary>
    internal string LastWords()
    {
        try
        {
            string[] lines = File.ReadAllLines(Log);
            string words = string.Join(
                " / ", lines.Where(line => line.Length > 0).TakeLast(4).Select(line => line.Trim()));
            return words.Length > 1000 ? words[^1000..] : words;
        }
        catch (IOException)
        {
            return "";
        }
    }

    internal int? ReadProcessId()
    {
        try
        {
            return int.TryParse(File.ReadAllText(ProcessIdFile).Trim(), out int id) && id > 0 ? id : null;
        }
        catch (IOException)
        {
            return null;
        }
    }
}
