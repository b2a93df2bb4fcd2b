using System.Diagnostics;
using System.Globalization;
using System.Text.RegularExpressions;
using Godwit.Api.V1;
using Godwit.Lab.Daemons;
using Godwit.Lab.Network;
using Godwit.Lab.Outside;
using Grpc.Core;

namespace Godwit.Lab.Faults;

/// <summary>Plays one cell: begins a move, strikes in its phase, lets the victims come back, has it judged.</summary>
/// <remarks>
/// Strikes at the link go to the destination's cable. The client reaches a guest at the source whatever the link
/// does, and its answers from the destination come late enough that none is acknowledged before a strike.
/// </remarks>
internal sealed partial class FaultPlay
{
    // A strike that came too late on a busy machine says nothing; every one is judged for what it may not break.
    private const int Attempts = 8;

    // One way over the link, in the phases that last as long as their messages are under way.
    private const int WayMs = 300;

    // And where nothing has to arrive for the phase to be reached: less than the source waits for a confirmation.
    private const int HoldMs = 1_500;
    private static readonly TimeSpan _patience = TimeSpan.FromMinutes(3);
    private static readonly TimeSpan _restartAfter = TimeSpan.FromSeconds(0.5);
    private static readonly TimeSpan _stopped = TimeSpan.FromSeconds(4);

    private readonly FaultStage _stage;
    private readonly FaultCell _cell;
    private readonly string _source;
    private readonly string _destination;
    private readonly string _uuid;
    private string _migration = "";
    private FaultJudgement _judgement = null!;
    private string? _operator;
    private string? _decided;
    private bool _isStartedAnew;

    private FaultPlay(FaultStage stage, FaultCell cell)
    {
        (_stage, _cell) = (stage, cell);
        (_source, _destination) = (stage.Source, stage.Destination);
        _uuid = Guest.On(_source)!.Spec.Uuid;
    }

    private Scenarios.ScenarioRun Run => _stage.Run;

    private LabGuest Guest => _stage.Guest;

    /// <summary>Plays the cell; what was wrong is the run's, and the result has it too.</summary>
    internal static FaultCellResult Play(FaultStage stage, FaultCell cell)
    {
        for (int attempt = 1; ; attempt++)
        {
            if (new FaultPlay(stage, cell).TryPlay() is { } result)
            {
                return result;
            }

            if (attempt == Attempts)
            {
                throw new LabException($"The move was never {cell.PhaseText} for long enough to be struck then.");
            }

            stage.Run.Display.Line("  the strike came too late: once more");
        }
    }

