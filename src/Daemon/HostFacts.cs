using System.Globalization;
using Godwit.Pages;

namespace Godwit.Daemon;

/// <summary>What this machine has, read anew each time: it changes while the daemon runs.</summary>
internal static class HostFacts
{
    public static (long TotalBytes, long AvailableBytes) Memory()
    {
        long total = 0, available = 0;
        foreach (var line in File.ReadLines("/proc/meminfo"))
        {
            if (line.StartsWith("MemTotal:", StringComparison.Ordinal))
            {
                total = Kibibytes(line);
            }
            else if (line.StartsWith("MemAvailable:", StringComparison.Ordinal))
            {
                available = Kibibytes(line);
            }
        }

        return (total, available);
    }

    public static IReadOnlyList<string> Bridges() => Directory.Exists("/sys/class/net")
        ? [.. Directory.EnumerateDirectories("/sys/class/net")
            .Where(link => Directory.Exists(Path.Combine(link, "bridge")))
            .Select(link => Path.GetFileName(link)).Order(StringComparer.Ordinal)]
        : [];

    /// <summary>False if liblz4 cannot be loaded; device state is coded with it, so without it nothing moves.</summary>
    public static bool HasLz4() => Loads(() => Lz4.Version);

    /// <summary>False if libzstd cannot be loaded; pages may be coded with it, by this host or by another.</summary>
    public static bool HasZstd() => Loads(() => Zstd.Version);

    private static bool Loads(Func<int> version)
    {
        try
        {
            return version() > 0;
        }
        catch (DllNotFoundException)
        {
            return false;
        }
    }

    private static long Kibibytes(string line) =>
        long.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture) << 10;
}
