using System.Runtime.CompilerServices;
using Godwit.Lab.Network;
using Godwit.Lab.Scenarios;

// One lab, two cores: what is measured must not share them with another test.
[assembly: CollectionBehavior(CollectionBehavior.CollectionPerAssembly)]

namespace Godwit.EndToEnd.Tests;

/// <summary>A lab of the tests' own name, so that a demo may run beside them.</summary>
internal static class LabForTests
{
    // A guest that cannot be paused within its budget stays where it is, and rightly so. Where others have the
    // processors a hand-over takes seconds: no test may turn on that.
    private const uint PauseMaxMs = 10_000;

    internal static LinkShape Gigabit { get; } = new(1_000_000_000, TimeSpan.Zero);

    [ModuleInitializer]
    internal static void NameIt() => Environment.SetEnvironmentVariable("GODWIT_LAB", "test");

    internal static LabResult Play(string scenario, LinkShape? shape = null)
    {
        SkipWithoutTheMeans();
        LabResult result = ScenarioRun.Perform(
            Scenario.Named(scenario), shape ?? Gigabit, new Lab.Display(json: true), out _, pauseMaxMs: PauseMaxMs);
        TestContext.Current.TestOutputHelper?.WriteLine(ResultText.Write(result));
        return result;
    }

    internal static void SkipWithoutTheMeans()
    {
        Assert.SkipUnless(Environment.UserName == "root", "needs root for network namespaces and TAP devices");
        Assert.SkipUnless(File.Exists("/dev/net/tun"), "needs /dev/net/tun");
    }
}
