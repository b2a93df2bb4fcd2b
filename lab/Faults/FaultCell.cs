namespace Godwit.Lab.Faults;

/// <summary>When in a move the strike comes.</summary>
internal enum FaultPhase
{
    /// <summary>The destination's QEMU has been started, and nothing has been copied.</summary>
    Preparing,

    /// <summary>Some of the memory has been sent; the guest runs at the source.</summary>
    Copying,

    /// <summary>The guest is paused and not committed.</summary>
    Switchover,

    /// <summary>The commit is recorded and on its way: the destination has not heard of it.</summary>
    Committed,

    /// <summary>The guest runs at the destination, and the source has not heard that it does.</summary>
    Resumed,

    /// <summary>By postcopy: the guest runs at the destination, and much of its memory has not come.</summary>
    Fetching,
}

/// <summary>What becomes of the victims.</summary>
internal enum FaultStrike
{
    /// <summary>Killed; daemons are started again half a second later.</summary>
    Kill,

    /// <summary>Stopped, and let go on after four seconds.</summary>
    Stop,

    /// <summary>Cut for a second.</summary>
    CutOneSecond,

    /// <summary>Cut for a minute.</summary>
    CutOneMinute,

    /// <summary>
    /// Gone until an operator has decided, by what is true: that the guest runs where it was last seen to.
    /// </summary>
    ForEver,

    /// <summary>Gone for ever; the operator decides for the source although the guest was handed over.</summary>
    Overruled,
}

/// <summary>One cell of the matrix: who is struck, when, and how.</summary>
/// <param name="Victims">Struck at the same instant; a daemon, a QEMU, the link.</param>
internal sealed record FaultCell(string Victim, IReadOnlyList<string> Victims, FaultPhase Phase, FaultStrike Strike)
{
    internal const string SourceDaemon = "source-daemon";
    internal const string DestinationDaemon = "destination-daemon";
    internal const string SourceQemu = "source-qemu";
    internal const string DestinationQemu = "destination-qemu";
    internal const string Link = "link";

    private static readonly FaultPhase[] _phases = Enum.GetValues<FaultPhase>();
    private static readonly FaultPhase[] _aroundTheCommit =
        [FaultPhase.Switchover, FaultPhase.Committed, FaultPhase.Resumed];

    /// <summary>The whole matrix.</summary>
    /// <remarks>
    /// Left out, because it would say nothing. A host (daemon and QEMU) that is stopped and goes on: its parts are
    /// stopped one by one, and a stopped QEMU has nobody but its daemon. Both QEMUs before the switchover: the
    /// destination's holds nothing yet, so it is the death of the source's. A link and a daemon at once while the
    /// guest runs at the source and stays there whatever breaks: each of the two is a cell. An operator who overrules
    /// before the guest has arrived: that is what "for ever" does there.
    /// </remarks>
    internal static IReadOnlyList<FaultCell> All { get; } =
    [
        .. Cells("source-daemon", [SourceDaemon], _phases, FaultStrike.Kill, FaultStrike.Stop),
        .. Cells("destination-daemon", [DestinationDaemon], _phases, FaultStrike.Kill, FaultStrike.Stop),
        .. Cells("both-daemons", [SourceDaemon, DestinationDaemon], _phases, FaultStrike.Kill, FaultStrike.Stop),
        .. Cells("source-qemu", [SourceQemu], _phases, FaultStrike.Kill, FaultStrike.Stop),
        .. Cells("destination-qemu", [DestinationQemu], _phases, FaultStrike.Kill, FaultStrike.Stop),
        .. Cells("both-qemus", [SourceQemu, DestinationQemu], _aroundTheCommit, FaultStrike.Kill),
        // As when the power of a host fails.
        .. Cells("source-host", [SourceDaemon, SourceQemu], _phases, FaultStrike.Kill),
        .. Cells("destination-host", [DestinationDaemon, DestinationQemu], _phases, FaultStrike.Kill),
        .. Cells(
            "link", [Link], _phases, FaultStrike.CutOneSecond, FaultStrike.CutOneMinute, FaultStrike.ForEver),
        .. Cells("link", [Link], [FaultPhase.Resumed], FaultStrike.Overruled),
        .. Cells("link+source-daemon", [Link, SourceDaemon], _aroundTheCommit, FaultStrike.CutOneSecond),
        .. Cells("link+destination-daemon", [Link, DestinationDaemon], _aroundTheCommit, FaultStrike.CutOneSecond),
        // A site that is gone: nobody but an operator can know it.
        .. Cells(
            "link+destination-host", [Link, DestinationDaemon, DestinationQemu],
            [FaultPhase.Committed, FaultPhase.Resumed], FaultStrike.Overruled),
    ];

