using System.Text.RegularExpressions;

namespace Godwit.Lab;

/// <summary>Brings this machine to where the lab can run: root, and the packages listed beside this file.</summary>
internal static class Machine
{
    private sealed record Wanted(string Package, string Witness, bool FromBackports);

    /// <summary>Installs what is missing. Nothing is done, and nothing said, when nothing is.</summary>
    /// <exception cref="LabException">Not root, not Debian, or apt could not install.</exception>
    internal static void Prepare(Action<string> say)
    {
        if (Environment.UserName != "root")
        {
            throw new LabException("The lab makes network namespaces and TAP devices: run it as root.");
        }

        if (!File.Exists("/dev/net/tun"))
        {
            throw new LabException("/dev/net/tun is missing: load the tun module (modprobe tun).");
        }

        List<Wanted> missing = [.. List().Where(wanted => !Tool.Exists(wanted.Witness))];
        if (missing.Count == 0)
        {
            return;
        }

        if (!Tool.Exists("apt-get"))
        {
            throw new LabException(
                $"Missing: {string.Join(", ", missing.Select(w => w.Package))}; "
                + "and this machine has no apt to get them.");
        }

        say($"Installing {string.Join(", ", missing.Select(w => w.Package))} from apt");
        bool backports = missing.Any(w => w.FromBackports);
        string? suite = backports ? Backports() : null;
        // A source that is out of reach is no reason to stop: what is wanted may come from the others.
        Apt("update", "-q");
        Install([.. missing.Where(w => !w.FromBackports || suite is null).Select(w => w.Package)], null);
        Install([.. missing.Where(w => w.FromBackports && suite is not null).Select(w => w.Package)], suite);
        foreach (Wanted wanted in missing.Where(w => !Tool.Exists(w.Witness)))
        {
            throw new LabException($"{wanted.Package} was installed and still there is no {wanted.Witness}.");
        }
    }

    private static IEnumerable<Wanted> List()
    {
        foreach (string line in Embedded.Text("packages").Split('\n'))
        {
            string[] words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
            if (words.Length >= 2 && words[0] != "#" && !words[0].StartsWith('#'))
            {
                yield return new Wanted(words[0], words[1], words.Length > 2 && words[2] == "backports");
            }
        }
    }

    private static void Install(string[] packages, string? suite)
    {
        if (packages.Length == 0)
        {
            return;
        }

        string[] release = suite is null ? [] : ["-t", suite];
        (int status, string output) = Apt(
            ["install", "-q", "-y", "--no-install-recommends", .. release, .. packages]);
        if (status != 0)
        {
            throw new LabException($"apt-get install {string.Join(' ', packages)} failed:\n{output}");
        }
    }

    private static (int Status, string Output) Apt(params string[] arguments)
    {
        try
        {
            return (0, Tool.Run("apt-get", arguments, null, TimeSpan.FromMinutes(10), new Dictionary<string, string>
            {
                ["DEBIAN_FRONTEND"] = "noninteractive",
            }));
        }
        catch (LabException e)
        {
            return (1, e.Message);
        }
    }

    /// <summary>The backports suite of a Debian 12, added to apt's sources if it is not among them.</summary>
    /// <remarks>The mirror is the one this machine already uses: it may have no other way out.</remarks>
    private static string? Backports()
    {
        Match codename =
            Regex.Match(File.ReadAllText("/etc/os-release"), @"^VERSION_CODENAME=(\w+)", RegexOptions.Multiline);
        if (codename.Groups[1].Value != "bookworm")
        {
            return null;
        }

        const string Suite = "bookworm-backports";
        List<string> sources = ["/etc/apt/sources.list"];
        if (Directory.Exists("/etc/apt/sources.list.d"))
        {
            sources.AddRange(Directory.EnumerateFiles("/etc/apt/sources.list.d").Order());
        }

        string[] lines =
            [.. sources.Where(File.Exists).SelectMany(File.ReadLines).Where(l => !l.TrimStart().StartsWith('#'))];
        if (!lines.Any(line => line.Contains(Suite, StringComparison.Ordinal)))
        {
            File.WriteAllText(
                "/etc/apt/sources.list.d/godwit-lab-backports.list",
                $"# QEMU 10 for Godwit's lab.\ndeb {MirrorIn(lines)} {Suite} main\n");
        }

        return Suite;
    }

    /// <summary>The mirror that serves the release itself, in one-line and deb822 sources alike.</summary>
    internal static string MirrorIn(IReadOnlyList<string> lines)
    {
        IEnumerable<string> addresses = lines.SelectMany(line =>
            Regex.Match(line, @"^\s*(?:deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+bookworm\s|URIs:\s*(\S+))") is
                { Success: true } m
                ? [m.Groups[1].Success ? m.Groups[1].Value : m.Groups[2].Value]
                : Array.Empty<string>());
        return addresses.FirstOrDefault(a => a.TrimEnd('/').EndsWith("/debian", StringComparison.Ordinal))
            ?? throw new LabException(
                "No Debian mirror in apt's sources; add bookworm-backports yourself "
                + "and install qemu-system-x86 from it.");
    }
}
