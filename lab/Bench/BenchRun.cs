using Godwit.Api.V1;
using Godwit.Lab.Network;
using Godwit.Lab.Qemu;
using Godwit.Lab.Scenarios;

namespace Godwit.Lab.Bench;

/// <summary>Plays every mode with the same guest over the same links, interleaved, each run in a fresh lab.</summary>
/// <remarks>
/// Interleaved, because a shared machine drifts: what disturbs one mode's run disturbs the next mode's too, and ratios
/// of medians stand where absolute figures do not.
/// </remarks>
internal static class BenchRun
{
    private static readonly TimeSpan _elsewhere = TimeSpan.FromMinutes(2);

    private sealed record Mode(string Name, Action<ScenarioRun, GuestLoad> Play)
    {
        internal Func<GuestLoad, bool> Fits { get; init; } = _ => true;
    }

    private sealed record Cell(GuestLoad Load, LinkShape Link)
    {
        internal string Name => $"{Load.Name}@{Link}";
    }

    private static readonly Mode[] _modes =
    [
        .. StockMode.All.Select(mode =>
            new Mode($"stock-{mode.Name}", (run, load) => StockScenario.Play(run, mode, load))),
        new("godwit", (run, load) =>
        {
            if (load.Userland)
            {
                InventoryScenarios.First(run, load);
            }
            else
            {
                MoveScenarios.Play(run, load, ["b"]);
            }
        }),
        new("godwit-postcopy", (run, load) => ConvergenceScenarios.Play(
            run, load, new MigrationPolicy { Method = MigrationMethod.Postcopy, MaxDowntimeMs = 3_000 }, "postcopy"))
        {
            Fits = load => load.Walk.Length > 0,
        },
        new("godwit-hybrid", (run, load) => ConvergenceScenarios.Play(
            run, load, new MigrationPolicy { Method = MigrationMethod.Hybrid, MaxDowntimeMs = 3_000 }, "hybrid"))
        {
            Fits = load => load.Walk.Length > 0,
        },
        new("godwit-return", (run, load) => InventoryScenarios.Return(run, load, _elsewhere))
        {
            Fits = load => load.Userland,
        },
        new("godwit-carried", (run, load) => MoveScenarios.Play(run, load, ["b"], backing: MemoryBacking.Private))
        {
            Fits = load => !load.Userland,
        },
    ];

    private static readonly Cell[] _cells =
    [
        .. from link in new[]
           {
               new LinkShape(1_000_000_000, TimeSpan.Zero), LinkShape.Unshaped,
               new LinkShape(400_000_000, TimeSpan.Zero),
               new LinkShape(25_000_000, TimeSpan.FromMilliseconds(25)),
           }
           from load in GuestLoad.All
           select new Cell(load, link),
        new(GuestLoad.Walker, new LinkShape(1_000_000_000, TimeSpan.Zero)),
        new(GuestLoad.Walker, new LinkShape(200_000_000, TimeSpan.FromMilliseconds(5))),
        new(GuestLoad.Server, new LinkShape(400_000_000, TimeSpan.Zero)),
        new(GuestLoad.Server, new LinkShape(25_000_000, TimeSpan.FromMilliseconds(25))),
    ];

    internal static void List(TextWriter to)
    {
        to.WriteLine("scenarios: " + string.Join(' ', _cells.Select(cell => cell.Name)));
        to.WriteLine("modes:     " + string.Join(' ', _modes.Select(mode => mode.Name)));
    }

    /// <summary>Runs the bench; the exit status is 1 when a run lost something.</summary>
    /// <param name="only">Part of a scenario's name (load@link), or null for all.</param>
    /// <param name="modes">Names of modes, or empty for all.</param>
    internal static int Execute(string? only, IReadOnlyList<string> modes, int runs, bool json)
    {
        Cell[] cells = [.. _cells.Where(cell => only is null || cell.Name.Contains(only, StringComparison.Ordinal))];
        Mode[] chosen = [.. _modes.Where(mode => modes.Count == 0 || modes.Contains(mode.Name))];
        if (cells.Length == 0)
        {
            throw new LabException($"No scenario matches \"{only}\": see bench --list.");
        }

        if (modes.FirstOrDefault(mode => _modes.All(known => known.Name != mode)) is { } unknown)
        {
            throw new LabException($"There is no mode \"{unknown}\": see bench --list.");
        }

        Display display = new(json);
        Dictionary<(Cell, Mode), List<LabResult>> results = [];
        int done = 0;
        int planned = runs * cells.Sum(cell => chosen.Count(mode => mode.Fits(cell.Load)));
        for (int i = 0; i < runs; i++)
        {
            foreach (Cell cell in cells)
            {
                foreach (Mode mode in chosen.Where(mode => mode.Fits(cell.Load)))
                {
                    display.Line($"[{++done}/{planned}] {cell.Name} {mode.Name}");
                    Scenario scenario = new(
                        $"{cell.Name} {mode.Name}".Replace('/', '-'), "", run => mode.Play(run, cell.Load));
                    LabResult result = ScenarioRun.Perform(scenario, cell.Link, display, out bool interrupted);
                    if (interrupted)
                    {
                        return 130;
                    }

                    (results.TryGetValue((cell, mode), out List<LabResult>? list) ? list : results[(cell, mode)] = [])
                        .Add(result);
                }
            }
        }

        BenchRow[] rows =
        [
            .. from cell in cells
               from mode in chosen
               where mode.Fits(cell.Load)
               select BenchTable.Row(
                   cell.Load.Name, cell.Link.ToString(), mode.Name, results[(cell, mode)],
                   cell.Load.MemoryMegabytes / 1024.0),
        ];
        BenchReport report = new(rows, BenchTable.Ratios(rows));
        Console.WriteLine(json ? report.ToJson() : BenchTable.Write(report));
        return rows.Any(row => row.Failed > 0) ? 1 : 0;
    }
}
