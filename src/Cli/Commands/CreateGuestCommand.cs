using System.CommandLine;
using System.CommandLine.Parsing;
using System.Net;
using Godwit.Api.V1;
using Godwit.Cli.Output;

namespace Godwit.Cli.Commands;

/// <summary><c>godwit vm create</c>: what makes up the guest, checked as far as it can be from here.</summary>
internal static class CreateGuestCommand
{
    public static Command Build(GodwitCommand godwit)
    {
        var name = new Argument<string>("NEW-NAME") { Description = "The new guest's name." };
        var disks = new Option<Disk[]>("--disk")
        {
            Description = "A disk image that every host of the guest's reaches under this path; may be repeated.",
            HelpName = "PATH[,format=raw|qcow2][,readonly]",
            CustomParser = result => [.. result.Tokens.Select(token => ReadDisk(token.Value, result))],
        };
        var kernel = Option.Text("--kernel", "Boot this kernel directly.", "PATH");
        var initrd = Option.Text("--initrd", "The initramfs for --kernel.", "PATH");
        var append = Option.Text("--append", "The command line for --kernel.", "TEXT");
        var memory = Option.Bytes("--memory", "Memory, for example 512MiB or 1.5GiB (default: 512MiB).");
        var cpus = Option.Count("--cpus", "Virtual CPUs (default: 1).", 1024);
        var bridge = Option.Text("--bridge", "The bridge its interface joins, or 'none' (default: br0).", "BRIDGE");
        var mac = new Option<string>("--mac")
        {
            Description = "The interface's MAC address, kept for life (default: the daemon chooses one).",
            HelpName = "MAC",
            CustomParser = ReadMac,
        };
        var addresses = new Option<string[]>("--ip")
        {
            Description = "An IPv4 or IPv6 address of the guest, announced after a move; may be repeated.",
            HelpName = "ADDRESS",
            CustomParser = ReadAddresses,
        };
        var machine = Option.Text("--machine", "Versioned machine type (default: this QEMU's newest q35).", "TYPE");
        var cpuModel = Option.Text("--cpu-model", "CPU model (default: one that every host offers).", "MODEL");
        var video = Option.Flag("--video", "Add a VGA adapter.");
        var isPrivate = Option.Flag(
            "--private-memory", "Keep the memory from the daemon: QEMU's stream then carries the pages.");
        var start = Option.Flag("--start", "Start it at once.");
        var command = godwit.Verb(
            "create", "Create a guest from a disk image or from a kernel and initramfs.",
            [
                "godwit vm create web1 --disk /srv/images/web1.qcow2 --memory 2GiB --cpus 2 --ip 10.0.0.21 --start",
                "godwit vm create db1 --disk /srv/images/db1.raw --disk /srv/images/seed.iso,format=raw,readonly",
                "godwit vm create tiny --kernel /boot/vmlinuz --initrd /srv/tiny.cpio.gz --append 'console=ttyS0'",
            ],
            [
                name, disks, kernel, initrd, append, memory, cpus, bridge, mac, addresses, machine, cpuModel, video,
                isPrivate, start,
            ],
            async (session, cancellation) =>
            {
                var spec = new GuestSpec
                {
                    Name = session.Get(name),
                    MemoryBytes = session.Get(memory) is > 0 and var given ? given : 512ul << 20,
                    Cpus = session.Get(cpus) is > 0 and var count ? count : 1,
                    Machine = session.Get(machine) ?? "",
                    CpuModel = session.Get(cpuModel) ?? "",
                    KernelPath = FullPath(session.Get(kernel)),
                    InitramfsPath = FullPath(session.Get(initrd)),
                    KernelCommandLine = session.Get(append) ?? "",
                    Video = session.Get(video),
                    MemoryBacking = session.Get(isPrivate) ? MemoryBacking.Private : MemoryBacking.Shared,
                };
                spec.Disks.AddRange(session.Get(disks) ?? []);
                string joined = session.Get(bridge) ?? "br0";
                if (joined != "none")
                {
                    var port = new NetworkInterface { Bridge = joined, Mac = session.Get(mac) ?? "" };
                    port.Addresses.AddRange(session.Get(addresses) ?? []);
                    spec.Interfaces.Add(port);
                }

                var request = new CreateGuestRequest { Spec = spec, Start = session.Get(start) };
                var guest = await session.Client.AskAsync(
                    (daemon, options) => daemon.CreateGuestAsync(request, options), cancellation);
                session.Answer(GuestAnswers.Changed(guest, request.Start ? "created and started" : "created"));
                return 0;
            });
        command.Validators.Add(result =>
        {
            bool hasKernel = result.GetResult(kernel) is not null;
            if (result.GetResult(disks) is null && !hasKernel)
            {
                result.AddError("a guest boots from --disk PATH or from --kernel PATH; neither is given.");
            }

            if (!hasKernel && (result.GetResult(initrd) is not null || result.GetResult(append) is not null))
            {
                result.AddError("--initrd and --append belong to --kernel, which is not given.");
            }

            bool portless = result.GetResult(bridge) is { Implicit: false } given
                && given.Tokens is [.., { Value: "none" }];
            if (portless && (result.GetResult(mac) is not null || result.GetResult(addresses) is not null))
            {
                result.AddError("--mac and --ip belong to an interface, and --bridge none means there is none.");
            }
        });
        return command;
    }