    private FaultCellResult? TryPlay()
    {
        long began = Stopwatch.GetTimestamp();
        int logged = File.ReadLines(LabDaemons.LogOf(_source)).Count();
        long written = Guest.Agent.PagesWritten();
        _stage.Writer.Start();
        using OutsideClient client = OutsideClient.Start(Guest.Shape.Address, connections: 2, probeMs: 5);
        Relay.Order(_destination, _cell.Phase == FaultPhase.Preparing ? $"delay {WayMs}" : "delay 0.2");
        Migration move = _stage.Daemons[_source].StartMigration(new StartMigrationRequest
        {
            Guest = Guest.Name,
            To = _destination,
            Policy = new MigrationPolicy
            {
                MaxDowntimeMs = 5_000,
                // What the destination has of it already would be copied before it can be struck.
                Share = _cell.Phase == FaultPhase.Copying ? ContentSharing.None : ContentSharing.Guest,
                Method = _cell.Phase == FaultPhase.Fetching ? MigrationMethod.Postcopy : MigrationMethod.Auto,
                BandwidthBitsPerSecond = _cell.Phase switch
                {
                    FaultPhase.Copying => 100_000_000,
                    FaultPhase.Fetching => 40_000_000,
                    _ => 0,
                },
            },
        });
        _migration = move.Id;
        long? since = AwaitPhase();
        int[] victims = [.. _cell.Victims.Where(victim => victim != FaultCell.Link).SelectMany(ProcessesOf)];
        Strike(victims);
        bool isTimely = since is { } begun && Stopwatch.GetElapsedTime(begun) < ShortestPhase;
        try
        {
            if (!_cell.LastsForEver)
            {
                AwaitReturn(victims);
            }
            else if (isTimely)
            {
                AskOperator();
            }
        }
        finally
        {
            Relay.Order(_destination, "mend");
            Relay.Order(_destination, "delay 0.2");
        }

        ComeBack();
        if (LosesTheRest)
        {
            EndWhatLacksMemory(isTimely);
        }

        IReadOnlyDictionary<string, Guest?> seen = _judgement.AwaitSettlement(_patience);
        FaultOutcome outcome = _judgement.Outcome(seen);
        if (outcome is FaultOutcome.RunsOnSource or FaultOutcome.RunsOnDestination)
        {
            Wait.Until(
                () => client.FirstAnswerAfter(_judgement.Struck) is not null
                    && _stage.Writer.HasAcknowledgedAfter(_judgement.Struck),
                _patience, "an answer of the guest and an acknowledged write after the strike", Run.Stopped);
        }

        ClientReport report = client.Report(_judgement.Struck, DateTime.UtcNow);
        DateTime? answered = client.FirstAnswerAfter(_judgement.Struck);
        long acknowledged = _stage.Writer.Finish();
        if (!isTimely)
        {
            // Another phase was struck: what is allowed there is another cell's matter, that it is whole is not.
            outcome = outcome == FaultOutcome.Unknown ? outcome : _judgement.Accept(outcome);
        }

        string runsOn = _judgement.JudgePlace(seen, outcome);
        Run.Expect(
            _decided is null || _decided == runsOn,
            $"the operator's decision for {_decided} was taken, and the guest is on {runsOn}");
        int missing = _judgement.JudgeGuest(
            outcome == FaultOutcome.Died || _isStartedAnew, runsOn, report, written);
        _judgement.JudgeLeftOvers(runsOn);
        _stage.Source = runsOn;
        if (!isTimely)
        {
            return null;
        }

        Migration ended = _stage.Daemons[_source].GetMigration(new MigrationRequest { Id = _migration });
        bool died = outcome == FaultOutcome.Died;
        // Killed after it had arrived, it did not die of the move, and the move's report need not know.
        Run.Expect(
            !died || _cell.Phase >= FaultPhase.Committed
                || (ended.ErrorCode == "guest-lost" && ended.GuestRunsOn.Length == 0),
            $"the guest died in the move; its report says {ended.ErrorCode} ({ended.Error}), runs on "
            + $"'{ended.GuestRunsOn}'");
        return new FaultCellResult(
            _cell.Victim, _cell.PhaseText, _cell.StrikeText, outcome, runsOn, acknowledged, missing, "right", [])
        {
            StrikeToRunningMs = died ? null : Since(answered),
            StrikeToWriteMs = died ? null : Since(_stage.Writer.FirstAcknowledgedAfter(_judgement.Struck)),
            LongestSilenceMs = died ? null : Math.Round(new TimeSpan(report.Blackout.Ticks).TotalMilliseconds, 1),
            NoticedToRunningMs = NoticedToRunning(logged),
            DeathReportedMs = died ? _judgement.DeathReportedMs : null,
            Migration = $"{ended.Outcome.ToString().ToLowerInvariant()}{(ended.ErrorCode.Length > 0 ? " " : "")}"
                + ended.ErrorCode,
            Operator = _operator,
            Seconds = Math.Round(Stopwatch.GetElapsedTime(began).TotalSeconds, 1),
        };
    }

