using Godwit.Lab.Guests;

namespace Godwit.Lab.Scenarios;

/// <summary>What the guest does while it is moved: the same words for Godwit's scenarios and plain QEMU's.</summary>
internal sealed record GuestLoad(string Name, string Summary, string Command)
{
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

    internal static IReadOnlyList<GuestLoad> All { get; } = [Idle, Counters, Text, Incompressible];

    /// <summary>Fills the page cache from the disk's files, then begins.</summary>
    internal void Begin(AgentControl agent)
    {
        agent.Ask("files");
        agent.Ask(Command);
    }
}
