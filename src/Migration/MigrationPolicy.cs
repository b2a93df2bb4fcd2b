using Godwit.Migration.Convergence;

namespace Godwit.Migration;

/// <summary>How memory crosses.</summary>
public enum MigrationMethod
{
    /// <summary>
    /// What the forecast says and the ladder allows: rounds, with the guest slowed if need be, or a hybrid; decided
    /// anew after each round.
    /// </summary>
    Auto,
    /// <summary>Everything before the guest runs at the destination, whatever the ladder allows.</summary>
    Precopy,
    /// <summary>The guest runs at the destination as soon as it can; its memory follows.</summary>
    Postcopy,
    /// <summary>Rounds as long as each leaves much less to send, then postcopy.</summary>
    Hybrid,
}

/// <summary>What happens when the rounds do not converge within their bounds.</summary>
public enum OnStall
{
    /// <summary>The migration ends; the guest runs on at the source as if nothing had happened.</summary>
    Abort,
    /// <summary>The guest is paused for as long as the rest takes: the user has said that this is acceptable.</summary>
    Pause,
}

/// <summary>How fast pages are put on the wire.</summary>
public enum Pacing
{
    /// <summary>
    /// As fast as the link goes while keeping its queue short, so that the guest's own traffic passes.
    /// </summary>
    Full,
    /// <summary>
    /// Clark et al. 2005, section 5.3: begin at a minimum rate; each round follows the last round's dirty rate plus a
    /// constant; stop iterating when that passes the maximum.
    /// </summary>
    Adaptive,
}

/// <summary>From whose contents the destination may rebuild pages. docs/THREAT_MODEL.md says why it matters.</summary>
public enum ContentSharing
{
    /// <summary>The guest's own: what it left there last time, its disk images and what they are based on.</summary>
    Guest,
    /// <summary>Those of every guest of that host too.</summary>
    Host,
    /// <summary>Nobody's; and nothing of the guest stays behind.</summary>
    None,
}

/// <summary>What the user allows a migration to cost. Rates are in bits per second, as links are sold.</summary>
public sealed record MigrationPolicy
{
    /// <summary>The pause budget: the longest span the guest may stand still.</summary>
    public TimeSpan DowntimeMax { get; init; } = TimeSpan.FromMilliseconds(300);
    /// <summary>Cap on all lanes together; 0 for none.</summary>
    public long BandwidthBitsPerSecond { get; init; }
    /// <summary>When the ladder has been climbed to its end.</summary>
    public OnStall OnStall { get; init; } = OnStall.Abort;
    public MigrationMethod Method { get; init; } = MigrationMethod.Auto;
    /// <summary>Name of the ladder; empty for none.</summary>
    public string Ladder { get; init; } = "";
    /// <summary>What is done, in order, when rounds do not shrink any more.</summary>
    public IReadOnlyList<LadderStep> Steps { get; init; } = [];
    public Pacing Pacing { get; init; } = Pacing.Full;
    /// <summary>Rounds after which a migration that does not fit the budget has stalled.</summary>
    /// <remarks>The model ends a migration long before, unless it goes on converging.</remarks>
    public int RoundsMax { get; init; } = 1000;
    /// <summary>Time from the first page after which a migration that does not fit the budget has stalled.</summary>
    public TimeSpan TimeMax { get; init; } = TimeSpan.FromMinutes(30);
    /// <summary>False sends every page as it is.</summary>
    public bool Compression { get; init; } = true;
    public ContentSharing Share { get; init; } = ContentSharing.Guest;
    /// <summary>Processor time of the source's lanes, in cores, while the guest runs; 0 for no limit.</summary>
    public double Cores { get; init; }

    /// <summary>
    /// The guest may come to run at the destination before its memory has: then it is lost with either host.
    /// </summary>
    public bool MayTurnToPostcopy => Method switch
    {
        MigrationMethod.Postcopy or MigrationMethod.Hybrid => true,
        MigrationMethod.Auto => Steps.Any(step => step.Action == LadderAction.Postcopy),
        _ => false,
    };
}