    /// <summary>Waits for the instant of the strike; since when its phase may last, null if it is over.</summary>
    private long? AwaitPhase()
    {
        long limit = Stopwatch.GetTimestamp();
        long notYet = limit;
        (int In, int Out) delay = (0, 0);
        bool isHeld = false;
        for (; ; Thread.Sleep(2))
        {
            long asked = Stopwatch.GetTimestamp();
            Migration move = _stage.Daemons[_source].GetMigration(new MigrationRequest { Id = _migration });
            bool isCommitted = move.Phase == MigrationPhase.Committed
                && _cell.Phase is FaultPhase.Committed or FaultPhase.Resumed;
            if (isCommitted && !isHeld)
            {
                // The commit may have gone before it was held up, and what answers it be back.
                return null;
            }

            isHeld |= delay.In > 0;
            if (DelayWanted(move) is var wanted && (wanted.In > delay.In || wanted.Out > delay.Out))
            {
                if (isCommitted && Stopwatch.GetElapsedTime(notYet).TotalMilliseconds > 2 * WayMs)
                {
                    // As above: it has been held up no longer than that.
                    return null;
                }

                delay = wanted;
                Relay.Order(_destination, $"delay {delay.Out} out");
                Relay.Order(_destination, $"delay {delay.In} in");
                // Asked again: only what is still so has its messages held up. The commit itself has been since before.
                notYet = _cell.Phase == FaultPhase.Committed && isCommitted ? notYet : Stopwatch.GetTimestamp();
                if (isCommitted || Wanted == MigrationPhase.Switchover)
                {
                    // And not before what had passed the relay by then has come, the last word before the commit for
                    // one, or what is to pass it has left its host.
                    Thread.Sleep(Settle);
                }

                continue;
            }

            if (IsReached(move))
            {
                return notYet;
            }

            notYet = asked;
            if (move.Phase > Wanted)
            {
                Run.Display.Line($"  it is {move.Phase} already");
                return null;
            }

            Run.Stopped.ThrowIfCancellationRequested();
            if (Stopwatch.GetElapsedTime(limit) > _patience)
            {
                throw new LabException(
                    $"Waited {_patience.TotalSeconds:0} s in vain for the move to be {_cell.PhaseText}; "
                    + $"it is {move.Phase}.");
            }
        }
    }

    // To the destination and from it. Not before the pause: over a long link the rounds would take many times as long.
    // What comes after the pause has to arrive for the move to be committed, and the commit for the guest to run: it is
    // the next message that is held up for longer.
    private (int In, int Out) DelayWanted(Migration move) => _cell.Phase switch
    {
        FaultPhase.Preparing or FaultPhase.Copying or FaultPhase.Fetching => (0, 0),
        _ when move.Phase < MigrationPhase.Switchover => (0, 0),
        FaultPhase.Switchover => (HoldMs, HoldMs),
        // Not for as long before: the last round would take as long. A commit is on its way when it has left the host;
        // one that dies before takes it along.
        FaultPhase.Committed => (move.Phase == MigrationPhase.Committed ? HoldMs : 2 * WayMs, 0),
        _ => (WayMs, move.Phase == MigrationPhase.Committed ? HoldMs : WayMs),
    };

    // How long the phase lasts at least, from when it was not yet so, or its messages were held up.
    private TimeSpan ShortestPhase => TimeSpan.FromMilliseconds(_cell.Phase switch
    {
        FaultPhase.Switchover or FaultPhase.Committed => HoldMs,
        // The word that the guest runs may have been under way for so long when it was held up.
        FaultPhase.Resumed => HoldMs - WayMs,
        // Handshakes, and a copy that is held to a rate.
        _ => 4 * WayMs,
    });

    // What is on its way within a host, where nothing holds it up, has come by then.
    private TimeSpan Settle => ShortestPhase / 10;

    private MigrationPhase Wanted =>
        _cell.Phase is FaultPhase.Resumed or FaultPhase.Fetching
            ? MigrationPhase.Committed : (MigrationPhase)_cell.Phase;

    private bool IsReached(Migration move) => move.Phase == Wanted && _cell.Phase switch
    {
        FaultPhase.Preparing => QemuOf(_destination) is not null,
        FaultPhase.Copying => move.Progress?.SentBytes > 4 << 20,
        // At the cap the rest takes more than a second, however well it codes.
        FaultPhase.Fetching => move.Progress is { Verdict: "fetching", RemainingBytes: > 40 << 20 }
            && move.DowntimeMs > 0,
        FaultPhase.Resumed => Guest.On(_destination) is { State: GuestState.Running },
        _ => true,
    };

