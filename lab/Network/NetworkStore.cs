namespace Godwit.Lab.Network;

/// <summary>A folder of host a that host b reaches over the lab's link: SFTP without encryption, mounted.</summary>
/// <remarks>
/// The hosts of the lab share a file system; a store that is to cost what a link costs is reached by this.
/// </remarks>
internal sealed class NetworkStore : IDisposable
{
    private const int Port = 7900;
    private static readonly string[] _packages = ["sshfs", "libfuse3-3", "openssh-sftp-server", "socat", "libwrap0"];
    private readonly List<int> _processes = [];

    private NetworkStore(string mount) => Mount = mount;

    /// <summary>Where host b has it.</summary>
    internal string Mount { get; }

    /// <remarks>A daemon sees what was mounted before it was started.</remarks>
    /// <exception cref="LabException">A package could not be had, or the mount did not come up.</exception>
    internal static NetworkStore Open(string folder, Action<string> say)
    {
        string programs = Path.Combine(LabDirectory.Cache, "sshfs");
        if (!Directory.Exists(programs))
        {
            say("Fetching sshfs and what it needs");
            string work = $"{programs}.{Environment.ProcessId}";
            AptPackages.Unpack(work, _packages);
            Directory.Move(work, programs);
        }

        string libraries = $"LD_LIBRARY_PATH={programs}/usr/lib/x86_64-linux-gnu:{programs}/lib/x86_64-linux-gnu";
        NetworkStore store = new(LabDirectory.InRun("store-b"));
        Directory.CreateDirectory(store.Mount);
        try
        {
            string address = LabNetwork.AddressOf("a");
            store._processes.Add(LabProcesses.Start(
                "a", "sftp",
                [
                    "env", libraries, $"{programs}/usr/bin/socat",
                    $"TCP-LISTEN:{Port},bind={address},reuseaddr,fork,nodelay",
                    $"EXEC:{programs}/usr/lib/openssh/sftp-server",
                ]));
            Thread.Sleep(500);
            store._processes.Add(LabProcesses.Start(
                "b", "sshfs",
                [
                    // Whatever enters a network namespace has mounts of its own: this one is for those who come after.
                    "nsenter", $"--mount=/proc/{Environment.ProcessId}/ns/mnt",
                    "env", libraries, $"{programs}/usr/bin/sshfs", "-f", "-o", $"directport={Port}",
                    // As large as it is asked for: read ahead in small parts, each would wait for its round trip.
                    "-o", "direct_io",
                    $"{address}:{folder}", store.Mount,
                ]));
            Wait.Until(
                () => File.ReadAllText("/proc/mounts").Contains($" {store.Mount} ", StringComparison.Ordinal),
                TimeSpan.FromSeconds(20), $"the mount of host a's store; see {LabDirectory.InRun("sshfs.log")}");
            return store;
        }
        catch
        {
            store.Dispose();
            throw;
        }
    }

    public void Dispose()
    {
        Tool.Try("umount", "-l", Mount);
        _processes.Reverse();
        _processes.ForEach(id => LabProcesses.End(id, TimeSpan.FromSeconds(5)));
    }
}
