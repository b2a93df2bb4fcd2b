namespace Godwit.Migration.Convergence;

/// <summary>What a migration does when its rounds do not shrink any more.</summary>
public enum LadderAction
{
    /// <summary>Slow the guest's processors by as much as the model asks for, in percent at most.</summary>
    Throttle,
    /// <summary>Allow a pause of so many milliseconds, if that is more than was allowed.</summary>
    Pause,
    /// <summary>Let the guest run at the destination and bring the rest behind it.</summary>
    Postcopy,
    /// <summary>End the migration; the guest runs on where it was.</summary>
    Abort,
}

/// <summary>One rung: what is done, and when.</summary>
/// <param name="Value">Percent of <see cref="LadderAction.Throttle"/>, milliseconds of the pause; else 0.</param>
/// <param name="StalledRounds">Rounds in a row that have not shrunk before it is taken.</param>
public sealed record LadderStep(LadderAction Action, int Value, int StalledRounds = 2)
{
    /// <summary>As a person reads it.</summary>
    public string Text => Action switch
    {
        LadderAction.Throttle => $"slow the guest by up to {Value} %",
        LadderAction.Pause => $"allow a pause of {Value} ms",
        LadderAction.Postcopy => "turn to postcopy",
        _ => "give up",
    };
}

/// <summary>A named ladder: the steps that a migration climbs, in order, until it ends.</summary>
/// <param name="Steps">When the last has been taken and does not help, the migration ends as --on-stall says.</param>
public sealed record Ladder(string Name, string Description, IReadOnlyList<LadderStep> Steps)
{
    /// <summary>What a migration climbs that names none.</summary>
    public const string DefaultName = "default";

    /// <summary>Those that come with Godwit; a file of the host may replace them and add others.</summary>
    public static IReadOnlyList<Ladder> Shipped { get; } =
    [
        new(DefaultName, "Slow the guest by up to half if that is enough; else bring the rest after it.",
            [new(LadderAction.Throttle, 50), new(LadderAction.Postcopy, 0)]),
        new Ladder("gentle", "Never slow the guest at the source: bring the rest after it.",
            [new(LadderAction.Postcopy, 0)]),
        new Ladder("safe", "Never postcopy, which loses the guest with the source host: slow it as much as it takes.",
            [new(LadderAction.Throttle, 50), new(LadderAction.Throttle, 99, 3)]),
        new Ladder("strict", "Nothing but rounds, never postcopy: a guest that writes too fast stays where it is.", []),
        new Ladder("must-move", "Slow it, bring the rest after it, and where that cannot be, pause it for up to 10 s.",
            [new(LadderAction.Throttle, 80), new(LadderAction.Postcopy, 0), new(LadderAction.Pause, 10_000)]),
    ];

    /// <summary>Why the ladder makes no sense; null if it does.</summary>
    public string? Fault()
    {
        for (int i = 0; i < Steps.Count; i++)
        {
            LadderStep step = Steps[i];
            string? fault = step switch
            {
                { StalledRounds: < 1 or > 1000 } => $"waits for {step.StalledRounds} rounds; 1 to 1000 are possible",
                { Action: LadderAction.Throttle, Value: < 1 or > 99 } =>
                    $"slows the guest by {step.Value} %; 1 to 99 are possible",
                { Action: LadderAction.Pause, Value: < 1 or > 2_000_000 } =>
                    $"allows a pause of {step.Value} ms; 1 to 2000000 are possible",
                { Action: LadderAction.Postcopy or LadderAction.Abort, Value: not 0 } =>
                    $"has a value of {step.Value}, and {step.Text} takes none",
                _ => null,
            };
            if (fault is not null)
            {
                return $"step {i + 1} {fault}";
            }
        }

        return null;
    }
}