    private void Strike(int[] victims)
    {
        LabSignal signal = _cell.Strike == FaultStrike.Stop ? LabSignal.Stop : LabSignal.Kill;
        _judgement = new FaultJudgement(_stage, _cell, DateTime.UtcNow);
        if (_cell.Strikes(FaultCell.Link))
        {
            Relay.Order(_destination, "cut");
        }

        foreach (int victim in victims)
        {
            LabProcesses.Signal(victim, signal);
        }

        if (signal == LabSignal.Kill && victims.Length > 0)
        {
            // Messages that are held up must not overtake the news of the death: that would be a later phase.
            Wait.Until(
                () => !victims.Any(LabProcesses.IsAlive), _patience, "the victims to end", Run.Stopped);
            Thread.Sleep(Settle);
        }

        if (!_cell.Strikes(FaultCell.Link))
        {
            // The delay has done its work; from here on the times are those of a short link.
            Relay.Order(_destination, "delay 0.2");
        }
    }

    /// <summary>Waits until the victims are back, or can be brought back.</summary>
    private void AwaitReturn(int[] victims)
    {
        switch (_cell.Strike)
        {
            case FaultStrike.Kill:
                _judgement.Watch(_restartAfter);
                break;
            case FaultStrike.Stop:
                Run.Pause(_stopped);
                foreach (int victim in victims)
                {
                    LabProcesses.Signal(victim, LabSignal.Cont);
                }

                break;
            case FaultStrike.CutOneSecond:
                Run.Pause(TimeSpan.FromSeconds(1));
                break;
            case FaultStrike.CutOneMinute:
                Run.Pause(TimeSpan.FromMinutes(1));
                break;
        }
    }

    private IEnumerable<int> ProcessesOf(string victim)
    {
        string host = victim is FaultCell.SourceDaemon or FaultCell.SourceQemu ? _source : _destination;
        return victim is FaultCell.SourceDaemon or FaultCell.DestinationDaemon
            ? [LabDaemons.ProcessOf(host)] : QemuOf(host) is { } qemu ? [qemu] : [];
    }

    // By the file it writes: asking the kernel for a namespace's processes takes longer than some phases last.
    private int? QemuOf(string host)
    {
        string file = Path.Combine(LabDaemons.GuestsOf(host), _uuid, "qemu.pid");
        try
        {
            return int.TryParse(File.ReadAllText(file), out int id) && LabProcesses.IsAlive(id) ? id : null;
        }
        catch (IOException)
        {
            // None yet, or none any more.
            return null;
        }
    }

    private void ComeBack()
    {
        foreach (string host in LabNetwork.Hosts.Where(host => !LabProcesses.IsAlive(LabDaemons.ProcessOf(host))))
        {
            _stage.Daemons.Restart(host);
        }
    }

