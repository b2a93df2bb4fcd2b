using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Godwit.Migration;
using Godwit.Migration.Convergence;

namespace Godwit.Daemon.Moves;

/// <summary>What this host's file of policies says: ladders, and how much of the link moves may take.</summary>
/// <remarks>It is read again for every question, so that a change needs no restart. docs/cli.md shows one.</remarks>
internal sealed class LadderBook(DaemonSettings settings)
{
    private const int FileBytesMax = 1 << 20;

    /// <param name="Origin">"shipped", or the path of the file.</param>
    public sealed record Entry(Ladder Ladder, string Origin);

    /// <param name="From">Time of day, this host's, at which it begins to hold.</param>
    /// <param name="To">Time of day at which it ends; earlier than the beginning if that is on the next day.</param>
    public sealed record Rate(TimeOnly From, TimeOnly To, long BitsPerSecond);

    /// <summary>Every ladder: those of the file, then the shipped ones that it does not replace.</summary>
    /// <exception cref="GodwitException"><c>policy-invalid</c>.</exception>
    public IReadOnlyList<Entry> List()
    {
        var own = Read()?["policies"] is JsonArray array ? array.Select(ToLadder).ToList() : [];
        return
        [
            .. own.Select(ladder => new Entry(ladder, settings.PoliciesFile)),
            .. Ladder.Shipped.Where(shipped => own.All(one => one.Name != shipped.Name))
                .Select(shipped => new Entry(shipped, "shipped")),
        ];
    }

    /// <summary>The policy with the steps of the ladder that it names.</summary>
    /// <exception cref="GodwitException">
    /// <c>policy-unknown</c>, <c>policy-invalid</c>; <c>policy-forbids</c>: the method that is asked for is one that
    /// the ladder leaves out.
    /// </exception>
    public MigrationPolicy Resolve(MigrationPolicy policy)
    {
        var name = policy.Ladder.Length > 0 ? policy.Ladder : Ladder.DefaultName;
        var all = List();
        var ladder = all.FirstOrDefault(entry => entry.Ladder.Name == name)?.Ladder
            ?? throw new GodwitException("policy-unknown", $"Host '{settings.HostName}' knows no policy '{name}'.",
                $"It knows {string.Join(", ", all.Select(entry => entry.Ladder.Name))}: 'godwit policy list'.");
        var isForced = policy.Method is MigrationMethod.Postcopy or MigrationMethod.Hybrid;
        if (isForced && policy.Ladder.Length > 0 && ladder.Steps.All(step => step.Action != LadderAction.Postcopy))
        {
            throw new GodwitException("policy-forbids",
                $"The policy '{name}' has no step 'postcopy': it does not want a guest to be lost with its source "
                + $"host, and --method {policy.Method.ToString().ToLowerInvariant()} would allow that.",
                "Leave out one of the two, or choose another policy: 'godwit policy list'.");
        }

        return policy with { Ladder = name, Steps = ladder.Steps };
    }

    /// <summary>What all moves of this host together may take at a time of day; 0 for no cap.</summary>
    /// <exception cref="GodwitException"><c>policy-invalid</c>.</exception>
    public long BandwidthAt(TimeOnly time)
    {
        var file = Read();
        var rates = file?["rates"] is JsonArray array ? array.Select(ToRate) : [];
        var rate = rates.FirstOrDefault(one => one.From <= one.To
            ? time >= one.From && time < one.To : time >= one.From || time < one.To);
        return rate?.BitsPerSecond ?? (file?["bandwidth"] is { } value ? ToBits(value) : 0);
    }

    private JsonNode? Read()
    {
        try
        {
            if (new FileInfo(settings.PoliciesFile) is not { Exists: true } file)
            {
                return null;
            }

            return file.Length > FileBytesMax
                ? throw Invalid($"it has {file.Length} bytes; {FileBytesMax} are read at most")
                : JsonNode.Parse(File.ReadAllText(settings.PoliciesFile), null, new JsonDocumentOptions
                {
                    CommentHandling = JsonCommentHandling.Skip, AllowTrailingCommas = true,
                    // Of two the last would hold, or reading it fail, by luck.
                    AllowDuplicateProperties = false,
                }) as JsonObject ?? throw Invalid("it is not one JSON object");
        }
        catch (Exception exception) when (exception is JsonException or IOException or UnauthorizedAccessException)
        {
            throw Invalid(exception.Message.TrimEnd('.'));
        }
    }

    private Ladder ToLadder(JsonNode? node)
    {
        var name = Text(node, "name") ?? throw Invalid("a policy has no name");
        var steps = node?["steps"] is JsonArray array ? array.Select(step => ToStep(name, step)).ToList() : [];
        var ladder = new Ladder(name, Text(node, "description") ?? "", steps);
        return ladder.Fault() is { } fault ? throw Invalid($"policy '{name}': {fault}") : ladder;
    }

    private LadderStep ToStep(string policy, JsonNode? node)
    {
        var action = Text(node, "do");
        return Enum.TryParse<LadderAction>(action, ignoreCase: true, out var known) && !char.IsDigit(action![0])
            ? new LadderStep(known, Number(node, "value") ?? 0, Number(node, "after") ?? 2)
            : throw Invalid($"policy '{policy}' has a step '{action}'; throttle, pause, postcopy and abort are known");
    }

    private Rate ToRate(JsonNode? node) =>
        TimeOnly.TryParse(Text(node, "from"), CultureInfo.InvariantCulture, out var from)
        && TimeOnly.TryParse(Text(node, "to"), CultureInfo.InvariantCulture, out var to)
            ? new Rate(from, to, ToBits(node?["bandwidth"]))
            : throw Invalid($"a rate holds from '{Text(node, "from")}' to '{Text(node, "to")}'; both are like 08:30");

    private long ToBits(JsonNode? node)
    {
        var text = node?.ToString() ?? "";
        foreach (var (suffix, factor) in ((string, double)[])[("Gbit", 1e9), ("Mbit", 1e6), ("kbit", 1e3)])
        {
            if (text.EndsWith(suffix, StringComparison.OrdinalIgnoreCase)
                && double.TryParse(text[..^4], NumberStyles.Float, CultureInfo.InvariantCulture, out var number)
                && number is > 0 and < 1e6)
            {
                return (long)(number * factor);
            }
        }

        throw Invalid($"a bandwidth of '{text}'; write it like 200Mbit");
    }

    private static string? Text(JsonNode? node, string key) =>
        node is JsonObject && node[key] is JsonValue value && value.TryGetValue(out string? text) ? text : null;

    private int? Number(JsonNode? node, string key) => node?[key] is not { } value ? null
        : value is JsonValue number && number.TryGetValue(out int whole) ? whole
        : throw Invalid($"'{key}' is '{value}', not a whole number");

    private GodwitException Invalid(string why) => new("policy-invalid",
        $"The file of policies {settings.PoliciesFile} cannot be used: {why}.",
        "Correct it, or move it away: without it the shipped policies hold ('godwit policy show default').");
}
