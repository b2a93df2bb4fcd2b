using Godwit.Lab.Guests;
using Godwit.Lab.Outside;
using Godwit.Lab.Qemu;

namespace Godwit.Lab.Scenarios;

/// <summary>What the guest does while it is moved: the same words for Godwit's scenarios and plain QEMU's.</summary>
/// <param name="Name">What it is called in scenarios and benches.</param>
/// <param name="Summary">One line for people.</param>
/// <param name="Command">What the agent is told.</param>
/// <param name="MemoryMegabytes">Of the guest.</param>
/// <param name="Userland">Whether its disk is <see cref="UserlandDisk"/>.</param>
internal sealed record GuestLoad(
    string Name, string Summary, string Command, int MemoryMegabytes = 256, bool Userland = false)
{
    /// <summary>What the agent is told besides, or empty.</summary>
    internal string Walk { get; init; } = "";

    internal static GuestLoad Idle { get; } = new("idle", "a guest that does nothing but answer", "set pattern=idle");

    internal static GuestLoad Counters { get; } =
        new(
            "counters", "counters move in otherwise constant pages, 16 MiB/s",
            "set pattern=counters rate=16M size=64M");

    internal static GuestLoad Text { get; } =
        new("text", "pages of text are written anew, 8 MiB/s", "set pattern=text rate=8M size=32M");

    internal static GuestLoad Incompressible { get; } =
        new(
            "incompressible", "pages of noise are written anew, 8 MiB/s",
            "set pattern=incompressible rate=8M size=32M");

    /// <summary>Touches pages that it never writes, in no order: it notices when one is not there.</summary>
    internal static GuestLoad Walker { get; } =
        new("walker", "96 MiB are walked through at random while text is written anew, 8 MiB/s",
            "set pattern=text rate=8M size=16M") { Walk = "walk size=96M rate=500" };

    /// <summary>The same, while it writes faster than a slow link carries: only postcopy brings it over.</summary>
    internal static GuestLoad Chaser { get; } =
        new("chaser", "96 MiB are walked through at random while noise is written anew, 75 MiB/s",
            "set pattern=incompressible rate=75M size=48M") { Walk = Walker.Walk };

    /// <summary>Most of its memory is page cache: hundreds of megabytes of files that were read once.</summary>
    internal static GuestLoad Server { get; } =
        new(
            "server", "a server with a warm page cache that writes a little",
            "set pattern=text rate=1M size=16M", MemoryMegabytes: 1024, Userland: true);

    /// <summary>Redis, written to by a client as fast as it answers.</summary>
    internal static GuestLoad Redis { get; } =
        new("redis", "Redis is written to by a client as fast as it answers", "set pattern=idle")
        {
            HasRedis = true,
        };

    /// <summary>Processes come and go, headers are read, what a compiler makes is built up and dropped.</summary>
    internal static GuestLoad Build { get; } =
        new(
            "build", "a compiler at work, one translation unit after the other", "set pattern=idle",
            MemoryMegabytes: 1024, Userland: true) { Builds = true };

    internal static IReadOnlyList<GuestLoad> All { get; } = [Idle, Counters, Text, Incompressible];

    /// <summary>Real programs, for the bench alone.</summary>
    internal static IReadOnlyList<GuestLoad> Programs { get; } = [Server, Redis, Build];

    internal bool HasRedis { get; init; }

    internal bool Builds { get; init; }

    internal GuestShape Shape =>
        new(1, MemoryMegabytes, 1, HasRedis ? "everysec" : null) { Userland = Userland };

    /// <summary>Fills the page cache from the disk's files, then begins.</summary>
    internal void Begin(ScenarioRun run, AgentControl agent)
    {
        if (!Builds)
        {
            agent.Ask("files", AgentControl.WorkMax);
        }

        agent.Ask(Command);
        if (Walk.Length > 0)
        {
            agent.Ask(Walk);
        }

        if (Builds)
        {
            agent.Ask("build", AgentControl.WorkMax);
        }

        if (HasRedis)
        {
            run.Own(new RedisWriter(Shape.Address, run.Stopped)).Start();
        }
    }
}