    internal string Name => $"fault-{Victim}-{PhaseText}-{StrikeText}";

    internal string PhaseText => Phase.ToString().ToLowerInvariant();

    internal string StrikeText => Strike switch
    {
        FaultStrike.CutOneSecond => "cut-1s",
        FaultStrike.CutOneMinute => "cut-60s",
        FaultStrike.ForEver => "for-ever",
        _ => Strike.ToString().ToLowerInvariant(),
    };

    internal string Summary => $"{StrikeText} of {string.Join(" and ", Victims)} while the move is {PhaseText}";

    internal bool Strikes(string victim) => Victims.Contains(victim);

    internal bool LastsForEver => Strike is FaultStrike.ForEver or FaultStrike.Overruled;

    /// <summary>Where the guest may be in the end; an outcome that is not among them is wrong.</summary>
    internal IReadOnlyList<FaultOutcome> Allowed
    {
        get
        {
            bool kills = Strike is not FaultStrike.Stop;
            if (kills && Phase < FaultPhase.Committed && Strikes(SourceQemu))
            {
                return [FaultOutcome.Died];
            }

            if (Strike == FaultStrike.Overruled)
            {
                // A copy that runs behind the cut link holds the disk: then the decision has to be refused.
                return Strikes(DestinationQemu)
                    ? [FaultOutcome.RunsOnSource] : [FaultOutcome.RunsOnSource, FaultOutcome.RunsOnDestination];
            }

            if (kills && Strikes(DestinationQemu) && Phase >= FaultPhase.Committed)
            {
                // Killed before it has recorded that it is going to run, it has refused; the source's copy is there.
                return Phase == FaultPhase.Resumed || Strikes(SourceQemu)
                    ? [FaultOutcome.Died] : [FaultOutcome.Died, FaultOutcome.RunsOnSource];
            }

            if (Phase == FaultPhase.Fetching && kills && Strikes(SourceQemu) && Strikes(SourceDaemon))
            {
                // The rest of its memory was there and nowhere else: what postcopy does not survive.
                return [FaultOutcome.Died];
            }

            if (Phase is FaultPhase.Resumed or FaultPhase.Fetching)
            {
                return [FaultOutcome.RunsOnDestination];
            }

            if (Phase == FaultPhase.Committed)
            {
                return Strikes(SourceQemu) && kills ? [FaultOutcome.RunsOnDestination]
                    : Strike == FaultStrike.ForEver ? [FaultOutcome.RunsOnSource]
                    : [FaultOutcome.RunsOnSource, FaultOutcome.RunsOnDestination];
            }

            // What goes on in time may still arrive; what is killed or cut for long may not.
            return Strike is FaultStrike.Stop or FaultStrike.CutOneSecond
                ? [FaultOutcome.RunsOnSource, FaultOutcome.RunsOnDestination] : [FaultOutcome.RunsOnSource];
        }
    }

    private static IEnumerable<FaultCell> Cells(
        string victim, IReadOnlyList<string> victims, FaultPhase[] phases, params FaultStrike[] strikes) =>
        from phase in phases
        from strike in strikes
        select new FaultCell(victim, victims, phase, strike);
}
