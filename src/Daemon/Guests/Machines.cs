using System.Diagnostics;
using Godwit.Host.Network;
using Godwit.Host.Qemu;
using Godwit.Host.Transfers;
using Godwit.Migration;

namespace Godwit.Daemon.Guests;

/// <summary>Starts, finds again and ends QEMU processes, each in a runtime directory of its own.</summary>
internal sealed class Machines(DaemonSettings settings, QemuFacts qemu, ILogger<Machines> logger)
{
    private static readonly TimeSpan QuitTimeout = TimeSpan.FromSeconds(10);

    /// <summary>The directory of a guest's sockets and QEMU's log.</summary>
    public string Directory(MachineContract contract) =>
        Path.Combine(settings.RuntimeDirectory, "guests", contract.Uuid.ToString());

    public Task<QemuMachine> StartAsync(
        MachineContract contract, bool incoming, CancellationToken cancellationToken)
    {
        // Of one that died without all of its memory: the new one holds no such stream.
        HeldStream.Forget(Directory(contract));
        return QemuMachine.StartAsync(qemu.Require(), contract, Directory(contract), incoming, cancellationToken);
    }

    /// <summary>The guest's QEMU if an earlier daemon left it running; null if it has ended.</summary>
    public Task<QemuMachine?> AdoptAsync(MachineContract contract, CancellationToken cancellationToken) =>
        QemuMachine.AdoptAsync(contract, Directory(contract), cancellationToken);

    /// <summary>Whether a QEMU of the guest's runs here, answering or not.</summary>
    public bool Runs(MachineContract contract) => QemuMachine.FindProcess(contract, Directory(contract)) is not null;

    /// <summary>Ends the guest's QEMU by force, answering or not, if there is one.</summary>
    public Task KillAsync(MachineContract contract) => QemuMachine.KillProcessAsync(contract, Directory(contract));

    /// <summary>Ends a QEMU for good; its TAPs and sockets go with it.</summary>
    public static async Task EndAsync(QemuMachine machine)
    {
        await machine.QuitAsync(QuitTimeout, CancellationToken.None);
        await machine.DisposeAsync();
    }

    /// <summary>Removes what is left of a guest that this host does not know any more: its logs.</summary>
    public void Forget(MachineContract contract)
    {
        try
        {
            System.IO.Directory.Delete(Directory(contract), recursive: true);
        }
        catch (DirectoryNotFoundException)
        {
            // It never ran here.
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            Log.FilesLeft(logger, contract.Name, Directory(contract), exception.Message);
        }
    }

    /// <summary>What QEMU said last, in one line.</summary>
    public string LastWords(MachineContract contract)
    {
        var log = Path.Combine(Directory(contract), "qemu.log");
        try
        {
            var lines = File.ReadLines(log).Where(line => line.Length > 0).TakeLast(3).ToList();
            return lines.Count > 0 ? $"{string.Join(" / ", lines)} (log: {log})" : $"it said nothing (log: {log})";
        }
        catch (IOException)
        {
            return $"it left no log at {log}";
        }
    }

    /// <summary>Readies the announcement of a guest that is about to arrive.</summary>
    public static Announcer OpenAnnouncer(QemuMachine machine) => Announcer.Open(
        [.. machine.Interfaces.Where(guest => guest.Tap.Bridge.Length > 0)]);

    /// <summary>Announces the guest from here; the repeats follow in the background.</summary>
    /// <returns>From the call to the first frame on the bridge; zero if there was nothing to announce.</returns>
    public TimeSpan Announce(Announcer announcer, string guest)
    {
        var resumed = Stopwatch.GetTimestamp();
        var first = announcer.Announce();
        _ = FinishAsync(announcer, guest);
        return first == 0 ? TimeSpan.Zero : Stopwatch.GetElapsedTime(resumed, first);
    }

    private async Task FinishAsync(Announcer announcer, string guest)
    {
        await announcer.Repeats;
        foreach (var error in announcer.Errors)
        {
            Log.AnnouncementFailed(logger, guest, error);
        }

        announcer.Dispose();
    }

    /// <summary>Silences the guest's ports, or lets them speak; a port that will not obey is only logged.</summary>
    public void SetLinks(QemuMachine machine, bool up)
    {
        try
        {
            machine.SetLinks(up);
        }
        catch (GodwitException exception)
        {
            Log.AnnouncementFailed(logger, machine.Contract.Name, exception.Message);
        }
        catch (ObjectDisposedException)
        {
            // Its QEMU has ended meanwhile, and the ports with it.
        }
    }
}
