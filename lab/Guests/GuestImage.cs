using System.Security.Cryptography;
using System.Text;

namespace Godwit.Lab.Guests;

/// <summary>The lab guest's kernel, initramfs and disk image, built on the spot and kept.</summary>
/// <remarks>
/// The cache folder is named by a hash of the recipe (this builder's version, the agent, the init, the package lists),
/// so a changed recipe builds anew and an unchanged one costs nothing. The folder appears by a rename when it is
/// complete: a build that is killed leaves nothing that could be taken for an image.
/// </remarks>
internal sealed record GuestImage(string Kernel, string Initramfs, string Disk, string Folder)
{
    private const string Version = "5";
    private const string KernelPackage = "linux-image-cloud-amd64";
    private static readonly string[] _modules = ["virtio_pci", "virtio_blk", "virtio_net"];

    private static readonly string[] _applets =
        [
            "sh", "mount", "insmod", "cat", "ip", "mkdir", "chroot", "sleep", "echo", "poweroff", "dmesg", "ps", "free",
            "ls",
        ];

    // Redis and all it links against, unpacked into the disk's root: at the same time the disk's real files.
    private static readonly string[] _diskPackages =
    [
        "redis-server", "redis-tools", "libatomic1", "libc6", "libgcc-s1", "libstdc++6", "libjemalloc2", "liblua5.1-0",
        "liblzf1", "libssl3", "libsystemd0", "lua-bitop", "lua-cjson", "libhiredis0.14", "libcap2", "libgcrypt20",
        "libgpg-error0", "liblz4-1", "liblzma5", "libzstd1", "base-files", "perl-base",
    ];

