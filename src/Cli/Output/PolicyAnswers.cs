using System.Text.Json.Nodes;
using Godwit.Api.V1;

namespace Godwit.Cli.Output;

/// <summary>Policies as answers.</summary>
internal static class PolicyAnswers
{
    public static Answer List(IReadOnlyList<Policy> policies) => new()
    {
        Data = Json.Array(policies.Select(Data)),
        Names = [.. policies.Select(policy => policy.Name)],
        Text = wide => [new Table(
            wide ? ["NAME", "DOES", "FROM"] : ["NAME", "DOES"],
            [.. policies.Select(policy => (IReadOnlyList<string>)
                (wide ? [policy.Name, policy.Description, policy.Origin] : [policy.Name, policy.Description]))])],
    };

    public static Answer Show(Policy policy) => new()
    {
        Data = Data(policy),
        Names = [policy.Name],
        Text = _ =>
        [
            new Fields([("policy", policy.Name), ("does", policy.Description), ("from", policy.Origin)]),
            new Table(
                ["STEP", "AFTER", "DOES"],
                [.. policy.Steps.Select((step, index) => (IReadOnlyList<string>)
                    [Units.Invariant($"{index + 1}"), After(step), Does(step)]),
                    [Units.Invariant($"{policy.Steps.Count + 1}"), "-", "end as --on-stall says"]]),
        ],
    };

    private static JsonObject Data(Policy policy) => new()
    {
        ["name"] = policy.Name,
        ["description"] = policy.Description,
        ["origin"] = policy.Origin,
        ["steps"] = Json.Array(policy.Steps.Select(step => (JsonNode)new JsonObject
        {
            ["do"] = step.Action,
            ["value"] = step.Value,
            ["after"] = step.StalledRounds,
        })),
    };

    private static string After(LadderStep step) =>
        Units.Invariant($"{step.StalledRounds} round{(step.StalledRounds == 1 ? "" : "s")} that did not shrink");

    private static string Does(LadderStep step) => step.Action switch
    {
        "throttle" => Units.Invariant($"slow the guest by as much as is needed, {step.Value} % at most"),
        "pause" => Units.Invariant($"allow a pause of {step.Value} ms"),
        "postcopy" => "let the guest run at the destination, and bring the rest behind it",
        "abort" => "leave the guest where it is",
        _ => step.Action,
    };
}
