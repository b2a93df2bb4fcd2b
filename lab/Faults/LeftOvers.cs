using System.Globalization;
using Godwit.Lab.Daemons;
using Godwit.Lab.Network;

namespace Godwit.Lab.Faults;

/// <summary>Finds what a move left behind: processes, sockets, files, devices, memory.</summary>
internal static class LeftOvers
{
    /// <summary>Names everything in the lab that belongs neither to it nor to its one guest, which runs.</summary>
    /// <param name="guestHost">The host that runs the guest.</param>
    /// <param name="knows">Whether a host's daemon knows the guest: then it may keep the guest's logs.</param>
    internal static IEnumerable<string> Find(string guestHost, Func<string, bool> knows)
    {
        string[] spaces = [.. LabNetwork.Namespaces()];
        if (spaces.Length != LabNetwork.Hosts.Length + 2)
        {
            yield return $"namespaces {string.Join(", ", spaces)}";
        }

        foreach (string host in LabNetwork.Hosts)
        {
            foreach (string thing in OnHost(host, host == guestHost, knows(host)))
            {
                yield return $"on host {host} {thing}";
            }
        }

        foreach (string file in Directory.EnumerateFiles("/dev/shm", "*godwit*"))
        {
            yield return $"shared memory {file}";
        }
    }

    private static IEnumerable<string> OnHost(string host, bool hasGuest, bool knowsGuest)
    {
        int daemon = LabDaemons.ProcessOf(host);
        int[] processes = [.. LabProcesses.In(LabDirectory.Namespace(host)).Where(id => id != daemon)];
        int[] strangers = [.. processes.Where(id => !(hasGuest && LabProcesses.IsQemu(id)))];
        foreach (int id in strangers)
        {
            yield return $"process {id} ({NameOf(id)})";
        }

        if (hasGuest && processes.Length - strangers.Length > 1)
        {
            yield return $"QEMUs {string.Join(", ", processes.Except(strangers))}, of which one is the guest's";
        }

        string[] taps = [.. Tool.Run("ip", "-n", LabDirectory.Namespace(host), "-br", "link")
            .Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => line.Split(' ')[0].Split('@')[0])
            .Where(device => device is not ("lo" or "br0" or "up0"))];
        if (taps.Length != (hasGuest ? 1 : 0))
        {
            yield return $"{taps.Length} TAPs ({string.Join(", ", taps)})";
        }

        foreach (string path in FilesOf(host))
        {
            bool isLog = path.EndsWith(".log", StringComparison.Ordinal);
            bool isOfOutgoing = Path.GetFileName(path).StartsWith("out-", StringComparison.Ordinal);
            if (isOfOutgoing || !(hasGuest || ((isLog || Directory.Exists(path)) && knowsGuest)))
            {
                yield return $"file {path}";
            }
        }

        if (MapsGuestMemory(daemon))
        {
            yield return "guest memory in the daemon, which moves nothing";
        }
    }

    private static IEnumerable<string> FilesOf(string host)
    {
        string guests = LabDaemons.GuestsOf(host);
        return Directory.Exists(guests)
            ? Directory.EnumerateFileSystemEntries(guests, "*", SearchOption.AllDirectories) : [];
    }

    private static bool MapsGuestMemory(int daemon)
    {
        try
        {
            string folder = string.Create(CultureInfo.InvariantCulture, $"/proc/{daemon}");
            return File.ReadLines($"{folder}/maps").Any(line => IsMemory(line))
                || Directory.EnumerateFiles($"{folder}/fd").Any(fd => IsMemory(new FileInfo(fd).LinkTarget ?? ""));
        }
        catch (IOException)
        {
            // It ended meanwhile, and its memory with it.
            return false;
        }

        static bool IsMemory(string name) => name.Contains("memory-backend", StringComparison.Ordinal);
    }

    private static string NameOf(int id)
    {
        try
        {
            return File.ReadAllText(string.Create(CultureInfo.InvariantCulture, $"/proc/{id}/comm")).Trim();
        }
        catch (IOException)
        {
            return "gone meanwhile";
        }
    }
}
