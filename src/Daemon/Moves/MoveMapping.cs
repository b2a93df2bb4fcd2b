using Godwit.Host.Registry;
using Godwit.Migration;
using Godwit.Migration.Convergence;
using Wire = Godwit.Api.V1;

namespace Godwit.Daemon.Moves;

/// <summary>A migration as the API says it.</summary>
internal static class MoveMapping
{
    public static MigrationPolicy ToPolicy(Wire.MigrationPolicy? policy)
    {
        var defaults = new MigrationPolicy();
        if (policy is null)
        {
            return defaults;
        }

        return new MigrationPolicy
        {
            DowntimeMax = policy.MaxDowntimeMs > 0
                ? TimeSpan.FromMilliseconds(policy.MaxDowntimeMs) : defaults.DowntimeMax,
            BandwidthBitsPerSecond = (long)Math.Min(policy.BandwidthBitsPerSecond, long.MaxValue),
            OnStall = policy.OnStall == Wire.OnStall.Pause ? OnStall.Pause : OnStall.Abort,
            Pacing = policy.Pacing == Wire.Pacing.Adaptive ? Pacing.Adaptive : Pacing.Full,
            RoundsMax = policy.MaxRounds > 0 ? (int)Math.Min(policy.MaxRounds, int.MaxValue) : defaults.RoundsMax,
            TimeMax = policy.TimeoutSeconds > 0 ? TimeSpan.FromSeconds(policy.TimeoutSeconds) : defaults.TimeMax,
            Compression = !policy.NoCompression,
            Share = policy.Share switch
            {
                Wire.ContentSharing.Host => ContentSharing.Host,
                Wire.ContentSharing.None => ContentSharing.None,
                _ => ContentSharing.Guest,
            },
            Cores = double.IsFinite(policy.Cores) ? Math.Clamp(policy.Cores, 0, 1024) : 0,
            Method = Enum.IsDefined((MigrationMethod)policy.Method) ? (MigrationMethod)policy.Method : default,
            Ladder = policy.Ladder,
            Steps = [.. policy.Steps.Select(ToStep).OfType<LadderStep>()],
        };
    }

    // A step that this build does not know is one that it does not take.
    private static LadderStep? ToStep(Wire.LadderStep step) =>
        Enum.TryParse<LadderAction>(step.Action, ignoreCase: true, out var action)
            ? new LadderStep(action, (int)Math.Min(step.Value, int.MaxValue),
                (int)Math.Clamp(step.StalledRounds, 1, 1000))
            : null;

    public static Wire.LadderStep ToApi(LadderStep step) => new()
    {
        Action = step.Action.ToString().ToLowerInvariant(),
        Value = (uint)step.Value,
        StalledRounds = (uint)step.StalledRounds,
    };

    public static Wire.MigrationPolicy ToApi(MigrationPolicy policy) => new()
    {
        Method = (Wire.MigrationMethod)policy.Method,
        Ladder = policy.Ladder,
        Steps = { policy.Steps.Select(ToApi) },
        MaxDowntimeMs = (uint)policy.DowntimeMax.TotalMilliseconds,
        BandwidthBitsPerSecond = (ulong)policy.BandwidthBitsPerSecond,
        OnStall = policy.OnStall == OnStall.Pause ? Wire.OnStall.Pause : Wire.OnStall.Abort,
        Pacing = policy.Pacing == Pacing.Adaptive ? Wire.Pacing.Adaptive : Wire.Pacing.Full,
        MaxRounds = (uint)policy.RoundsMax,
        TimeoutSeconds = (uint)policy.TimeMax.TotalSeconds,
        NoCompression = !policy.Compression,
        Share = policy.Share switch
        {
            ContentSharing.Host => Wire.ContentSharing.Host,
            ContentSharing.None => Wire.ContentSharing.None,
            _ => Wire.ContentSharing.Guest,
        },
        Cores = policy.Cores,
    };

