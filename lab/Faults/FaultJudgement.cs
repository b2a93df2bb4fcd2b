using System.Diagnostics;
using Godwit.Api.V1;
using Godwit.Lab.Daemons;
using Godwit.Lab.Network;
using Godwit.Lab.Outside;
using Godwit.Lab.Scenarios;
using Grpc.Core;

namespace Godwit.Lab.Faults;

/// <summary>What is true after a strike, and whether it may be.</summary>
internal sealed class FaultJudgement(FaultStage stage, FaultCell cell, DateTime struck)
{
    private static readonly TimeSpan _endingMax = TimeSpan.FromMinutes(3);
    private readonly string _source = stage.Source;
    private readonly string _destination = stage.Destination;
    private IReadOnlyList<FaultOutcome> _allowed = cell.Allowed;

    internal DateTime Struck => struck;

    internal double? DeathReportedMs { get; private set; }

    private ScenarioRun Run => stage.Run;

    private LabGuest Guest => stage.Guest;

    /// <summary>Lets time pass, with an eye on the daemons that live.</summary>
    internal void Watch(TimeSpan span)
    {
        long began = Stopwatch.GetTimestamp();
        do
        {
            Look();
            Run.Pause(TimeSpan.FromMilliseconds(10));
        }
        while (Stopwatch.GetElapsedTime(began) < span);
    }

    /// <summary>Waits until neither daemon has anything left to do; what each of them says of the guest then.</summary>
    /// <exception cref="LabException">They do not come to an end.</exception>
    internal IReadOnlyDictionary<string, Guest?> AwaitSettlement(TimeSpan patience)
    {
        IReadOnlyDictionary<string, Guest?> seen = Look();
        try
        {
            Wait.Until(() => IsSettled(seen = Look()), patience, "the move to be settled", Run.Stopped);
        }
        catch (LabException e)
        {
            throw new LabException($"{e.Message} {Describe(seen)}.", e);
        }

        return seen;
    }

    /// <summary>Whether neither daemon has anything left to do.</summary>
    internal bool IsSettled() => IsSettled(Look());

    internal FaultOutcome Outcome(IReadOnlyDictionary<string, Guest?> seen)
    {
        bool Runs(string host) => seen[host] is { State: GuestState.Running };
        return (Runs(_source), Runs(_destination)) switch
        {
            (true, false) => FaultOutcome.RunsOnSource,
            (false, true) => FaultOutcome.RunsOnDestination,
            (false, false) when seen.Values.Any(one => one is { State: GuestState.Failed }) => FaultOutcome.Died,
            _ => FaultOutcome.Unknown,
        };
    }

    /// <summary>Takes an outcome as allowed, whatever the cell says.</summary>
    internal FaultOutcome Accept(FaultOutcome outcome)
    {
        _allowed = [outcome];
        return outcome;
    }

    /// <summary>One host has the guest, and one QEMU is there or, of a guest that died, none.</summary>
    /// <returns>The host that has it, after a death that on which it is started again.</returns>
    internal string JudgePlace(IReadOnlyDictionary<string, Guest?> seen, FaultOutcome outcome)
    {
        Run.Display.Line($"  {Describe(seen)}");
        if (outcome == FaultOutcome.Unknown)
        {
            throw new LabException($"The guest is not in one place: {Describe(seen)}.");
        }

        Run.Expect(
            _allowed.Contains(outcome), $"{outcome} is not among what may be: {string.Join(", ", _allowed)}");
        GuestState state = outcome == FaultOutcome.Died ? GuestState.Failed : GuestState.Running;
        string host = LabNetwork.Hosts.First(each => seen[each]?.State == state);
        string other = LabNetwork.Hosts.Single(each => each != host);
        Run.Expect(
            seen[other] is null or { State: GuestState.Elsewhere },
            $"the other host does not say that the guest is elsewhere: {Describe(seen)}");
        int wanted = outcome == FaultOutcome.Died ? 0 : 1;
        int qemus = 0;
        try
        {
            // What is being ended now may take a moment.
            Wait.Until(
                () => (qemus = LabNetwork.Hosts.Sum(each => FaultPlay.QemusOf(each).Count())) == wanted,
                _endingMax, $"{wanted} QEMUs to be left", Run.Stopped);
        }
        catch (LabException e)
        {
            throw new LabException($"{qemus} QEMUs are there; there should be {wanted}. {Describe(seen)}.", e);
        }

        if (outcome == FaultOutcome.Died)
        {
            JudgeDeath(seen[host]!, host, other);
        }

        return host;
    }