    /// <summary>The image, built now if this recipe's is not there yet.</summary>
    /// <exception cref="LabException">A package could not be fetched or a tool failed.</exception>
    internal static GuestImage Obtain(Action<string> say)
    {
        string recipe = string.Join(
            '\n',
            [
                Version, KernelPackage, Embedded.Text("agent.c"), Embedded.Text("init"),
                .. _modules, .. _applets, .. _diskPackages,
            ]);
        string key = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(recipe)))[..16];
        string folder = Path.Combine(LabDirectory.Cache, key);
        if (!Directory.Exists(folder))
        {
            say("Building the guest: Debian's cloud kernel, initramfs, disk");
            string work = Path.Combine(LabDirectory.Cache, $".{key}.{Environment.ProcessId}");
            Directory.CreateDirectory(work);
            try
            {
                Build(work);
                Directory.Move(work, folder);
                Forget(folder);
            }
            catch (IOException) when (Directory.Exists(folder))
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
        }

        return new GuestImage(
            Path.Combine(folder, "vmlinuz"), Path.Combine(folder, "initramfs"), Path.Combine(folder, "disk.raw"),
            folder);
    }

    /// <summary>Removes what older recipes left, but for a few that another checkout may be using.</summary>
    private static void Forget(string newest)
    {
        foreach (string old in Directory.EnumerateDirectories(LabDirectory.Cache)
            .Where(path => path != newest && !Path.GetFileName(path).StartsWith('.')
                && !Path.GetFileName(path).StartsWith(UserlandDisk.Prefix, StringComparison.Ordinal))
            .OrderByDescending(Directory.GetCreationTimeUtc).Skip(3))
        {
            Directory.Delete(old, recursive: true);
        }
    }

    private static void Build(string work)
    {
        string kernel = Path.Combine(work, "kernel");
        string disk = Path.Combine(work, "disk");
        AptPackages.Unpack(kernel, AptPackages.DependencyOf(KernelPackage, @"linux-image-\S+"));
        AptPackages.Unpack(disk, _diskPackages);
        File.Move(
            Directory.EnumerateFiles(Path.Combine(kernel, "boot"), "vmlinuz-*").Single(),
            Path.Combine(work, "vmlinuz"));
        BuildInitramfs(work, kernel);
        Format(disk, Path.Combine(work, "disk.raw"), "96M");
        Directory.Delete(kernel, recursive: true);
        Directory.Delete(disk, recursive: true);
    }

    private static void BuildInitramfs(string work, string kernel)
    {
        string root = Path.Combine(work, "initramfs.root");
        foreach (string folder in new[] { "bin", "dev", "proc", "sys", "disk", "modules", "tmp" })
        {
            Directory.CreateDirectory(Path.Combine(root, folder));
        }

        string busybox = Tool.SearchPath.Select(folder => Path.Combine(folder, "busybox")).First(File.Exists);
        File.Copy(busybox, Path.Combine(root, "bin/busybox"));
        foreach (string applet in _applets)
        {
            File.CreateSymbolicLink(Path.Combine(root, "bin", applet), "busybox");
        }

        string source = Path.Combine(work, "agent.c");
        File.WriteAllText(source, Embedded.Text("agent.c"));
        Tool.Run("gcc", "-O2", "-static", "-pthread", "-o", Path.Combine(root, "bin/agent"), source);
        File.WriteAllText(Path.Combine(root, "init"), Embedded.Text("init"));
        File.SetUnixFileMode(Path.Combine(root, "init"), (UnixFileMode)0b111_101_101);

        string[] order = CopyModules(kernel, Path.Combine(root, "modules"));
        File.WriteAllLines(Path.Combine(root, "modules/order"), order);
        // Not compressed: unpacking costs an emulated CPU more than the larger file costs the loader.
        Tool.Run(
            "sh", ["-c", "find . | LC_ALL=C sort | cpio -o -H newc --quiet > ../initramfs"], root,
            TimeSpan.FromMinutes(10), null);
        Directory.Delete(root, recursive: true);
    }

    /// <summary>
    /// Copies the modules the guest needs with what they depend on; the result is the order to load them.
    /// </summary>
    private static string[] CopyModules(string kernel, string target)
    {
        Dictionary<string, string> paths = Directory
            .EnumerateFiles(Path.Combine(kernel, "lib/modules"), "*.ko", SearchOption.AllDirectories)
            .ToDictionary(path => Path.GetFileNameWithoutExtension(path).Replace('-', '_'));
        List<string> order = [];
        foreach (string module in _modules)
        {
            Visit(module);
        }

        return [.. order];

        void Visit(string module)
        {
            if (order.Contains(module + ".ko"))
            {
                return;
            }

            if (!paths.TryGetValue(module, out string? path))
            {
                throw new LabException($"The kernel has no module {module}.");
            }

            foreach (string other in DependenciesIn(File.ReadAllBytes(path)))
            {
                Visit(other);
            }

            File.Copy(path, Path.Combine(target, module + ".ko"));
            order.Add(module + ".ko");
        }
    }

    /// <summary>The names in a module's <c>depends=</c> entry.</summary>
    internal static string[] DependenciesIn(ReadOnlySpan<byte> module)
    {
        ReadOnlySpan<byte> key = "\0depends="u8;
        int at = module.IndexOf(key);
        if (at < 0)
        {
            return [];
        }

        ReadOnlySpan<byte> value = module[(at + key.Length)..];
        return Encoding.ASCII.GetString(value[..value.IndexOf((byte)0)])
            .Split(',', StringSplitOptions.RemoveEmptyEntries).Select(name => name.Replace('-', '_')).ToArray();
    }

    /// <summary>Makes a disk out of a folder of files, with what the agent wants to find there.</summary>
    internal static void Format(string root, string disk, string size)
    {
        // The stamp file has its blocks from the start: the agent's writes then change data and no metadata.
        byte[] filler = new byte[4 << 20];
        Array.Fill(filler, (byte)0xA5);
        File.WriteAllBytes(Path.Combine(root, "stamps"), filler);
        foreach (string folder in new[] { "data", "proc", "dev", "tmp", "bin", "lib", "lib64" })
        {
            Directory.CreateDirectory(Path.Combine(root, folder));
        }

        Tool.Run("mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", root, disk, size);
    }
}
