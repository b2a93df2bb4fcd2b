using Godwit.Api.V1;
using Godwit.Lab.Daemons;
using Godwit.Lab.Outside;
using Godwit.Lab.Qemu;

namespace Godwit.Lab.Scenarios;

/// <summary>
/// A real server in the guest: Redis from Debian's packages, written to by the client during the move.
/// </summary>
internal static class RedisScenario
{
    internal static Scenario Scenario { get; } =
        new("redis", "Redis under load from the client; every acknowledged write is there after the move", Play);

    // Fewer prove nothing.
    private const int WritesMin = 100;

    private static void Play(ScenarioRun run)
    {
        LabDaemons daemons = run.Own(LabDaemons.Start());
        GuestShape shape = new(1, 256, 1, Redis: "everysec");
        LabGuest guest = LabGuest.Boot(run, daemons, shape, MemoryBacking.Shared);
        RedisWriter writer = run.Own(new RedisWriter(guest.Shape.Address, run.Stopped));
        OutsideClient client = run.Own(OutsideClient.Start(guest.Shape.Address));
        DateTime start = DateTime.UtcNow;
        long written = guest.Agent.PagesWritten();
        writer.Start();
        MoveResult move = guest.Move("b", client, new MigrationPolicy());
        run.Expect(move.Outcome == "completed", $"the move ended as \"{move.Outcome}\": {move.Error}");
        Wait.Until(
            () => writer.Acknowledged > WritesMin, TimeSpan.FromMinutes(3), $"more than {WritesMin} writes",
            run.Stopped);
        long acknowledged = writer.Finish();
        (int missing, int looked) = writer.Compare();
        run.Display.Line(
            $"  redis: {acknowledged} writes acknowledged during the run, "
            + $"{looked} keys read back, {missing} missing or old");
        run.Expect(missing == 0, $"{missing} acknowledged writes are not there after the move");
        client.Finish();
        run.Judge(client.Report(start, DateTime.UtcNow));
        run.Verify(guest.Agent, written);
    }
}
