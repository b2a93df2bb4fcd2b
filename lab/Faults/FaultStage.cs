using Godwit.Api.V1;
using Godwit.Lab.Daemons;
using Godwit.Lab.Network;
using Godwit.Lab.Outside;
using Godwit.Lab.Qemu;
using Godwit.Lab.Scenarios;

namespace Godwit.Lab.Faults;

/// <summary>What cells are played on: a lab, two daemons, and a guest with a Redis that is written to.</summary>
/// <remarks>
/// One stage serves many cells. That is as clean as a new one for each, because a cell is right only if it leaves
/// nothing behind but the guest that runs, its memory and disk verified; and it is harder, because a daemon carries
/// what it kept of one cell into the next. After a cell that is wrong the stage is built anew.
/// </remarks>
internal sealed class FaultStage : IDisposable
{
    // A guest that writes, so that a page of an older round would be seen; slow enough for an emulated processor.
    private const string Load = "set pattern=counters rate=4M size=16M";

    // Neither hurries: an emulated guest that only answers has no time left to move.
    private static readonly TimeSpan _writeEvery = TimeSpan.FromMilliseconds(3);

    private FaultStage(ScenarioRun run, LabDaemons daemons, LabGuest guest, RedisWriter writer)
    {
        Run = run;
        Daemons = daemons;
        Guest = guest;
        Writer = writer;
    }

    internal ScenarioRun Run { get; }

    internal LabDaemons Daemons { get; }

    internal LabGuest Guest { get; }

    internal RedisWriter Writer { get; }

    /// <summary>The host that runs the guest now: the source of the next cell.</summary>
    internal string Source { get; set; } = "a";

    internal string Destination => LabNetwork.Hosts.Single(host => host != Source);

    /// <summary>The guest's disk image, which both hosts reach.</summary>
    internal string Disk => Guest.Disk;

    internal static FaultStage Start(ScenarioRun run)
    {
        LabDaemons daemons = LabDaemons.Start();
        try
        {
            GuestShape shape = new(1, 256, 1, Redis: "always");
            LabGuest guest = LabGuest.Boot(run, daemons, shape, MemoryBacking.Shared);
            guest.Agent.Ask(Load);
            return new FaultStage(
                run, daemons, guest,
                new RedisWriter(guest.Shape.Address, run.Stopped, reconnects: true, pause: _writeEvery));
        }
        catch
        {
            daemons.Dispose();
            throw;
        }
    }

    /// <summary>The guest was started again: speaks to its agent, and has it write as before.</summary>
    internal void TakeUpAgain()
    {
        Guest.ReconnectAgent();
        Guest.Agent.Ask(Load);
    }

    public void Dispose()
    {
        Writer.Dispose();
        Daemons.Dispose();
    }
}
