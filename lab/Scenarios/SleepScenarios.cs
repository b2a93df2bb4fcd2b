using Godwit.Api.V1;
using Godwit.Lab.Daemons;
using Godwit.Lab.Qemu;

namespace Godwit.Lab.Scenarios;

/// <summary>Guests that are put to sleep in a store on one host and woken on another one.</summary>
internal static class SleepScenarios
{
    // What a second suspend, or a resume where the guest was before, may bring.
    private const double ShareMax = 0.05;

    internal static IEnumerable<Scenario> All { get; } =
    [
        new("sleep", "A guest under load sleeps in a store, wakes on b, sleeps and wakes on a",
            run => ThereAndBack(run, GuestLoad.Text, TimeSpan.FromSeconds(3))),
        new("sleep-server", "The same with a server, after a minute of light use each time",
            run => ThereAndBack(run, GuestLoad.Server, TimeSpan.FromMinutes(1), mustBeSmall: true)),
        new("sleep-lazy", "A guest under load sleeps on a and runs on b before its memory has arrived",
            run => Lazily(run, GuestLoad.Text)),
        new("sleep-hoard", "Host b fetches ahead what a guest needs that sleeps on a; then the guest wakes there",
            Hoarded),
        new("checkpoint", "A guest under load is kept in a store while it runs, twice", run =>
            Checkpoint(run, GuestLoad.Text)),
        new("checkpoint-disk-1g", "The same with a disk of 1 GiB of data", run => Checkpoint(run, GuestLoad.Text, 1)),
        new("checkpoint-disk-8g", "The same with a disk of 8 GiB of data", run => Checkpoint(run, GuestLoad.Text, 8)),
    ];

    internal static void ThereAndBack(ScenarioRun run, GuestLoad load, TimeSpan awake, bool mustBeSmall = false)
    {
        (LabGuest guest, long written) = Begin(run, load);
        run.Pause(TimeSpan.FromSeconds(1));
        MoveResult first = guest.Suspend();
        run.Expect(guest.On("a") is { State: GuestState.Suspended }, "the guest does not sleep on a");
        guest.Resume("b");
        guest.ExpectRunningOnlyOn("b");
        run.Pause(awake);
        MoveResult second = guest.Suspend();
        MoveResult back = guest.Resume("a");
        guest.ExpectRunningOnlyOn("a");
        double suspended = (double)second.WireBytes / first.WireBytes;
        run.Display.Line($"  the second suspend wrote {suspended:P1} of the first");
        if (mustBeSmall)
        {
            long whole = (long)load.MemoryMegabytes << 20;
            run.Expect(
                suspended <= ShareMax, $"the second suspend wrote {suspended:P1} of the first; {ShareMax:P0} may");
            run.Display.Line($"  {(double)back.WireBytes / whole:P1} of the memory was fetched");
        }

        run.Verify(guest.Agent, written);
    }

    private static void Lazily(ScenarioRun run, GuestLoad load)
    {
        (LabGuest guest, long written) = Begin(run, load);
        run.Pause(TimeSpan.FromSeconds(1));
        guest.Suspend();
        guest.Resume("b", lazy: true);
        guest.ExpectRunningOnlyOn("b");
        long began = System.Diagnostics.Stopwatch.GetTimestamp();
        Wait.Until(
            () => guest.On("b") is { MigrationId: "" }, TimeSpan.FromMinutes(10), "the rest of the memory",
            run.Stopped);
        run.Display.Line(
            $"  all of it was there {System.Diagnostics.Stopwatch.GetElapsedTime(began).TotalSeconds:0.0} s later");
        run.Verify(guest.Agent, written);
    }

    private static void Hoarded(ScenarioRun run)
    {
        (LabGuest guest, long written) = Begin(run, GuestLoad.Text);
        run.Pause(TimeSpan.FromSeconds(1));
        guest.Suspend();
        HoardProgress hoard = guest.Hoard("b");
        run.Expect(hoard.HoardedBytes > 0, "nothing was hoarded");
        MoveResult resumed = guest.Resume("b");
        guest.ExpectRunningOnlyOn("b");
        run.Expect(
            resumed.WireBytes <= (long)hoard.FetchedBytes / 100,
            $"the resume fetched {ResultText.Bytes(resumed.WireBytes)} of what was hoarded");
        run.Verify(guest.Agent, written);
    }

    private static void Checkpoint(ScenarioRun run, GuestLoad load, int diskGibibytes = 0)
    {
        (LabGuest guest, long written) = Begin(run, load, diskGibibytes);
        guest.Suspend(keepRunning: true);
        run.Pause(TimeSpan.FromSeconds(2));
        guest.Suspend(keepRunning: true);
        guest.ExpectRunningOnlyOn("a");
        run.Verify(guest.Agent, written);
    }

    private static (LabGuest Guest, long Written) Begin(
        ScenarioRun run, GuestLoad load, int diskGibibytes = 0)
    {
        LabDaemons daemons = run.Own(LabDaemons.Start());
        LabGuest guest = LabGuest.Boot(run, daemons, load.Shape, MemoryBacking.Shared, diskGibibytes);
        LabGuest.MakeStore(daemons);
        load.Begin(run, guest.Agent);
        return (guest, guest.Agent.PagesWritten());
    }
}
