using System.Text.Json;
using Godwit.Lab.Guests;

namespace Godwit.Lab.Scenarios;

/// <summary>How far the guest's writer and the guest's clock had come at an instant of ours.</summary>
internal readonly record struct GuestPace(long Pages, double ClockMs, DateTime At)
{
    internal static GuestPace Take(AgentControl agent)
    {
        JsonElement status = agent.Ask("status", TimeSpan.FromSeconds(20));
        return new GuestPace(
            status.GetProperty("pagesWritten").GetInt64(), status.GetProperty("monotonicMs").GetDouble(),
            DateTime.UtcNow);
    }

    /// <summary>Pages written a second since an earlier instant.</summary>
    internal double Since(GuestPace earlier) => Math.Round((Pages - earlier.Pages) / (At - earlier.At).TotalSeconds);

    /// <summary>
    /// What the guest's clock fell behind ours since an earlier instant: about the pause, since a stopped guest's clock
    /// stands still. Negative when it ran ahead, as it does when the destination counts it from a wrong base.
    /// </summary>
    internal double ClockLagMs(GuestPace earlier) =>
        Math.Round((At - earlier.At).TotalMilliseconds - (ClockMs - earlier.ClockMs), 1);
}
