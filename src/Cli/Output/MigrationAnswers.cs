using System.Text.Json.Nodes;
using Godwit.Api.V1;

namespace Godwit.Cli.Output;

/// <summary>Migrations as answers: the list, the whole of one, its report, and a plan.</summary>
internal static class MigrationAnswers
{
    public static Answer List(IReadOnlyList<Migration> migrations) => new()
    {
        Data = Json.Array(migrations.Select(Data)),
        Names = [.. migrations.Select(migration => migration.Id)],
        Text = wide => [new Table(
            wide
                ? ["ID", "GUEST", "FROM", "TO", "PHASE", "OUTCOME", "TOTAL", "WIRE", "PAUSE", "ROUNDS", "METHOD",
                    "MEMORY", "STARTED", "ERROR"]
                : ["ID", "GUEST", "FROM", "TO", "PHASE", "OUTCOME", "TOTAL", "WIRE", "PAUSE"],
            [.. migrations.Select(migration => Row(migration, wide))])],
    };

    public static Answer Show(Migration migration) => new()
    {
        Data = Data(migration),
        Names = [migration.Id],
        Text = wide => ReportText(migration, wide),
    };

    /// <summary>The report of one move, the object that the lab and the demo also print.</summary>
    public static Answer Report(Migration migration) => new()
    {
        Data = ReportData(migration),
        Names = [migration.Id],
        Text = wide => ReportText(migration, wide),
    };

    /// <summary>What a detached start answers: the id alone, ready for a script's variable.</summary>
    public static Answer Started(Migration migration) => new()
    {
        Data = Data(migration),
        Names = [migration.Id],
        Text = _ => [new Line(migration.Id)],
    };

    public static Answer Plan(string guest, string to, MigrationPlan plan) => new()
    {
        Data = new JsonObject
        {
            ["guest"] = guest,
            ["to"] = to,
            ["possible"] = plan.Possible,
            ["refusals"] = Json.Array(plan.Refusals.Select(refusal => (JsonNode)new JsonObject
            {
                ["code"] = refusal.Code,
                ["message"] = refusal.Message,
                ["remedy"] = refusal.Remedy,
            })),
            ["method"] = Json.Text(plan.Method),
            ["bytesLow"] = plan.BytesLow,
            ["bytesHigh"] = plan.BytesHigh,
            ["secondsLow"] = Json.Number(plan.SecondsLow),
            ["secondsHigh"] = Json.Number(plan.SecondsHigh),
            ["downtimeMsLow"] = plan.DowntimeMsLow,
            ["downtimeMsHigh"] = plan.DowntimeMsHigh,
            ["basis"] = Json.Text(plan.Basis),
            ["methodReason"] = Json.Text(plan.MethodReason),
            ["risk"] = Json.Text(plan.Risk),
            ["dirtyBytesPerSecond"] = plan.DirtyBytesPerSecond < 0 ? null : Json.Number(plan.DirtyBytesPerSecond),
            ["notes"] = Json.Array(plan.Notes.Select(note => (JsonNode)new JsonObject
            {
                ["code"] = note.Code,
                ["message"] = note.Message,
                ["remedy"] = note.Remedy,
            })),
        },
        Names = [guest],
        Text = wide => PlanText(guest, to, plan, wide),
    };