    public static Wire.Migration ToApi(MigrationRecord record)
    {
        var snapshot = record.Snapshot;
        var migration = new Wire.Migration
        {
            Id = record.Id,
            Guest = record.Guest,
            From = record.From,
            To = record.To,
            Method = snapshot.Method,
            Phase = (Wire.MigrationPhase)snapshot.Phase,
            Outcome = (Wire.MigrationOutcome)snapshot.Outcome,
            ErrorCode = snapshot.ErrorCode,
            Error = snapshot.Error,
            GuestRunsOn = record.GuestRunsOn,
            Policy = ToApi(record.Policy),
            Progress = new Wire.Progress
            {
                Fraction = snapshot.Fraction,
                SentBytes = (ulong)snapshot.WireBytes,
                RemainingBytes = (ulong)snapshot.RemainingBytes,
                TotalBytes = (ulong)snapshot.TotalBytes,
                WireBytesPerSecond = snapshot.WireBytesPerSecond,
                DirtyBytesPerSecond = snapshot.DirtyBytesPerSecond,
                ExpectedDowntimeMs = (uint)snapshot.ExpectedDowntime.TotalMilliseconds,
                SecondsLeft = snapshot.TimeLeft?.TotalSeconds ?? -1,
                Verdict = snapshot.Verdict,
                Next = snapshot.Next,
            },
            StartedUnixMs = record.Started.ToUnixTimeMilliseconds(),
            TotalSeconds = snapshot.Elapsed.TotalSeconds,
            WireBytes = (ulong)snapshot.WireBytes,
            DowntimeMs = snapshot.Downtime.TotalMilliseconds,
            QemuDowntimeMs = snapshot.QemuDowntime.TotalMilliseconds,
            MemoryBacking = snapshot.SharedMemory ? "shared" : "carried",
            DaemonCpuSeconds = snapshot.DaemonCpuTime.TotalSeconds,
            MethodReason = snapshot.Choice,
            MayTurnToPostcopy = snapshot.MayTurnToPostcopy,
            StepsTaken = { snapshot.StepsTaken },
            ThrottlePercent = (uint)snapshot.ThrottlePercent,
            ThrottledPercent = (uint)snapshot.ThrottledPercent,
            Faults = snapshot.Faults is not { } faults ? null : new Wire.Faults
            {
                Count = (ulong)faults.Count,
                MeanMs = faults.Mean.TotalMilliseconds,
                MedianMs = faults.Median.TotalMilliseconds,
                Worst99Ms = faults.Worst99.TotalMilliseconds,
                LongestMs = faults.Longest.TotalMilliseconds,
            },
            Forecast = record.Snapshot.Forecast is not { } forecast ? null : ToApi(forecast),
        };
        migration.Rounds.AddRange(snapshot.Rounds.Select(round => new Wire.Round
        {
            Number = (uint)round.Number,
            Pages = (ulong)round.Pages,
            Bytes = (ulong)round.WireBytes,
            Seconds = round.Duration.TotalSeconds,
            DirtyBytesPerSecond = round.DirtyBytesPerSecond,
            RateBitsPerSecond = round.RateBitsPerSecond,
            Coding = round.Coding,
        }));
        foreach (var (reason, bytes) in snapshot.SavedBytes)
        {
            migration.SavedBytes[reason] = (ulong)bytes;
        }

        var parts = snapshot.Parts;
        migration.BlackoutParts["last_round_ms"] = parts.LastRound.TotalMilliseconds;
        migration.BlackoutParts["device_state_ms"] = parts.DeviceState.TotalMilliseconds;
        migration.BlackoutParts["load_ms"] = parts.Load.TotalMilliseconds;
        migration.BlackoutParts["commit_ms"] = parts.Commit.TotalMilliseconds;
        migration.BlackoutParts["resume_ms"] = parts.Resume.TotalMilliseconds;
        migration.BlackoutParts["announcement_ms"] = parts.Announcement.TotalMilliseconds;
        return migration;
    }

