using Godwit.Api.V1;
using Godwit.Cli.Output;

namespace Godwit.Cli.Progress;

/// <summary>What is shown of a migration; fraction, phase, round, and bytes never run backwards.</summary>
/// <remarks>
/// The daemon promises a fraction that never falls, but a stream that was broken off and taken up again may repeat old
/// messages. Holding the highest value seen here makes the promise hold on the screen whatever arrives.
/// </remarks>
internal sealed class ProgressState
{
    /// <summary>Share of the work, 0 to 1. Only the end of a completed move shows 1.</summary>
    public double Fraction { get; private set; }

    public MigrationPhase Phase { get; private set; }

    public MigrationOutcome Outcome { get; private set; }

    /// <summary>The round in progress, counted from 0.</summary>
    public int Round { get; private set; }

    public ulong SentBytes { get; private set; }

    public ulong SavedBytes { get; private set; }

    public double ElapsedSeconds { get; private set; }

    public double DirtyBytesPerSecond { get; private set; }

    public double WireBytesPerSecond { get; private set; }

    public uint ExpectedDowntimeMs { get; private set; }

    public uint BudgetMs { get; private set; } = 300;

    /// <summary>Null while not known or not converging.</summary>
    public double? SecondsLeft { get; private set; }

    public string Verdict { get; private set; } = "";

    /// <summary>Takes in what the daemon says now; false if nothing but numbers changed.</summary>
    public bool Update(Migration migration)
    {
        var (phase, round) = (Phase, Round);
        if (migration.Phase < Phase)
        {
            return false;
        }

        var progress = migration.Progress ?? new Api.V1.Progress();
        Phase = migration.Phase;
        Outcome = migration.Outcome;
        // Finished rounds are listed, so their number is the index of the one in progress.
        Round = Math.Max(Round, migration.Rounds.Count);
        double fraction = double.IsFinite(progress.Fraction) ? progress.Fraction : 0;
        bool completed = Phase == MigrationPhase.Ended && Outcome == MigrationOutcome.Completed;
        Fraction = completed ? 1 : Math.Max(Fraction, Math.Clamp(fraction, 0, 0.99));
        SentBytes = Math.Max(SentBytes, Math.Max(progress.SentBytes, migration.WireBytes));
        ulong saved = 0;
        foreach (ulong bytes in migration.SavedBytes.Values)
        {
            saved += bytes;
        }

        SavedBytes = Math.Max(SavedBytes, saved);
        ElapsedSeconds = Math.Max(ElapsedSeconds, migration.TotalSeconds);
        DirtyBytesPerSecond = progress.DirtyBytesPerSecond;
        WireBytesPerSecond = progress.WireBytesPerSecond;
        ExpectedDowntimeMs = progress.ExpectedDowntimeMs;
        BudgetMs = migration.Policy is { MaxDowntimeMs: > 0 } policy ? policy.MaxDowntimeMs : 300;
        SecondsLeft = progress.SecondsLeft >= 0 ? progress.SecondsLeft : null;
        Verdict = AnswerWriter.Printable(
            progress.Next.Length > 0 ? $"{progress.Verdict}: {progress.Next}" : progress.Verdict);
        return Phase != phase || Round != round;
    }

    /// <summary>The whole state on one line, for logs and terminals that cannot be redrawn.</summary>
    public string ToLine()
    {
        string where = Phase == MigrationPhase.Copying
            ? Units.Invariant($"copying round {Round}")
            : Phase == MigrationPhase.Ended ? $"ended: {Json.Word(Outcome)}" : Json.Word(Phase);
        string line = Units.Invariant($"{ElapsedSeconds,6:0.0} s  {Fraction * 100,3:0}%  {where}")
            + $"  sent {Units.Bytes(SentBytes)}  saved {Units.Bytes(SavedBytes)}";
        if (Phase == MigrationPhase.Copying)
        {
            line += $"  dirty {Units.BytesPerSecond(DirtyBytesPerSecond)}"
                + $"  wire {Units.BitsPerSecond(WireBytesPerSecond * 8)}"
                + Units.Invariant($"  pause {ExpectedDowntimeMs} of {BudgetMs} ms")
                + $"  left {Left}";
        }

        return Verdict.Length > 0
            && Phase is MigrationPhase.Copying or MigrationPhase.Preparing or MigrationPhase.Committed
            ? $"{line}  {Verdict}"
            : line;
    }

    public string Left => SecondsLeft is { } seconds ? Units.Duration(seconds) : "unknown";
}
