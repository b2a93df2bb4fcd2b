namespace Godwit.Fuzz.Tests.Targets;

/// <summary>What a target promises about inputs that it accepts.</summary>
internal static class Require
{
    public static void That(bool holds, string what)
    {
        if (!holds)
        {
            throw new InvalidOperationException($"A promise is broken: {what}.");
        }
    }
}
