using System.Text.Json;
using Godwit.Lab.Guests;
using Godwit.Lab.Outside;

namespace Godwit.Lab.Scenarios;

/// <summary>What a guest that walks through its memory noticed of a move: the fault latency of postcopy.</summary>
/// <param name="Touches">Pages it touched from the move's beginning until five seconds after the switch.</param>
/// <param name="Late">Those it had to wait for, 0.1 ms and longer by its own clock.</param>
/// <param name="PagesPerSecondAfter">What its writer managed in the five seconds after the switch.</param>
internal sealed record WalkResult(
    long Touches, long Late, double LateMeanMs, double LateP99Ms, double LateMaxMs, double PagesPerSecondAfter)
{
    private static readonly TimeSpan _after = TimeSpan.FromSeconds(5);
    private const int SlotMs = 10;

    /// <summary>Before the move. False for a guest that does not walk.</summary>
    internal static bool Begin(AgentControl agent) =>
        agent.Ask("touches reset=1").GetProperty("touches").GetInt64() > 0;

    /// <summary>After the move; waits until five seconds have passed since the switch.</summary>
    /// <param name="switched">When the guest was not heard outside; it ends with the switch.</param>
    internal static WalkResult Take(ScenarioRun run, AgentControl agent, Silence switched)
    {
        DateTime back = new(switched.End, DateTimeKind.Utc);
        TimeSpan left = back + _after + TimeSpan.FromMilliseconds(100) - DateTime.UtcNow;
        if (left > TimeSpan.Zero)
        {
            run.Pause(left);
        }

        JsonElement touches = agent.Ask("touches");
        // By the guest's clock, which its slots are numbered by.
        GuestPace now = GuestPace.Take(agent);
        double backMs = now.ClockMs - (now.At - back).TotalMilliseconds;
        JsonElement stats = agent.Ask("stats slots=11000");
        JsonElement[] slots = [.. stats.GetProperty("pages").EnumerateArray()];
        long first = (long)(backMs / SlotMs) - (stats.GetProperty("lastSlot").GetInt64() - slots.Length + 1);
        int count = (int)(_after.TotalMilliseconds / SlotMs);
        long pages = first < 0 ? 0 : slots.Skip((int)first).Take(count).Sum(slot => slot.GetInt64());
        return new WalkResult(
            touches.GetProperty("touches").GetInt64(), touches.GetProperty("late").GetInt64(),
            touches.GetProperty("lateMeanMs").GetDouble(), touches.GetProperty("lateP99Ms").GetDouble(),
            touches.GetProperty("lateMaxMs").GetDouble(), Math.Round(pages / _after.TotalSeconds));
    }
}
