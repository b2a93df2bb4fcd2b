using System.Diagnostics;
using Godwit.Lab.Network;
using Godwit.Lab.Scenarios;
using Grpc.Core;

namespace Godwit.Lab.Faults;

/// <summary>Plays cells one after the other and makes one result of them.</summary>
internal static class FaultMatrix
{
    internal const string Name = "faults";

    internal const string Summary =
        "The fault matrix: every party of a move struck in every phase; --only chooses cells";

    /// <summary>The cells one by one, each in a lab of its own.</summary>
    internal static IEnumerable<Scenario> Scenarios { get; } = FaultCell.All.Select(cell => new Scenario(
        cell.Name, $"A cell of the fault matrix: {cell.Summary}", run => PlayAlone(run, cell), NeedsRelay: true));

    /// <summary>Plays the matrix, or what of it was chosen, and prints it; the exit status.</summary>
    /// <param name="only">Only cells whose name contains one of these; none: all cells.</param>
    /// <param name="fresh">A lab for each cell.</param>
    /// <exception cref="LabException">There is no such cell, or the lab cannot be had.</exception>
    internal static int Execute(IReadOnlyList<string> only, bool fresh, LinkShape shape, bool json)
    {
        FaultCell[] cells = [.. FaultCell.All.Where(cell =>
            only.Count == 0 || only.Any(part => cell.Name.Contains(part, StringComparison.Ordinal)))];
        if (cells.Length == 0)
        {
            throw new LabException(
                $"No cell of the fault matrix has {string.Join(" or ", only)} in its name: godwit-lab run --list.");
        }

        FaultMatrixResult result = Perform(cells, fresh, shape, new Display(json: true), out bool interrupted);
        Console.WriteLine(json ? result.ToJson() : FaultTable.Write(result));
        return interrupted ? 130 : result.Summary.Failed == 0 && result.Cells.Count == cells.Length ? 0 : 1;
    }

    /// <summary>Plays cells in their order; if the user stops the run, the result is what was played.</summary>
    internal static FaultMatrixResult Perform(
        IReadOnlyList<FaultCell> cells, bool fresh, LinkShape shape, Display display, out bool interrupted)
    {
        List<FaultCellResult> results = [];
        Scenario matrix = new(Name, Summary, run => PlayAll(run, cells, fresh, results), NeedsRelay: true);
        ScenarioRun.Perform(matrix, shape, display, out interrupted);
        return FaultMatrixResult.Of(shape.ToString(), results);
    }

    private static void PlayAlone(ScenarioRun run, FaultCell cell)
    {
        using FaultStage stage = FaultStage.Start(run);
        FaultCellResult result = FaultPlay.Play(stage, cell);
        run.Display.Line(FaultTable.Row(result));
    }

    private static void PlayAll(
        ScenarioRun run, IReadOnlyList<FaultCell> cells, bool fresh, List<FaultCellResult> results)
    {
        FaultStage? stage = null;
        bool isClean = true;
        try
        {
            foreach (FaultCell cell in cells)
            {
                run.Display.Line($"[{results.Count + 1}/{cells.Count}] {cell.Name}");
                if (!isClean)
                {
                    LabSession.Up(run.Shape);
                }

                FaultCellResult result = PlayOne(run, cell, ref stage);
                results.Add(result);
                run.Display.Line(FaultTable.Row(result));
                isClean = !fresh && result.Failures.Count == 0;
                if (!isClean)
                {
                    stage?.Dispose();
                    stage = null;
                }
            }
        }
        finally
        {
            stage?.Dispose();
        }
    }

    private static FaultCellResult PlayOne(ScenarioRun run, FaultCell cell, ref FaultStage? stage)
    {
        long began = Stopwatch.GetTimestamp();
        FaultCellResult? result = null;
        try
        {
            stage ??= FaultStage.Start(run);
            result = FaultPlay.Play(stage, cell);
        }
        catch (LabException e)
        {
            run.Fail(e.Message);
        }
        catch (RpcException e) when (!run.Stopped.IsCancellationRequested)
        {
            run.Fail($"a daemon did not answer as it should ({e.StatusCode}: {e.Status.Detail})");
        }

        run.Stopped.ThrowIfCancellationRequested();
        IReadOnlyList<string> failures = run.TakeFailures(cell.Name);
        result ??= new FaultCellResult(
            cell.Victim, cell.PhaseText, cell.StrikeText, FaultOutcome.Unknown, "", 0, 0, "", [])
        {
            Seconds = Math.Round(Stopwatch.GetElapsedTime(began).TotalSeconds, 1),
        };
        return result with { Failures = failures, Verdict = failures.Count == 0 ? "right" : "wrong" };
    }
}
