using System.Text.RegularExpressions;

namespace Godwit.Lab;

/// <summary>Packages fetched from apt and unpacked beside this machine's own, without installing anything.</summary>
internal static class AptPackages
{
    /// <summary>Downloads packages (NAME, or NAME/RELEASE) and unpacks them all into one folder.</summary>
    /// <exception cref="LabException">apt knows one of them not, or the mirror is out of reach.</exception>
    internal static void Unpack(string folder, params string[] packages)
    {
        string downloads = folder + ".debs";
        Directory.CreateDirectory(downloads);
        Directory.CreateDirectory(folder);
        string[] arguments = ["-o", "APT::Sandbox::User=root", "-q", "download", .. packages];
        // Lists that are missing, or older than the mirror, name packages that cannot be had: update them once.
        OrAfterUpdate(() => Tool.Run("apt-get", arguments, downloads, TimeSpan.FromMinutes(5), null));
        foreach (string package in Directory.EnumerateFiles(downloads, "*.deb"))
        {
            Tool.Run("dpkg-deb", "-x", package, folder);
        }

        Directory.Delete(downloads, recursive: true);
    }

    /// <summary>The first package matching <paramref name="pattern"/> that a package depends on.</summary>
    internal static string DependencyOf(string package, string pattern) => OrAfterUpdate(() =>
    {
        Match match = Regex.Match(Tool.Run("apt-cache", "depends", package), $"Depends: ({pattern})");
        return match.Success
            ? match.Groups[1].Value
            : throw new LabException($"apt knows no {package}: see that the release's main is among its sources.");
    });

    private static string OrAfterUpdate(Func<string> attempt)
    {
        try
        {
            return attempt();
        }
        catch (LabException)
        {
            Tool.Run("apt-get", ["update", "-q"], null, TimeSpan.FromMinutes(5), null);
            return attempt();
        }
    }
}
