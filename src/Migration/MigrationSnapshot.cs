namespace Godwit.Migration;

/// <summary>Where a migration stands; a phase never goes back.</summary>
public enum MigrationPhase
{
    Preparing,
    Copying,
    /// <summary>The guest is paused; the rest and the device state are on their way.</summary>
    Switchover,
    /// <summary>Past the point of no return: only the destination may run the guest.</summary>
    Committed,
    Ended,
}

/// <summary>
/// How a migration ended. All but <see cref="Completed"/> and <see cref="Unsettled"/> leave the guest at the source.
/// </summary>
public enum MigrationOutcome
{
    Pending,
    Completed,
    Failed,
    Cancelled,
    NotConverged,
    /// <summary>Committed, but the destination never confirmed: an operator has to look where the guest runs.</summary>
    Unsettled,
}

/// <summary>One pass over a dirty set.</summary>
/// <param name="Number">0 for the round that sends everything.</param>
/// <param name="Pages">Pages sent, zero pages among them.</param>
/// <param name="WireBytes">Bytes the round put on the wire.</param>
/// <param name="Duration">From the round's first page to its last.</param>
/// <param name="DirtyBytesPerSecond">Rate at which the guest dirtied pages meanwhile.</param>
/// <param name="RateBitsPerSecond">Limit the pacing set; 0 for none.</param>
/// <param name="Coding">How its last pages were coded, and why.</param>
public sealed record RoundReport(
    int Number, long Pages, long WireBytes, TimeSpan Duration, double DirtyBytesPerSecond, long RateBitsPerSecond,
    string Coding = "");

/// <summary>Where the pause went, each part as measured by the host on which it passed.</summary>
/// <param name="LastRound">Source's pause to the last page in place at the destination.</param>
/// <param name="DeviceState">Device state on its way after the last page.</param>
/// <param name="Load">The destination's QEMU loading it.</param>
/// <param name="Commit">The source recording durably that the destination may run it.</param>
/// <param name="Resume">The order to run and the first instruction at the destination.</param>
/// <param name="Announcement">Resume to the first announcement on the destination's bridge.</param>
public sealed record BlackoutParts(
    TimeSpan LastRound, TimeSpan DeviceState, TimeSpan Load, TimeSpan Commit, TimeSpan Resume,
    TimeSpan Announcement)
{
    public static BlackoutParts None { get; } = new(default, default, default, default, default, default);
}

/// <summary>What a move was expected to cost.</summary>
public sealed record ForecastReport(
    long BytesLow, long BytesHigh, TimeSpan Fastest, TimeSpan Slowest, TimeSpan ShortestPause, TimeSpan LongestPause);

/// <summary>How long a guest waited for pages that it touched before they had come.</summary>
/// <param name="Count">Pages it waited for.</param>
/// <param name="Mean">From QEMU's request to the page in QEMU's hands; the others likewise.</param>
public sealed record FaultReport(long Count, TimeSpan Mean, TimeSpan Median, TimeSpan Worst99, TimeSpan Longest);

/// <summary>Everything that is known of a migration at one instant; the last one is its report.</summary>
public sealed record MigrationSnapshot
{
    public MigrationPhase Phase { get; init; }
    public MigrationOutcome Outcome { get; init; }
    /// <summary>Stable code of the failure; empty if there is none.</summary>
    public string ErrorCode { get; init; } = "";
    /// <summary>What went wrong, with its numbers; empty if nothing did.</summary>
    public string Error { get; init; } = "";
    /// <summary>Share of the work as now known, 0 to 1; never falls.</summary>
    public double Fraction { get; init; }
    public long TotalBytes { get; init; }
    /// <summary>Bytes of pages still to send, before coding.</summary>
    public long RemainingBytes { get; init; }
    /// <summary>Bytes put on the wire by all lanes.</summary>
    public long WireBytes { get; init; }
    /// <summary>Rate that the destination acknowledges of a busy link, or the limit if that is lower.</summary>
    public double WireBytesPerSecond { get; init; }
    public double DirtyBytesPerSecond { get; init; }
    /// <summary>The pause if the guest were paused now; zero while the link's rate is not known yet.</summary>
    public TimeSpan ExpectedDowntime { get; init; }
    /// <summary>Null while not known or not converging.</summary>
    public TimeSpan? TimeLeft { get; init; }
    /// <summary>
    /// One of preparing, converging, stalled, hopeless, paused, waiting for its turn, switching over, fetching, ended.
    /// </summary>
    public string Verdict { get; init; } = "";
    /// <summary>What happens next and when, for people; empty if there is nothing to say.</summary>
    public string Next { get; init; } = "";
    /// <summary>precopy, postcopy, or hybrid: precopy that turned to postcopy.</summary>
    public string Method { get; init; } = "precopy";
    /// <summary>Why this method, in numbers; empty if a user asked for it or nothing is known yet.</summary>
    public string Choice { get; init; } = "";
    /// <summary>The move may turn to postcopy: then a source host lost for good costs the guest.</summary>
    public bool MayTurnToPostcopy { get; init; }
    /// <summary>Steps of the ladder taken so far, with what they were taken for.</summary>
    public IReadOnlyList<string> StepsTaken { get; init; } = [];
    /// <summary>Processor time that QEMU may take from the guest, in percent; 0 if it was never slowed.</summary>
    public int ThrottlePercent { get; init; }
    /// <summary>The most that QEMU took from it by its own account, in percent.</summary>
    public int ThrottledPercent { get; init; }
    /// <summary>The pause budget now; a user or the ladder may have changed it.</summary>
    public TimeSpan DowntimeMax { get; init; }
    /// <summary>The cap now; 0 for none.</summary>
    public long BandwidthBitsPerSecond { get; init; }
    /// <summary>What was expected of the move before it began; null if nobody asked.</summary>
    public ForecastReport? Forecast { get; init; }
    /// <summary>The guest's waits for its memory at the destination; null without postcopy.</summary>
    public FaultReport? Faults { get; init; }
    public IReadOnlyList<RoundReport> Rounds { get; init; } = [];
    /// <summary>
    /// Bytes that did not cross the wire, by reason: zero, word, superseded, unchanged, delta, known, compressed.
    /// </summary>
    public IReadOnlyDictionary<string, long> SavedBytes { get; init; } = new Dictionary<string, long>();
    public TimeSpan Elapsed { get; init; }
    /// <summary>Source's pause to the destination's confirmation that the guest runs.</summary>
    public TimeSpan Downtime { get; init; }
    public BlackoutParts Parts { get; init; } = BlackoutParts.None;
    /// <summary>The pause by QEMU's own account at the source.</summary>
    public TimeSpan QemuDowntime { get; init; }
    /// <summary>True if pages were read from the guest's shared memory, false if carried by QEMU's stream.</summary>
    public bool SharedMemory { get; init; }
    /// <summary>Processor time of both daemons during the move.</summary>
    public TimeSpan DaemonCpuTime { get; init; }
}
