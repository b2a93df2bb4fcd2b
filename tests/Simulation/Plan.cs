using Godwit.Migration;

namespace Godwit.Simulation;

/// <summary>What a seed stands for: a guest, a link, and the faults that may strike.</summary>
/// <remarks>
/// Swarm testing (Groce et al., ISSTA 2012): each seed switches a random half of the faults off, so that the ones that
/// are left meet each other in ways that they never would if all of them struck all the time.
/// </remarks>
internal sealed class Plan
{
    private static readonly Fault[] _all = Enum.GetValues<Fault>();

    public Plan(Random chance)
    {
        Enabled = [.. _all.Where(_ => chance.Next(2) == 0)];
        // One seed in eight is left alone: what works without faults has to be seen too.
        IsCalm = chance.Next(8) == 0;
        Moves = 1 + chance.Next(3);
        // Few are so large that the link's rate becomes known, which takes 4 MiB.
        Pages = chance.Next(50) == 0 ? 1200 + chance.Next(400) : 8 + chance.Next(40);
        RomPages = 1 + chance.Next(6);
        HotPages = 1 + chance.Next(Pages);
        WritesPerSecond = Math.Pow(10, chance.NextDouble() * 3.5);
        Lanes = 1 + chance.Next(3);
        HoldsSwitchover = chance.Next(4) != 0;
        SharesMemory = chance.Next(4) != 0;
        Codes = chance.Next(8) != 0;
        Latency = TimeSpan.FromMilliseconds(Math.Pow(10, -1 + (chance.NextDouble() * 3)));
        BytesPerSecond = Math.Pow(10, 6.5 + (chance.NextDouble() * 2));
        CrashAtEffect = IsCalm || chance.Next(2) == 0 ? 0 : Math.Pow(10, -3 + (chance.NextDouble() * 2));
        FaultsPerMove = IsCalm ? 0 : chance.Next(5);
        Postcopy = HoldsSwitchover && SharesMemory && chance.Next(3) == 0;
        if (Postcopy)
        {
            // Enough that much of it is missing at the turn, and slow enough to be struck before it has come.
            Pages = 64 + chance.Next(256);
            HotPages = 1 + chance.Next(Pages);
            Codes = false;
        }

        Policy = new MigrationPolicy
        {
            DowntimeMax = TimeSpan.FromMilliseconds(30 + (chance.NextDouble() * 3000)),
            TimeMax = TimeSpan.FromSeconds(4),
            OnStall = chance.Next(2) == 0 ? OnStall.Abort : OnStall.Pause,
            BandwidthBitsPerSecond = Postcopy || chance.Next(4) == 0 ? 20_000_000 : 0,
        };
        if (Postcopy)
        {
            Policy = Policy with
            {
                Method = chance.Next(3) == 0 ? MigrationMethod.Hybrid : MigrationMethod.Postcopy,
            };
        }
    }

    public IReadOnlyList<Fault> Enabled { get; }

    public bool IsCalm { get; }

    public int Moves { get; }

    public int Pages { get; }

    public int RomPages { get; }

    public int HotPages { get; }

    public double WritesPerSecond { get; }

    public int Lanes { get; }

    public bool HoldsSwitchover { get; }

    /// <summary>False for a guest whose pages are all carried by QEMU's stream.</summary>
    public bool SharesMemory { get; }

    public bool Codes { get; }

    /// <summary>Moves may turn to postcopy.</summary>
    public bool Postcopy { get; }

    public TimeSpan Latency { get; }

    public double BytesPerSecond { get; }

    /// <summary>Probability that a daemon dies just before, or just behind, an effect.</summary>
    public double CrashAtEffect { get; }

    public int FaultsPerMove { get; }

    public MigrationPolicy Policy { get; }

    /// <summary>The destination's QEMU says no to the resume for now.</summary>
    public bool ResumeRefused { get; set; }

    public bool Has(Fault fault) => !IsCalm && Enabled.Contains(fault);
}

/// <summary>What may go wrong.</summary>
internal enum Fault
{
    KillSourceDaemon,
    KillDestinationDaemon,
    KillBothDaemons,
    KillSourceQemu,
    KillDestinationQemu,
    PowerOffSource,
    PowerOffDestination,
    StopDaemon,
    CutLink,
    CutLinkForLong,
    SilenceOneWay,
    ResetConnection,
    FullDisk,
    SlowDisk,
    TornWrite,
    CrashInWrite,
    ClockJump,
    Cancel,
    RefuseResume,
    Operator,
}
