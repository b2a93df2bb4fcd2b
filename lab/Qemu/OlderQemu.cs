namespace Godwit.Lab.Qemu;

/// <summary>QEMU 7.2, as Debian 12 has it, unpacked beside the installed one.</summary>
internal static class OlderQemu
{
    /// <summary>The path of a script that starts it with its own firmware; fetched once.</summary>
    internal static string Obtain(Action<string> say)
    {
        string folder = Path.Combine(LabDirectory.Cache, "qemu-7.2");
        string script = Path.Combine(folder, "qemu-system-x86_64");
        if (!File.Exists(script))
        {
            say("Fetching QEMU 7.2 from Debian 12");
            // Made aside and put in place when complete: two tests may want it at once.
            string made = $"{folder}.{Environment.ProcessId}";
            string root = Path.Combine(folder, "root");
            AptPackages.Unpack(
                Path.Combine(made, "root"), "qemu-system-x86/bookworm", "qemu-system-common/bookworm",
                "qemu-system-data/bookworm", "seabios/bookworm", "ipxe-qemu");
            string madeScript = Path.Combine(made, Path.GetFileName(script));
            File.WriteAllText(
                madeScript,
                $"""
                #!/bin/sh
                exec {root}/usr/bin/qemu-system-x86_64 -L {root}/usr/share/qemu -L {root}/usr/share/seabios \
                    -L {root}/usr/lib/ipxe/qemu "$@"

                """);
            File.SetUnixFileMode(madeScript, (UnixFileMode)0b111_101_101);
            try
            {
                Directory.Move(made, folder);
            }
            catch (IOException) when (File.Exists(script))
            {
                Directory.Delete(made, recursive: true);
            }
        }

        return script;
    }
}
