using Godwit.Lab.Guests;

namespace Godwit.Lab.Scenarios;

/// <summary>How far the guest's writer had come at an instant; two of them give its throughput.</summary>
internal readonly record struct GuestPace(long Pages, DateTime At)
{
    internal static GuestPace Take(AgentControl agent) => new(agent.PagesWritten(), DateTime.UtcNow);

    internal double Since(GuestPace earlier) => Math.Round((Pages - earlier.Pages) / (At - earlier.At).TotalSeconds);
}
