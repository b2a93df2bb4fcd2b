using System.Security.Cryptography;
using System.Text;

namespace Godwit.Lab.Guests;

/// <summary>A disk with the files of a Debian that people work on: what a server has in its page cache.</summary>
/// <remarks>
/// Built once from apt's packages and kept, like <see cref="GuestImage"/>; the folder's name is its recipe.
/// </remarks>
internal static class UserlandDisk
{
    /// <summary>How its folders in the cache begin.</summary>
    internal const string Prefix = "userland-";

    private const string Version = "2";

    // Programs, libraries, scripts and texts in about the mix of a small server's /usr; 400 MB unpacked.
    private static readonly string[] _packages =
    [
        "binutils-x86-64-linux-gnu", "cpp-12", "gcc-12", "g++-12", "libgcc-12-dev", "libstdc++-12-dev", "libc6-dev",
        "git", "libicu72", "libllvm14", "libperl5.36", "libpython3.11-stdlib", "perl-modules-5.36",
        "python3.11-minimal", "vim-runtime", "iso-codes", "redis-server", "redis-tools", "libc6", "libssl3",
        // What the compiler is linked against, and the headers under its library's.
        "libgcc-s1", "libgmp10", "libisl23", "libmpc3", "libmpfr6", "libstdc++6", "libzstd1", "linux-libc-dev",
        "zlib1g",
    ];

    /// <summary>The path of the image, built now if this recipe's is not there yet.</summary>
    /// <exception cref="LabException">A package could not be fetched or a tool failed.</exception>
    internal static string Obtain(Action<string> say)
    {
        string recipe = string.Join('\n', [Version, .. _packages]);
        string key = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(recipe)))[..16];
        string folder = Path.Combine(LabDirectory.Cache, Prefix + key);
        string disk = Path.Combine(folder, "disk.raw");
        if (File.Exists(disk))
        {
            return disk;
        }

        say("Building the server's disk from Debian's packages");
        string work = Path.Combine(LabDirectory.Cache, $".{Prefix}{key}.{Environment.ProcessId}");
        Directory.CreateDirectory(work);
        try
        {
            string root = Path.Combine(work, "root");
            AptPackages.Unpack(root, _packages);
            GuestImage.Format(root, Path.Combine(work, "disk.raw"), "700M");
            Directory.Delete(root, recursive: true);
            Directory.Move(work, folder);
        }
        catch (IOException) when (File.Exists(disk))
        {
            // Another lab was faster with the same recipe.
        }
        finally
        {
            if (Directory.Exists(work))
            {
                Directory.Delete(work, recursive: true);
            }
        }

        return disk;
    }
}
