namespace Godwit.Simulation;

/// <summary>A machine with a disk and processes; the daemon on it comes and goes.</summary>
internal sealed class SimulatedHost(World world, string name)
{
    public string Name => name;

    public Disk Disk { get; } = new(world.Time, world.Canary);

    public SimulatedDaemon? Daemon { get; private set; }

    /// <summary>The newest QEMU of the guest on this host.</summary>
    public ModelQemu? Qemu { get; set; }

    public bool HasPower { get; private set; } = true;

    /// <summary>How far its clock is ahead; it never goes back.</summary>
    public TimeSpan ClockOffset { get; set; }

    public bool IsUp => Daemon is { IsAlive: true };

    /// <summary>Starts the daemon; tries again, as systemd does, when it cannot.</summary>
    public void StartDaemon()
    {
        if (IsUp || !HasPower)
        {
            return;
        }

        var daemon = new SimulatedDaemon(world, this);
        Daemon = daemon;
        if (!daemon.TryStart())
        {
            world.Time.After(TimeSpan.FromSeconds(1), StartDaemon);
        }
    }

    /// <summary>kill -9: the kernel closes what it had open.</summary>
    public void KillDaemon()
    {
        if (Daemon is { IsAlive: true } daemon)
        {
            daemon.Die();
            world.ConnectionsOf(name).ForEach(connection => connection.CloseFrom(name));
            if (Qemu is { IsAlive: true } qemu)
            {
                qemu.Listener = null;
                qemu.StreamBroke();
            }
        }
    }

    /// <summary>Nothing is closed: the other host hears nothing any more.</summary>
    public void PowerOff()
    {
        HasPower = false;
        Daemon?.Die();
        world.ConnectionsOf(name).ForEach(connection => connection.Vanish(name));
        if (Qemu is { } qemu)
        {
            qemu.Listener = null;
            qemu.Kill();
        }

        Disk.LosePower();
    }

    public void PowerOn()
    {
        if (!HasPower)
        {
            HasPower = true;
            StartDaemon();
        }
    }
}