    /// <summary>Exactly the move's object that other programs build on; a field may be added, never changed.</summary>
    public static JsonObject ReportData(Migration migration) => new()
    {
        ["guest"] = migration.Guest,
        ["from"] = migration.From,
        ["to"] = migration.To,
        ["method"] = migration.Method,
        ["outcome"] = Json.Word(migration.Outcome),
        ["totalSeconds"] = Json.Number(migration.TotalSeconds),
        ["wireBytes"] = migration.WireBytes,
        ["downtimeMs"] = Json.Number(migration.DowntimeMs),
        // The daemon stands inside the hosts; only a client outside them can measure a blackout.
        ["blackoutMs"] = null,
        ["blackoutParts"] = new JsonObject(migration.BlackoutParts.OrderBy(part => PartOrder(part.Key))
            .ThenBy(part => part.Key, StringComparer.Ordinal)
            .Select(part => KeyValuePair.Create(Json.CamelCase(part.Key), (JsonNode?)Json.Number(part.Value)))),
        ["savedBytes"] = new JsonObject(migration.SavedBytes.OrderBy(saved => saved.Key, StringComparer.Ordinal)
            .Select(saved => KeyValuePair.Create(Json.CamelCase(saved.Key), (JsonNode?)JsonValue.Create(saved.Value)))),
        ["rounds"] = Json.Array(migration.Rounds.Select(round => (JsonNode)new JsonObject
        {
            ["pages"] = round.Pages,
            ["bytes"] = round.Bytes,
            ["seconds"] = Json.Number(round.Seconds),
            ["dirtyBytesPerSecond"] = Json.Number(round.DirtyBytesPerSecond),
            ["coding"] = Json.Text(round.Coding),
        })),
        ["methodReason"] = Json.Text(migration.MethodReason),
        ["mayTurnToPostcopy"] = migration.MayTurnToPostcopy,
        ["stepsTaken"] = Json.Array(migration.StepsTaken.Select(step => (JsonNode)JsonValue.Create(step))),
        ["throttlePercent"] = migration.ThrottlePercent,
        ["throttledPercent"] = migration.ThrottledPercent,
        ["faults"] = migration.Faults is not { } faults ? null : new JsonObject
        {
            ["count"] = faults.Count,
            ["meanMs"] = Json.Number(faults.MeanMs),
            ["medianMs"] = Json.Number(faults.MedianMs),
            ["worst99Ms"] = Json.Number(faults.Worst99Ms),
            ["longestMs"] = Json.Number(faults.LongestMs),
        },
        ["forecast"] = migration.Forecast is not { } forecast ? null : new JsonObject
        {
            ["bytesLow"] = forecast.BytesLow,
            ["bytesHigh"] = forecast.BytesHigh,
            ["secondsLow"] = Json.Number(forecast.SecondsLow),
            ["secondsHigh"] = Json.Number(forecast.SecondsHigh),
            ["downtimeMsLow"] = forecast.DowntimeMsLow,
            ["downtimeMsHigh"] = forecast.DowntimeMsHigh,
            ["bytesErrorPercent"] = ErrorPercent(
                forecast.BytesLow, forecast.BytesHigh, migration.WireBytes),
            ["secondsErrorPercent"] = ErrorPercent(
                forecast.SecondsLow, forecast.SecondsHigh, migration.TotalSeconds),
        },
    };

    // Of a move that is over: what the forecast was worth.
    private static string Errors(Migration migration) =>
        migration.Forecast is not { } forecast || migration.Outcome != MigrationOutcome.Completed ? ""
            : Units.Invariant($"{Error(forecast.BytesLow, forecast.BytesHigh, migration.WireBytes):0} % of the bytes, ")
                + Units.Invariant(
                    $"{Error(forecast.SecondsLow, forecast.SecondsHigh, migration.TotalSeconds):0} % of the time");

    private static double Error(double low, double high, double came) =>
        came <= 0 ? 0 : 100 * Math.Abs(((low + high) / 2) - came) / came;

    /// <summary>How far the middle of a forecast was from what came, in percent of what came.</summary>
    private static JsonNode? ErrorPercent(double low, double high, double came) =>
        came <= 0 ? null : Json.Number(Error(low, high, came));

    /// <summary>
    /// All that is known of a migration: the id, then the report's fields, then the state and the policy.
    /// </summary>
    public static JsonObject Data(Migration migration)
    {
        var data = new JsonObject { ["id"] = migration.Id };
        foreach (var (name, value) in ReportData(migration))
        {
            data[name] = value?.DeepClone();
        }

        var progress = migration.Progress ?? new Godwit.Api.V1.Progress();
        var policy = migration.Policy ?? new MigrationPolicy();
        data["phase"] = Json.Word(migration.Phase);
        data["errorCode"] = Json.Text(migration.ErrorCode);
        data["error"] = Json.Text(migration.Error);
        data["guestRunsOn"] = Json.Text(migration.GuestRunsOn);
        data["memory"] = Json.Text(migration.MemoryBacking);
        data["startedUnixMs"] = Json.UnixMs(migration.StartedUnixMs);
        data["qemuDowntimeMs"] = Json.Number(migration.QemuDowntimeMs);
        data["daemonCpuSeconds"] = Json.Number(migration.DaemonCpuSeconds);
        data["progress"] = new JsonObject
        {
            ["fraction"] = Json.Number(progress.Fraction),
            ["sentBytes"] = progress.SentBytes,
            ["remainingBytes"] = progress.RemainingBytes,
            ["totalBytes"] = progress.TotalBytes,
            ["wireBytesPerSecond"] = Json.Number(progress.WireBytesPerSecond),
            ["dirtyBytesPerSecond"] = Json.Number(progress.DirtyBytesPerSecond),
            ["expectedDowntimeMs"] = progress.ExpectedDowntimeMs,
            ["secondsLeft"] = progress.SecondsLeft < 0 ? null : Json.Number(progress.SecondsLeft),
            ["verdict"] = Json.Text(progress.Verdict),
            ["next"] = Json.Text(progress.Next),
        };
        data["policy"] = new JsonObject
        {
            ["method"] = Json.Word(policy.Method),
            ["ladder"] = Json.Text(policy.Ladder),
            ["maxDowntimeMs"] = policy.MaxDowntimeMs,
            ["bandwidthBitsPerSecond"] = policy.BandwidthBitsPerSecond,
            ["onStall"] = Json.Word(policy.OnStall),
            ["pacing"] = Json.Word(policy.Pacing),
            ["maxRounds"] = policy.MaxRounds,
            ["timeoutSeconds"] = policy.TimeoutSeconds,
            ["compression"] = !policy.NoCompression,
            ["cores"] = Json.Number(policy.Cores),
        };
        return data;
    }

