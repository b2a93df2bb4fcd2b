using System.Text.Json;
using Godwit.Lab.Guests;

namespace Godwit.Lab.Scenarios;

/// <summary>How far the guest's writer and the guest's clock had come at an instant of ours.</summary>
/// <param name="Asked">Before the guest looked at its clock; <paramref name="At"/> is after it.</param>
internal readonly record struct GuestPace(long Pages, double ClockMs, DateTime Asked, DateTime At)
{
    internal static GuestPace Take(AgentControl agent)
    {
        DateTime asked = DateTime.UtcNow;
        JsonElement status = agent.Ask("status");
        return new GuestPace(
            status.GetProperty("pagesWritten").GetInt64(), status.GetProperty("monotonicMs").GetDouble(), asked,
            DateTime.UtcNow);
    }

    /// <summary>Pages written a second since an earlier instant.</summary>
    internal double Since(GuestPace earlier) => Math.Round((Pages - earlier.Pages) / (At - earlier.At).TotalSeconds);

    /// <summary>Pages written a second of the guest's own clock: whatever an answer took on its way.</summary>
    internal double PerGuestSecond(GuestPace earlier) =>
        Math.Round((Pages - earlier.Pages) * 1000 / Math.Max(1, ClockMs - earlier.ClockMs));

    /// <summary>Pages written a second of ours since an earlier instant, at the least.</summary>
    internal double SinceAtLeast(GuestPace earlier) => (Pages - earlier.Pages) / (At - earlier.Asked).TotalSeconds;

    /// <summary>Fails the run if the guest's clock ran ahead of ours, or stood for longer than any pause.</summary>
    /// <remarks>
    /// When it looked at its clock is known only as far as that was between question and answer, which may be seconds
    /// on a busy machine: only what is beyond both is wrong.
    /// </remarks>
    internal void ExpectClock(ScenarioRun run, GuestPace earlier)
    {
        double passed = ClockMs - earlier.ClockMs;
        run.Expect(
            passed - (At - earlier.Asked).TotalMilliseconds < 100
                && (Asked - earlier.At).TotalMilliseconds - passed < 30_000,
            $"the guest's clock fell behind by {ClockLagMs(earlier)} ms over the move");
    }

    /// <summary>
    /// What the guest's clock fell behind ours since an earlier instant: about the pause, since a stopped guest's clock
    /// stands still. Negative when it ran ahead, as it does when the destination counts it from a wrong base.
    /// </summary>
    internal double ClockLagMs(GuestPace earlier) =>
        Math.Round((At - earlier.At).TotalMilliseconds - (ClockMs - earlier.ClockMs), 1);
}