    /// <summary>The other host is gone for good, as far as anybody knows: what an operator sees and does.</summary>
    private void AskOperator()
    {
        int watched = Godwit("migration", "watch", _migration).Status;
        (int shown, string text) = Godwit("migration", "show", _migration);
        Run.Expect(shown == 0, $"'migration show' ended with {shown}: {text}");
        bool hasArrived = _cell.Phase is FaultPhase.Resumed or FaultPhase.Fetching;
        string host = hasArrived && _cell.Strike == FaultStrike.ForEver ? _destination : _source;
        // A commit that never arrived is one that nobody ran the guest by.
        string[] resumed = host == _source && _cell.Phase == FaultPhase.Committed ? ["--resume-copy"] : [];
        (int settled, string said) = Godwit(
            ["migration", "settle", _migration, "--guest-runs-on", host, .. resumed]);
        _operator = string.Create(CultureInfo.InvariantCulture, $"watch {watched}, settle {host} {settled}");
        if (_cell.Phase >= FaultPhase.Committed)
        {
            Run.Expect(watched == 8, $"'migration watch' of the unsettled move ended with {watched}, not 8");
            Run.Expect(
                text.Contains("settle", StringComparison.Ordinal),
                $"'migration show' does not say how to settle it: {text}");
            // The rest of its memory would be given up with the move.
            bool mustBeRefused = _cell.Phase == FaultPhase.Fetching;
            Run.Expect(
                !mustBeRefused || (settled != 0 && said.Contains("migration-fetching", StringComparison.Ordinal)),
                $"'migration settle' of a guest that lacks memory ended with {settled}: {said}");
            bool mayBeRefused = mustBeRefused
                || (_cell.Allowed.Contains(FaultOutcome.RunsOnDestination) && host == _source);
            _decided = settled == 0 ? host : null;
            _isStartedAnew = _decided == _source && resumed.Length == 0;
            Run.Expect(settled == 0 || mayBeRefused, $"'migration settle' ended with {settled}: {said}");
            if (host == _source && settled == 0)
            {
                Wait.Until(
                    () => Guest.On(_source) is { State: GuestState.Running }, _patience,
                    "the guest to run where the operator decided", Run.Stopped);
            }
        }
        else
        {
            // Nothing was handed over: the move has failed, the guest runs, and there is nothing to decide.
            // 6 when the pause took too long: it too says that the guest runs where it was.
            Run.Expect(watched is 1 or 6, $"'migration watch' of the broken move ended with {watched}, not 1 or 6");
            Run.Expect(settled != 0, "'migration settle' decided a move that is not in doubt");
        }
    }

    private bool LosesTheRest => _cell is { Phase: FaultPhase.Fetching, Strike: FaultStrike.Kill }
        && _cell.Strikes(FaultCell.SourceDaemon) && _cell.Strikes(FaultCell.SourceQemu);

    // The guest stands at the first page that it lacks, for ever. The host it left says so, and what to do.
    private void EndWhatLacksMemory(bool mustLack)
    {
        bool lacks = false;
        Wait.Until(
            () =>
            {
                string shown = Godwit("migration", "show", _migration).Text;
                lacks = shown.Contains("vm stop --force", StringComparison.Ordinal);
                // Struck too late, it may have had all of it.
                return lacks || (!mustLack && _judgement.IsSettled());
            },
            _patience, "the source to say that the rest of the memory is lost", Run.Stopped);
        if (!lacks)
        {
            return;
        }

        (int status, string said) = GodwitOn(_destination, "vm", "stop", "--force", Guest.Name);
        _operator = $"vm stop --force {status}";
        Run.Expect(status == 0, $"'vm stop --force' of a guest that lacks memory ended with {status}: {said}");
    }

    private (int Status, string Text) Godwit(params string[] words) => GodwitOn(_source, words);

    private (int Status, string Text) GodwitOn(string host, params string[] words)
    {
        (int status, string output, string errors) = Tool.Try(
            LabDaemons.Program("Cli", "godwit"), [.. words, "--socket", LabDaemons.SocketOf(host)], null,
            TimeSpan.FromMinutes(10), null);
        Run.Stopped.ThrowIfCancellationRequested();
        return (status, (output + errors).Trim());
    }

    private double? Since(DateTime? instant) =>
        instant is { } at ? Math.Round((at - _judgement.Struck).TotalMilliseconds, 1) : null;

    private double? NoticedToRunning(int logged) =>
        File.ReadLines(LabDaemons.LogOf(_source)).Skip(logged).Select(line => RunsAgain().Match(line))
            .Where(match => match.Success)
            .Select(match => (double?)double.Parse(match.Groups[1].Value, CultureInfo.InvariantCulture))
            .LastOrDefault();

    [GeneratedRegex(@"runs here again ([0-9.]+) ms after the move was given up")]
    private static partial Regex RunsAgain();

    internal static IEnumerable<int> QemusOf(string host) =>
        LabProcesses.In(LabDirectory.Namespace(host)).Where(LabProcesses.IsQemu);
}