    /// <summary>Where the guest runs now, as a sentence; never silent about not knowing.</summary>
    public static string WhereItRuns(Migration migration) => migration.GuestRunsOn.Length > 0
        ? $"{migration.Guest} runs on {migration.GuestRunsOn}."
        : migration.Outcome switch
        {
            MigrationOutcome.Completed => $"{migration.Guest} runs on {migration.To}.",
            MigrationOutcome.Unsettled =>
                $"It is not proved whether {migration.Guest} runs on {migration.From} or {migration.To}.",
            _ when migration.ErrorCode == "guest-lost" => $"{migration.Guest} runs nowhere.",
            _ => $"{migration.Guest} runs on {migration.From}.",
        };

    private static List<string> Row(Migration migration, bool wide)
    {
        bool paused = migration.Phase > MigrationPhase.Switchover;
        List<string> row =
        [
            migration.Id, migration.Guest, migration.From, migration.To, Json.Word(migration.Phase),
            Json.Word(migration.Outcome), Units.Duration(migration.TotalSeconds),
            Units.Bytes(migration.WireBytes, wide),
            paused && migration.DowntimeMs > 0 ? Units.Pause(migration.DowntimeMs) : "-",
        ];
        if (wide)
        {
            row.AddRange(
            [
                Units.Invariant($"{migration.Rounds.Count}"), migration.Method, migration.MemoryBacking,
                migration.StartedUnixMs == 0 ? "-" : Json.LocalTime(migration.StartedUnixMs),
                migration.ErrorCode.Length == 0 ? "-" : migration.ErrorCode,
            ]);
        }

        return row;
    }

