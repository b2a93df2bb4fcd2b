using Godwit.Lab.Faults;

namespace Godwit.Lab.Tests;

public class FaultMatrixTests
{
    private static readonly FaultCellResult _right = new(
        "source-daemon", "copying", "kill", FaultOutcome.RunsOnSource, "a", 2481, 0, "right", [])
    {
        StrikeToRunningMs = 12.5,
        StrikeToWriteMs = 20,
        LongestSilenceMs = 30,
        Migration = "failed daemon-ended",
        Seconds = 9.5,
    };

    private static readonly FaultCellResult _wrong = _right with
    {
        Phase = "switchover", Strike = "stop", StrikeToRunningMs = 100, NoticedToRunningMs = 7.5,
        Verdict = "wrong", Failures = ["1 of 9 acknowledged writes are not there on a"], Missing = 1,
    };

    private static readonly FaultCellResult _died = _right with
    {
        Victim = "source-qemu", Outcome = FaultOutcome.Died, StrikeToRunningMs = null, StrikeToWriteMs = null,
        LongestSilenceMs = null, DeathReportedMs = 40,
    };

    [Fact]
    public void Every_victim_is_struck_in_every_phase_in_which_it_matters()
    {
        Assert.Equal(FaultCell.All.Count, FaultCell.All.Select(cell => cell.Name).Distinct().Count());
        string[] victims =
        [
            FaultCell.SourceDaemon, FaultCell.DestinationDaemon, "both-daemons", FaultCell.SourceQemu,
            FaultCell.DestinationQemu,
        ];
        Assert.All(
            from victim in victims
            from phase in Enum.GetValues<FaultPhase>()
            from strike in new[] { FaultStrike.Kill, FaultStrike.Stop }
            select (victim, phase, strike),
            wanted => Assert.Single(
                FaultCell.All,
                cell => cell.Victim == wanted.victim && cell.Phase == wanted.phase && cell.Strike == wanted.strike));
        Assert.All(
            from phase in Enum.GetValues<FaultPhase>()
            from strike in new[] { FaultStrike.CutOneSecond, FaultStrike.CutOneMinute, FaultStrike.ForEver }
            select (phase, strike),
            wanted => Assert.Single(
                FaultCell.All,
                cell => cell.Victim == "link" && cell.Phase == wanted.phase && cell.Strike == wanted.strike));
    }

    // A guest may die only where the very QEMU that runs it is killed, or the host that has the rest of its memory.
    [Fact]
    public void Only_where_the_guests_own_qemu_is_killed_may_it_die() => Assert.All(FaultCell.All, cell =>
        Assert.Equal(
            cell.Strike != FaultStrike.Stop && cell.Strike != FaultStrike.Overruled
                && (cell.Phase < FaultPhase.Committed
                    ? cell.Strikes(FaultCell.SourceQemu)
                    : cell.Strikes(FaultCell.DestinationQemu) || (cell.Phase == FaultPhase.Fetching
                        && cell.Strikes(FaultCell.SourceQemu) && cell.Strikes(FaultCell.SourceDaemon))),
            cell.Allowed.Contains(FaultOutcome.Died)));

    [Fact]
    public void The_summary_counts_what_is_wrong_and_leaves_out_the_dead()
    {
        FaultSummary summary = FaultMatrixResult.Of("1Gbit", [_right, _wrong, _died]).Summary;

        Assert.Equal((3, 1), (summary.Cells, summary.Failed));
        Assert.Equal(new Spread(2, 56.2, 100), summary.StrikeToRunningMs);
        Assert.Equal(new Spread(1, 12.5, 12.5), summary.KillToRunningMs);
        Assert.Equal(new Spread(1, 40, 40), summary.DeathReportedMs);
        Assert.Null(FaultMatrixResult.Of("1Gbit", [_right]).Summary.DeathReportedMs);
    }

    [Fact]
    public void The_table_shows_a_cell_in_a_line_and_what_was_wrong_below() => Assert.Equal(
        """
        source-daemon            copying    kill      runs on source          13 ms        -        -    2481  right
        source-daemon            switchover stop      runs on source         100 ms     8 ms        -    2481  WRONG
            1 of 9 acknowledged writes are not there on a
        """,
        $"{FaultTable.Row(_right)}\n{FaultTable.Row(_wrong)}");

    // Others read this: names and units may be added to, never changed.
    [Fact]
    public void The_machine_readable_matrix_keeps_its_shape() => Assert.Equal(
        """
        {
          "link": "1Gbit",
          "summary": {
            "cells": 1,
            "failed": 1,
            "strikeToRunningMs": {
              "cells": 1,
              "median": 100,
              "maximum": 100
            },
            "noticedToRunningMs": {
              "cells": 1,
              "median": 7.5,
              "maximum": 7.5
            },
            "seconds": 9.5
          },
          "cells": [
            {
              "victim": "source-daemon",
              "phase": "switchover",
              "strike": "stop",
              "outcome": "runs-on-source",
              "guestRunsOn": "a",
              "acknowledged": 2481,
              "missing": 1,
              "verdict": "wrong",
              "failures": [
                "1 of 9 acknowledged writes are not there on a"
              ],
              "strikeToRunningMs": 100,
              "strikeToWriteMs": 20,
              "longestSilenceMs": 30,
              "noticedToRunningMs": 7.5,
              "migration": "failed daemon-ended",
              "seconds": 9.5
            }
          ]
        }
        """,
        FaultMatrixResult.Of("1Gbit", [_wrong]).ToJson());
}