    /// <summary>The source's report, as the destination keeps it.</summary>
    public static MigrationRecord FromApi(Wire.Migration migration, Guid guestUuid) => new(
        migration.Id, guestUuid, migration.Guest, migration.From, migration.To, ToPolicy(migration.Policy),
        DateTimeOffset.FromUnixTimeMilliseconds(migration.StartedUnixMs), migration.GuestRunsOn,
        new MigrationSnapshot
        {
            Phase = (MigrationPhase)migration.Phase,
            Outcome = (MigrationOutcome)migration.Outcome,
            ErrorCode = migration.ErrorCode,
            Error = migration.Error,
            Fraction = migration.Progress?.Fraction ?? 0,
            TotalBytes = (long)(migration.Progress?.TotalBytes ?? 0),
            RemainingBytes = (long)(migration.Progress?.RemainingBytes ?? 0),
            WireBytes = (long)migration.WireBytes,
            WireBytesPerSecond = migration.Progress?.WireBytesPerSecond ?? 0,
            DirtyBytesPerSecond = migration.Progress?.DirtyBytesPerSecond ?? 0,
            Verdict = migration.Progress?.Verdict ?? "",
            Rounds =
            [
                .. migration.Rounds.Select(round => new RoundReport(
                    (int)round.Number, (long)round.Pages, (long)round.Bytes, TimeSpan.FromSeconds(round.Seconds),
                    round.DirtyBytesPerSecond, (long)round.RateBitsPerSecond, round.Coding)),
            ],
            SavedBytes = migration.SavedBytes.ToDictionary(pair => pair.Key, pair => (long)pair.Value),
            Elapsed = TimeSpan.FromSeconds(migration.TotalSeconds),
            Downtime = TimeSpan.FromMilliseconds(migration.DowntimeMs),
            QemuDowntime = TimeSpan.FromMilliseconds(migration.QemuDowntimeMs),
            Parts = new BlackoutParts(
                Part(migration, "last_round_ms"), Part(migration, "device_state_ms"), Part(migration, "load_ms"),
                Part(migration, "commit_ms"), Part(migration, "resume_ms"), Part(migration, "announcement_ms")),
            SharedMemory = migration.MemoryBacking == "shared",
            DaemonCpuTime = TimeSpan.FromSeconds(migration.DaemonCpuSeconds),
            Method = migration.Method,
            Choice = migration.MethodReason,
            MayTurnToPostcopy = migration.MayTurnToPostcopy,
            StepsTaken = [.. migration.StepsTaken],
            ThrottlePercent = (int)migration.ThrottlePercent,
            ThrottledPercent = (int)migration.ThrottledPercent,
            Faults = migration.Faults is not { } faults ? null : new FaultReport(
                (long)faults.Count, TimeSpan.FromMilliseconds(faults.MeanMs),
                TimeSpan.FromMilliseconds(faults.MedianMs), TimeSpan.FromMilliseconds(faults.Worst99Ms),
                TimeSpan.FromMilliseconds(faults.LongestMs)),
            Forecast = migration.Forecast is not { } forecast ? null : new ForecastReport(
                (long)forecast.BytesLow, (long)forecast.BytesHigh, TimeSpan.FromSeconds(forecast.SecondsLow),
                TimeSpan.FromSeconds(forecast.SecondsHigh), TimeSpan.FromMilliseconds(forecast.DowntimeMsLow),
                TimeSpan.FromMilliseconds(forecast.DowntimeMsHigh)),
        });

    public static Wire.Forecast ToApi(ForecastReport forecast) => new()
    {
        BytesLow = (ulong)forecast.BytesLow,
        BytesHigh = (ulong)forecast.BytesHigh,
        SecondsLow = forecast.Fastest.TotalSeconds,
        SecondsHigh = forecast.Slowest.TotalSeconds,
        DowntimeMsLow = (uint)forecast.ShortestPause.TotalMilliseconds,
        DowntimeMsHigh = (uint)forecast.LongestPause.TotalMilliseconds,
    };

    private static TimeSpan Part(Wire.Migration migration, string name) =>
        TimeSpan.FromMilliseconds(migration.BlackoutParts.TryGetValue(name, out var value) ? value : 0);
}