    private static IEnumerable<TextBlock> ReportText(Migration migration, bool wide)
    {
        var policy = migration.Policy ?? new MigrationPolicy();
        uint budget = policy.MaxDowntimeMs == 0 ? 300 : policy.MaxDowntimeMs;
        double saved = migration.SavedBytes.Values.Sum(bytes => (double)bytes);
        string parts = string.Join(", ", migration.SavedBytes.Where(part => part.Value > 0)
            .OrderByDescending(part => part.Value)
            .ThenBy(part => part.Key, StringComparer.Ordinal)
            .Select(part => $"{part.Key} {Units.Bytes(part.Value)}"));
        string pause = string.Join(", ", migration.BlackoutParts
            .OrderBy(part => PartOrder(part.Key))
            .ThenBy(part => part.Key, StringComparer.Ordinal)
            .Select(part => $"{PartName(part.Key)} {Units.Pause(part.Value)}"));
        string cap = policy.BandwidthBitsPerSecond == 0
            ? "no bandwidth cap"
            : Units.BitsPerSecond(policy.BandwidthBitsPerSecond, wide);
        string runsOn = migration.GuestRunsOn.Length > 0
            ? migration.GuestRunsOn
            : migration.Outcome switch
            {
                MigrationOutcome.Completed => migration.To,
                MigrationOutcome.Unsettled => "not proved",
                _ when migration.ErrorCode == "guest-lost" => "nowhere",
                MigrationOutcome.Pending => "",
                _ => migration.From,
            };
        yield return new Fields(
        [
            ("migration", migration.Id),
            ("guest", migration.Guest),
            ("route", $"{migration.From} to {migration.To}"),
            ("method", migration.MemoryBacking.Length == 0
                ? migration.Method
                : $"{migration.Method}, memory {migration.MemoryBacking}"),
            ("because", migration.MethodReason),
            ("phase", migration.Phase == MigrationPhase.Ended ? "" : Json.Word(migration.Phase)),
            ("outcome", Json.Word(migration.Outcome)),
            ("error", migration.ErrorCode),
            ("", migration.Error),
            ("runs on", runsOn),
            ("started", Json.LocalTime(migration.StartedUnixMs)),
            ("total", Units.Duration(migration.TotalSeconds)),
            ("on the wire", Units.Bytes(migration.WireBytes, wide)),
            ("saved", saved == 0 ? "" : $"{Units.Bytes(saved, wide)}: {parts}"),
            ("pause", migration.DowntimeMs > 0
                ? Units.Invariant($"{Units.Pause(migration.DowntimeMs)} of {budget} ms allowed")
                : ""),
            ("pause parts", migration.DowntimeMs > 0 ? pause : ""),
            ("faults", migration.Faults is { Count: > 0 } faults
                ? Units.Invariant($"{faults.Count}, mean {Units.Pause(faults.MeanMs)}, ")
                    + $"99 % within {Units.Pause(faults.Worst99Ms)}, longest {Units.Pause(faults.LongestMs)}"
                : ""),
            ("slowed", migration.ThrottlePercent > 0
                ? Units.Invariant($"by {migration.ThrottledPercent} % of its processor time at most; ")
                    + Units.Invariant($"{migration.ThrottlePercent} % were allowed") : ""),
            .. migration.StepsTaken.Select((step, index) => (index == 0 ? "steps" : "", step)),
            ("forecast", migration.Forecast is { } forecast
                ? $"{Range(Units.Bytes(forecast.BytesLow, wide), Units.Bytes(forecast.BytesHigh, wide))}, "
                    + $"{Range(Units.Duration(forecast.SecondsLow), Units.Duration(forecast.SecondsHigh))}, pause "
                    + Range(Units.Pause(forecast.DowntimeMsLow), Units.Pause(forecast.DowntimeMsHigh))
                : ""),
            ("off by", Errors(migration)),
            ("next", migration.Progress?.Next ?? ""),
            ("policy", $"{(policy.Ladder.Length > 0 ? $"{policy.Ladder}, " : "")}method {Json.Word(policy.Method)}, "
                + $"{Json.Word(policy.Pacing)} pacing, {cap}, on stall {Json.Word(policy.OnStall)}"),
            ("coding", migration.Rounds.LastOrDefault()?.Coding ?? ""),
            ("daemon CPU", migration.DaemonCpuSeconds > 0 ? Units.Duration(migration.DaemonCpuSeconds) : ""),
        ]);
        if (migration.Rounds.Count > 0)
        {
            yield return new Table(
                ["ROUND", "PAGES", "WIRE", "TIME", "DIRTY RATE", "LIMIT", "CODING"],
                [.. migration.Rounds.Select(round => (IReadOnlyList<string>)
                [
                    Units.Invariant($"{round.Number}"), Units.Invariant($"{round.Pages}"),
                    Units.Bytes(round.Bytes, wide), Units.Duration(round.Seconds),
                    Units.BytesPerSecond(round.DirtyBytesPerSecond, wide),
                    round.RateBitsPerSecond > 0 ? Units.BitsPerSecond(round.RateBitsPerSecond, wide) : "-",
                    round.Coding.Split(':')[0] is { Length: > 0 } choice ? choice : "-",
                ])]);
        }
    }

    private static IEnumerable<TextBlock> PlanText(string guest, string to, MigrationPlan plan, bool wide)
    {
        yield return new Line(plan.Possible
            ? $"{guest} can move to {to}."
            : $"{guest} cannot move to {to}: {plan.Refusals.Count} reason{(plan.Refusals.Count == 1 ? "" : "s")}.");
        foreach (var refusal in plan.Refusals)
        {
            yield return new Line($"  {refusal.Code}: {refusal.Message}");
            if (refusal.Remedy.Length > 0)
            {
                yield return new Line($"    {refusal.Remedy}");
            }
        }

        foreach (var note in plan.Notes)
        {
            yield return new Line($"  without postcopy: {note.Code}: {note.Message}");
        }

        if (plan.BytesHigh > 0)
        {
            yield return new Fields(
            [
                ("method", plan.Method),
                ("because", plan.MethodReason),
                ("on the wire", Range(Units.Bytes(plan.BytesLow, wide), Units.Bytes(plan.BytesHigh, wide))),
                ("time", Range(Units.Duration(plan.SecondsLow), Units.Duration(plan.SecondsHigh))),
                ("pause", Range(Units.Pause(plan.DowntimeMsLow), Units.Pause(plan.DowntimeMsHigh))),
                ("rests on", plan.Basis),
                ("risk", plan.Risk),
            ]);
        }
    }

    private static string Range(string low, string high) => low == high ? low : $"{low} to {high}";

    private static string PartName(string key) =>
        (key.EndsWith("_ms", StringComparison.Ordinal) ? key[..^3] : key).Replace('_', ' ');

    // In the order in which they pass, which is how a person reads where the pause went.
    private static int PartOrder(string key) => key switch
    {
        "last_round_ms" => 0,
        "device_state_ms" => 1,
        "load_ms" => 2,
        "commit_ms" => 3,
        "resume_ms" => 4,
        "announcement_ms" => 5,
        _ => 6,
    };
}
