using System.Diagnostics;
using System.Net.Sockets;
using System.Text.Json.Nodes;
using Godwit.Host.Network;
using Godwit.Migration;

namespace Godwit.Host.Qemu;

public sealed partial class QemuMachine
{
    private static readonly TimeSpan StartTimeout = TimeSpan.FromSeconds(30);

    /// <summary>Starts QEMU for a guest and returns when its monitor answers.</summary>
    /// <param name="qemu">The binary to run.</param>
    /// <param name="runtimeDirectory">
    /// The guest's own on this host, created if missing; the same one has to be given to <see cref="AdoptAsync"/>.
    /// </param>
    /// <param name="incoming">
    /// True: QEMU waits for <c>migrate-incoming</c>, holds no disk before <c>cont</c> and never starts by itself.
    /// False: the guest boots.
    /// </param>
    /// <param name="cancellationToken">Ends the start and the QEMU with it.</param>
    /// <remarks>TAP devices are made in the network namespace of the calling thread; QEMU runs in it too.</remarks>
    /// <exception cref="GodwitException">
    /// <c>qemu-start</c> with QEMU's own words; <c>guest-running</c> if this directory's QEMU still runs;
    /// <c>bridge-unknown</c>, <c>tap-failed</c>, <c>tap-in-use</c>, <c>path-too-long</c>. Nothing is left behind.
    /// </exception>
    public static async Task<QemuMachine> StartAsync(
        QemuInstallation qemu, MachineContract contract, string runtimeDirectory, bool incoming,
        CancellationToken cancellationToken)
    {
        MachineFiles files = new(runtimeDirectory);
        if (RunningProcess(contract, files) is { } running)
        {
            throw new GodwitException("guest-running",
                $"A QEMU of guest {contract.Name} runs already on this host: process {running}.",
                "Stop the guest, or restart the daemon so that it finds it again.");
        }
        files.Prepare();
        List<GuestInterface> interfaces = [];
        QemuProcess? process = null;
        QmpClient? monitor = null;
        try
        {
            for (int i = 0; i < contract.Interfaces.Count; i++)
            {
                InterfaceContract guest = contract.Interfaces[i];
                Tap tap = Tap.Create(Tap.NameOf(contract.Uuid, files.RuntimeDirectory, i), guest.Bridge, guest.Mac);
                interfaces.Add(new GuestInterface(tap, guest.Mac, guest.Addresses));
            }
            List<string> arguments = QemuCommandLine.Build(
                contract, files, [.. interfaces.Select(guest => guest.Tap.Name)], incoming, DiskImage.SupportsDirect);
            using Process child = Spawn(qemu.Path, arguments, files);
            process = QemuProcess.Open(child.Id) ?? throw StartFailure(contract, files, null);
            monitor = await ConnectAsync(contract, files, process, cancellationToken);
            if (incoming)
            {
                // Without it the destination takes the images' locks as soon as the stream ends, and a source that
                // has to resume finds them taken.
                await monitor.ExecuteAsync("migrate-set-capabilities", new JsonObject
                {
                    ["capabilities"] = new JsonArray(
                        new JsonObject { ["capability"] = "late-block-activate", ["state"] = true }),
                }, QmpClient.CommandTimeout, cancellationToken);
            }
            return new QemuMachine(contract, files, process, monitor, interfaces);
        }
        catch
        {
            process?.Kill();
            if (process is not null)
            {
                await process.Exited;
            }
            monitor?.Dispose();
            process?.Dispose();
            foreach (GuestInterface guest in interfaces)
            {
                TryDelete(guest.Tap);
                guest.Tap.Dispose();
            }
            files.RemoveSockets();
            throw;
        }
    }

    /// <summary>Finds the QEMU that an earlier daemon left running and takes hold of it again.</summary>
    /// <returns>Null if it has ended; what it left behind is then removed.</returns>
    /// <exception cref="GodwitException">
    /// <c>qemu-silent</c> or <c>qemu-ended</c>: it runs, but its monitor does not answer.
    /// </exception>
    public static async Task<QemuMachine?> AdoptAsync(
        MachineContract contract, string runtimeDirectory, CancellationToken cancellationToken)
    {
        MachineFiles files = new(runtimeDirectory);
        List<GuestInterface> interfaces = FindInterfaces(contract, files);
        QemuProcess? process = RunningProcess(contract, files) is { } id ? QemuProcess.Open(id) : null;
        // Asked again with the process held: the number may have changed hands between the look and the hold.
        if (process is null || RunningProcess(contract, files) != process.Id)
        {
            process?.Dispose();
            foreach (GuestInterface guest in interfaces)
            {
                TryDelete(guest.Tap);
                guest.Tap.Dispose();
            }
            files.RemoveSockets();
            return null;
        }
        try
        {
            QmpClient monitor = await ConnectAsync(contract, files, process, cancellationToken);
            return new QemuMachine(contract, files, process, monitor, interfaces);
        }
        catch
        {
            process.Dispose();
            foreach (GuestInterface guest in interfaces)
            {
                guest.Tap.Dispose();
            }
            throw;
        }
    }