    /// <summary>Every acknowledged write is there, memory and disk are whole, and no connection was lost.</summary>
    /// <param name="died">It was started again from its disk, and remembers what had reached it.</param>
    /// <returns>Keys whose last acknowledged value is not there.</returns>
    internal int JudgeGuest(bool died, string host, ClientReport report, long pagesWritten)
    {
        if (died)
        {
            stage.TakeUpAgain();
            pagesWritten = 0;
        }
        else
        {
            Run.Expect(report.ConnectionsLost == 0, report.Losses);
        }

        Run.Expect(
            report.RepliesDuplicated == 0, $"{report.RepliesDuplicated} replies came twice: two copies answered");
        (int missing, int looked) = stage.Writer.Compare();
        Run.Expect(looked > 0, "no write was ever acknowledged: that proves nothing");
        Run.Expect(missing == 0, $"{missing} of {looked} acknowledged writes are not there on {host}");
        Run.Verify(Guest.Agent, pagesWritten);
        return missing;
    }

    /// <summary>Nothing is there that belongs to no running guest.</summary>
    internal void JudgeLeftOvers(string host)
    {
        // What is being ended now may take a moment, and what is kept of its memory is read when nobody else reads.
        string[] left = [];
        long began = Stopwatch.GetTimestamp();
        do
        {
            Run.Pause(TimeSpan.FromMilliseconds(left.Length > 0 ? 100 : 0));
            left = [.. LeftOvers.Find(host, each => Guest.On(each) is not null)];
        }
        while (left.Length > 0 && Stopwatch.GetElapsedTime(began) < _endingMax);

        foreach (string thing in left)
        {
            Run.Fail($"left over: {thing}");
        }
    }

    private void JudgeDeath(Guest guest, string host, string other)
    {
        Run.Expect(guest.Detail.Length > 0, $"host {host} does not say what the guest died of");
        (int status, string shown, _) = Tool.Try(
            LabDaemons.Program("Cli", "godwit"), "vm", "show", Guest.Name, "--socket", LabDaemons.SocketOf(host));
        Run.Expect(
            status == 0 && shown.Contains("failed", StringComparison.OrdinalIgnoreCase),
            $"'vm show' ({status}) does not say that it failed: {shown}");
        CheckFileSystem();
        try
        {
            stage.Daemons[other].StartGuest(new StartGuestRequest { Name = Guest.Name });
            Run.Fail($"host {other} started a guest that belongs to {host}");
        }
        catch (RpcException e) when (e.StatusCode is StatusCode.NotFound or StatusCode.FailedPrecondition)
        {
            Run.Display.Line($"  {other} refuses to start it: {e.Status.Detail}");
        }

        stage.Daemons[host].StartGuest(new StartGuestRequest { Name = Guest.Name });
    }

    /// <summary>What the guest had on its disk makes a file system, once its journal is replayed.</summary>
    private void CheckFileSystem()
    {
        string copy = stage.Disk + ".check";
        try
        {
            Tool.Run("cp", "--sparse=always", stage.Disk, copy);
            // The journal is replayed as a mount would; then not one complaint is allowed.
            (int replayed, string how, string why) = Tool.Try("e2fsck", "-E", "journal_only", "-p", copy);
            Run.Expect(replayed is 0 or 1, $"the journal of the guest's disk cannot be replayed: {how}{why}");
            (int status, string output, string errors) = Tool.Try("e2fsck", "-fn", copy);
            Run.Expect(status == 0, $"the guest's disk is not consistent (e2fsck {status}): {output}{errors}");
        }
        finally
        {
            File.Delete(copy);
        }
    }

    private Dictionary<string, Guest?> Look()
    {
        Dictionary<string, Guest?> seen = [];
        foreach (string host in LabNetwork.Hosts)
        {
            try
            {
                seen[host] = Guest.On(host);
            }
            catch (RpcException e) when (e.StatusCode == StatusCode.Unavailable
                || !LabProcesses.IsAlive(LabDaemons.ProcessOf(host)))
            {
                // It has been killed, or is just coming up.
            }
        }

        if (DeathReportedMs is null && seen.Values.Any(one => one is { State: GuestState.Failed }))
        {
            DeathReportedMs = Math.Round((DateTime.UtcNow - struck).TotalMilliseconds, 1);
        }

        return seen;
    }

    private static bool IsSettled(IReadOnlyDictionary<string, Guest?> seen) =>
        seen.Count == LabNetwork.Hosts.Length
        && seen.Values.All(one => one is null
            || (one.MigrationId.Length == 0 && one.State is not (GuestState.Incoming or GuestState.Migrating)))
        // A copy that has become void is told so when its host is back: until then it may think that it counts.
        && seen.Values.Count(one => one is { State: GuestState.Running or GuestState.Failed }) == 1;

    private static string Describe(IReadOnlyDictionary<string, Guest?> seen) => string.Join(
        ", ", LabNetwork.Hosts.Select(host =>
            $"{host}: {(seen.TryGetValue(host, out Guest? guest) ? guest?.State.ToString() ?? "unknown" : "no daemon")}"
            + (guest?.Detail.Length > 0 ? $" ({guest.Detail})" : "")));
}
