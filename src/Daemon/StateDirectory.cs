using Godwit.Migration;

namespace Godwit.Daemon;

/// <summary>The daemon's hold on its directories: writable, and nobody else's at the same time.</summary>
internal sealed class StateDirectory : IDisposable
{
    private const UnixFileMode OwnerOnly = UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute;
    private const UnixFileMode OwnerAndGroup = OwnerOnly | UnixFileMode.GroupRead | UnixFileMode.GroupExecute;
    private const int ProbeBytes = 64 * 1024;
    private readonly FileStream _lock;

    private StateDirectory(FileStream held) => _lock = held;

    /// <exception cref="GodwitException"><c>state-unwritable</c> or <c>state-in-use</c>.</exception>
    public static StateDirectory Take(DaemonSettings settings)
    {
        Prepare(settings.StateDirectory, OwnerOnly);
        Prepare(settings.RuntimeDirectory, OwnerAndGroup);
        var path = Path.Combine(settings.StateDirectory, "godwitd.lock");
        try
        {
            // The kernel drops the lock with the process, so a crash leaves nothing to clean up.
            return new StateDirectory(
                new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None));
        }
        catch (IOException exception)
        {
            throw new GodwitException("state-in-use",
                $"Another godwitd uses {settings.StateDirectory}: {exception.Message}",
                "Stop it, or give this one its own --state-dir, --runtime-dir and ports.", exception);
        }
    }

    private static void Prepare(string directory, UnixFileMode mode)
    {
        try
        {
            Directory.CreateDirectory(directory, mode);
            var probe = Path.Combine(directory, ".probe");
            using (var stream = new FileStream(probe, FileMode.Create, FileAccess.Write))
            {
                stream.Write(new byte[ProbeBytes]);
                stream.Flush(flushToDisk: true);
            }

            File.Delete(probe);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            throw new GodwitException("state-unwritable", $"{directory} cannot be written: {exception.Message}",
                "Check its owner, its mode, and free space with 'df'; or name another directory.", exception);
        }
    }

    public void Dispose() => _lock.Dispose();
}
