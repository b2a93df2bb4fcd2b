using Godwit.Migration;
using Godwit.Migration.HandOver;

namespace Godwit.Simulation;

// What goes wrong, and how it heals.
internal sealed partial class World
{
    public void Strike(Fault fault)
    {
        if (_healing)
        {
            return;
        }

        Note($"fault: {fault}");
        Report.Faults++;
        (string source, string destination) = Time.Happens(0.5) || Mover() is not { } mover
            ? ("a", "b") : (mover, Other(mover));
        switch (fault)
        {
            case Fault.KillSourceDaemon:
                KillDaemon(source);
                break;
            case Fault.KillDestinationDaemon:
                KillDaemon(destination);
                break;
            case Fault.KillBothDaemons:
                KillDaemon(source);
                KillDaemon(destination);
                break;
            case Fault.KillSourceQemu:
                KillQemu(source);
                break;
            case Fault.KillDestinationQemu:
                KillQemu(destination);
                break;
            case Fault.PowerOffSource:
                PowerOff(source);
                break;
            case Fault.PowerOffDestination:
                PowerOff(destination);
                break;
            case Fault.StopDaemon:
                _hosts[Time.Happens(0.5) ? source : destination].Daemon?.StopFor(Time.Between(10, 40_000));
                break;
            case Fault.CutLink:
                Link.Cut(Time.Between(10, 3_000));
                break;
            case Fault.CutLinkForLong:
                Link.Cut(Time.Between(3_000, 90_000));
                break;
            case Fault.SilenceOneWay:
                Link.Silence(Time.Happens(0.5) ? source : destination, Time.Between(10, 40_000));
                break;
            case Fault.ResetConnection:
                ConnectionsOf(source).ForEach(connection => connection.Reset());
                break;
            case Fault.FullDisk:
                Disk full = _hosts[Time.Happens(0.5) ? source : destination].Disk;
                full.IsFull = true;
                Time.After(Time.Between(10, 30_000), () => full.IsFull = false);
                break;
            case Fault.SlowDisk:
                Disk slow = _hosts[Time.Happens(0.5) ? source : destination].Disk;
                slow.FlushTime = Time.Between(100, 20_000);
                Time.After(Time.Between(10, 30_000), () => slow.FlushTime = TimeSpan.FromMilliseconds(1));
                break;
            case Fault.TornWrite:
                _hosts[Time.Happens(0.5) ? source : destination].Disk.TearsNextWrite = true;
                break;
            case Fault.CrashInWrite:
                _hosts[Time.Happens(0.5) ? source : destination].Disk.CrashesInNextWrite = true;
                break;
            case Fault.ClockJump:
                _hosts[Time.Happens(0.5) ? source : destination].ClockOffset += Time.Between(10, 3_600_000);
                break;
            case Fault.Cancel:
                _hosts[source].Daemon?.Cancel();
                break;
            case Fault.RefuseResume:
                Plan.ResumeRefused = true;
                Time.After(Time.Between(10, 5_000), () => Plan.ResumeRefused = false);
                break;
        }
    }

    public void KillDaemon(string name)
    {
        Note($"{name}: daemon dies");
        _hosts[name].KillDaemon();
        ReadBack(name);
        if (!_healing)
        {
            Time.After(Time.Happens(0.2) ? Time.Between(5_000, 60_000) : Time.Between(50, 3_000),
                _hosts[name].StartDaemon);
        }
        else
        {
            Time.After(Time.Between(50, 500), _hosts[name].StartDaemon);
        }
    }

    // What a restart will find, a record that was being written among it.
    private void ReadBack(string name)
    {
        try
        {
            CheckAcknowledged(name, HandOverJournal.Open(_hosts[name].Disk.Copy(), Guid.Empty));
        }
        catch (GodwitException e)
        {
            Violate($"{name}: {e.Message}");
        }
    }

    private void KillQemu(string name)
    {
        if (_hosts[name].Qemu is { IsAlive: true } qemu)
        {
            NoteKilled(name, qemu);
            qemu.Kill();
            if (_hosts[name].Daemon is { IsAlive: true } daemon)
            {
                daemon.Post(Time.Between(1, 20), daemon.NoticeDeath);
            }
        }
    }

    private void PowerOff(string name)
    {
        if (_hosts[name].HasPower)
        {
            if (_hosts[name].Qemu is { IsAlive: true } qemu)
            {
                NoteKilled(name, qemu);
            }

            _hosts[name].PowerOff();
            ReadBack(name);
            Time.After(Time.Between(500, 90_000), _hosts[name].PowerOn);
        }
    }

    // The guest dies with the copy that holds it. One that never was handed over is nobody's only one.
    private void NoteKilled(string name, ModelQemu qemu) =>
        _mayBeDead |= !qemu.IsIncoming || _hosts[name].Daemon is not { HasJournal: true } daemon
        || daemon.StateOf(qemu.Migration) is not null
        // The daemon may be about to record that it runs it, and die behind the record.
        || qemu.HasLoaded;

    private void Heal()
    {
        Note("everything heals");
        _healing = true;
        Link.MendAll();
        foreach (SimulatedHost host in _hosts.Values)
        {
            host.Disk.IsFull = host.Disk.TearsNextWrite = host.Disk.CrashesInNextWrite = false;
            host.Disk.FlushTime = TimeSpan.FromMilliseconds(1);
            host.PowerOn();
            host.StartDaemon();
            host.Daemon?.StopFor(TimeSpan.Zero);
        }

        Plan.ResumeRefused = false;
    }
}
