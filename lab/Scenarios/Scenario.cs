using Godwit.Lab.Faults;

namespace Godwit.Lab.Scenarios;

/// <summary>Something the lab can play and judge.</summary>
/// <param name="Play">Plays it in a lab that is up; failures go into the run.</param>
/// <param name="NeedsRelay">It interferes with the link, which takes the relay even when no delay is asked for.</param>
internal sealed record Scenario(string Name, string Summary, Action<ScenarioRun> Play, bool NeedsRelay = false)
{
    internal static IReadOnlyList<Scenario> All { get; } =
        [.. MoveScenarios.All, .. InventoryScenarios.All, .. SleepScenarios.All, .. InterferenceScenarios.All,
            .. ConvergenceScenarios.All, RedisScenario.Scenario, .. FaultMatrix.Scenarios, .. StockScenario.All];

    /// <exception cref="LabException">There is none of that name.</exception>
    internal static Scenario Named(string name) =>
        All.FirstOrDefault(scenario => scenario.Name == name)
        ?? throw new LabException(
            $"There is no scenario \"{name}\". There are: {string.Join(", ", All.Select(scenario => scenario.Name))}.");
}