    private static Disk ReadDisk(string text, ArgumentResult result)
    {
        string[] parts = text.Split(',');
        var disk = new Disk { Path = FullPath(parts[0]) };
        if (parts[0].Length == 0)
        {
            result.AddError($"--disk: '{text}' names no path before its first comma.");
        }

        foreach (string part in parts.AsSpan(1))
        {
            switch (part)
            {
                case "format=raw" or "format=qcow2":
                    disk.Format = part["format=".Length..];
                    break;
                case "readonly":
                    disk.ReadOnly = true;
                    break;
                default:
                    result.AddError(
                        $"--disk: '{part}' in '{text}' is not one of format=raw, format=qcow2, readonly.");
                    break;
            }
        }

        if (disk.Format.Length == 0)
        {
            disk.Format = FormatByName(disk.Path);
            if (disk.Format.Length == 0)
            {
                // Never by looking inside: a guest can write a qcow2 header into its own raw disk.
                result.AddError(
                    $"--disk: the name '{parts[0]}' does not tell the format; add ,format=raw or ,format=qcow2.");
            }
        }

        return disk;
    }

    private static string FormatByName(string path) => Path.GetExtension(path).ToLowerInvariant() switch
    {
        ".qcow2" => "qcow2",
        ".raw" or ".img" or ".iso" => "raw",
        _ => path.StartsWith("/dev/", StringComparison.Ordinal) ? "raw" : "",
    };

    private static string ReadMac(ArgumentResult result)
    {
        string text = result.Tokens[^1].Value;
        byte[] bytes = new byte[6];
        string[] parts = text.Split(':');
        bool valid = parts.Length == 6 && parts.All(part => part.Length == 2);
        for (int i = 0; valid && i < 6; i++)
        {
            valid = byte.TryParse(parts[i], System.Globalization.NumberStyles.AllowHexSpecifier, null, out bytes[i]);
        }

        if (!valid)
        {
            result.AddError($"--mac: '{text}' is not a MAC address such as 52:54:00:12:34:56.");
        }
        else if ((bytes[0] & 1) != 0 || bytes.All(part => part == 0))
        {
            result.AddError(
                $"--mac: '{text}' is not a unicast address: the first byte must be even, and not all be 0.");
        }

        return text.ToLowerInvariant();
    }

    private static string[] ReadAddresses(ArgumentResult result)
    {
        var addresses = new List<string>();
        foreach (var token in result.Tokens)
        {
            bool looksWhole = token.Value.Contains(':') || token.Value.Count(c => c == '.') == 3;
            if (looksWhole && IPAddress.TryParse(token.Value, out var address))
            {
                addresses.Add(address.ToString());
            }
            else
            {
                result.AddError(
                    $"--ip: '{token.Value}' is not an address such as 10.0.0.21 or fd00::21, without a prefix length.");
            }
        }

        return [.. addresses];
    }

    // The daemon works in another directory than the person who types.
    private static string FullPath(string? path) => string.IsNullOrEmpty(path) ? "" : Path.GetFullPath(path);
}