    /// <summary>The process of the guest's QEMU here, whether it answers or not; null if it has ended.</summary>
    public static int? FindProcess(MachineContract contract, string runtimeDirectory) =>
        RunningProcess(contract, new MachineFiles(runtimeDirectory));

    /// <summary>Ends the guest's QEMU here, whether it answers or not, and waits until it is gone.</summary>
    /// <returns>False if there is none.</returns>
    public static async Task<bool> KillProcessAsync(MachineContract contract, string runtimeDirectory)
    {
        MachineFiles files = new(runtimeDirectory);
        using QemuProcess? process = RunningProcess(contract, files) is { } id ? QemuProcess.Open(id) : null;
        if (process is null || RunningProcess(contract, files) != process.Id)
        {
            return false;
        }
        process.Kill();
        await process.Exited;
        return true;
    }

    private static List<GuestInterface> FindInterfaces(MachineContract contract, MachineFiles files)
    {
        List<GuestInterface> interfaces = [];
        for (int i = 0; i < contract.Interfaces.Count; i++)
        {
            InterfaceContract guest = contract.Interfaces[i];
            if (Tap.Find(Tap.NameOf(contract.Uuid, files.RuntimeDirectory, i), guest.Bridge, guest.Mac) is { } tap)
            {
                interfaces.Add(new GuestInterface(tap, guest.Mac, guest.Addresses));
            }
        }
        return interfaces;
    }

    /// <summary>
    /// The process of the pidfile if it is this guest's QEMU and not a later process of the same number.
    /// </summary>
    private static int? RunningProcess(MachineContract contract, MachineFiles files)
    {
        if (files.ReadProcessId() is not { } id)
        {
            return null;
        }
        string[] arguments = QemuProcess.CommandLine(id);
        int uuid = Array.IndexOf(arguments, "-uuid");
        int pidfile = Array.IndexOf(arguments, "-pidfile");
        return uuid >= 0 && uuid + 1 < arguments.Length && arguments[uuid + 1] == contract.Uuid.ToString("D")
            && pidfile >= 0 && pidfile + 1 < arguments.Length && arguments[pidfile + 1] == files.ProcessIdFile
            ? id
            : null;
    }

    /// <remarks>
    /// The shell only ties the three standard streams and becomes QEMU, by way of setsid: a session of its own keeps
    /// the terminal's Ctrl-C and the daemon's end away from the guest. No argument passes through the shell's parser.
    /// </remarks>
    private static Process Spawn(string binary, List<string> arguments, MachineFiles files)
    {
        ProcessStartInfo start = new("/bin/sh") { WorkingDirectory = files.RuntimeDirectory };
        foreach (string argument in (string[])
            ["-c", "exec setsid \"$@\" </dev/null >>\"$0\" 2>&1", files.Log, binary, .. arguments])
        {
            start.ArgumentList.Add(argument);
        }
        try
        {
            return Process.Start(start)!;
        }
        catch (System.ComponentModel.Win32Exception e)
        {
            throw new GodwitException("qemu-start", $"/bin/sh cannot be started: {e.Message}.", "", e);
        }
    }

    private static async Task<QmpClient> ConnectAsync(
        MachineContract contract, MachineFiles files, QemuProcess process, CancellationToken cancellationToken)
    {
        long started = Stopwatch.GetTimestamp();
        while (true)
        {
            try
            {
                return await QmpClient.ConnectAsync(contract.Name, files.Monitor, null, cancellationToken);
            }
            catch (SocketException) when (!process.Exited.IsCompleted)
            {
                // The socket appears when QEMU has come that far.
            }
            catch (SocketException)
            {
                throw StartFailure(contract, files, null);
            }
            catch (GodwitException e) when (e.Code == "qemu-ended")
            {
                // It greeted and then refused its devices. The log is complete once the process has ended.
                await process.Exited.WaitAsync(StartTimeout, cancellationToken);
                throw StartFailure(contract, files, e);
            }
            if (Stopwatch.GetElapsedTime(started) > StartTimeout)
            {
                throw new GodwitException("qemu-silent",
                    $"QEMU of {contract.Name} (process {process.Id}) has not opened its monitor within " +
                    $"{StartTimeout.TotalSeconds:0} s.", $"Its log is {files.Log}.");
            }
            // Ends early when the process does, so that a refusal is reported at once.
            await Task.WhenAny(process.Exited, Task.Delay(10, cancellationToken));
            cancellationToken.ThrowIfCancellationRequested();
        }
    }

    private static GodwitException StartFailure(MachineContract contract, MachineFiles files, Exception? inner)
    {
        string words = files.LastWords();
        return new GodwitException("qemu-start",
            $"QEMU of {contract.Name} does not start: {(words.Length > 0 ? words : "it said nothing")}",
            $"Its log is {files.Log}; the guest's settings are shown by 'godwit vm show {contract.Name}'.", inner);
    }

    private static void TryDelete(Tap tap)
    {
        try
        {
            tap.Delete();
        }
        catch (GodwitException)
        {
            // The error that brought us here matters more; the guest's next start takes the device over.
        }
    }
}
