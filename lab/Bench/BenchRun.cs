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
            new Mode($"stock-{mode.Name}", (run, load) => StockScenario.Play(run, mode, load))
            {
                // Says how long a page takes that has not come yet, and nothing else.
                Fits = load => !mode.AtOnce || load.Walk.Length > 0,
            }),
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
            run, load, new MigrationPolicy { Method = MigrationMethod.Hybrid, MaxDowntimeMs = 500 }, "hybrid"))
        {
            Fits = load => load == GuestLoad.Chaser,
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
           from load in (GuestLoad[])[.. GuestLoad.All, .. GuestLoad.Programs]
           select new Cell(load, link),
        new(GuestLoad.Walker, new LinkShape(1_000_000_000, TimeSpan.Zero)),
        new(GuestLoad.Walker, new LinkShape(200_000_000, TimeSpan.FromMilliseconds(5))),
        new(GuestLoad.Chaser, new LinkShape(200_000_000, TimeSpan.FromMilliseconds(5))),
    ];

    // What Godwit chooses, and each method that it could have chosen. Emulated processors load a guest slowly: a pause
    // that a real one would keep is not what these are about.
    private static readonly Mode[] _methods =
    [
        Method("godwit", new MigrationPolicy()),
        Method("godwit-precopy", new MigrationPolicy { Method = MigrationMethod.Precopy, Ladder = "strict" }),
        Method("godwit-throttle", new MigrationPolicy { Method = MigrationMethod.Precopy, Ladder = "safe" }),
        Method("godwit-hybrid", new MigrationPolicy { Method = MigrationMethod.Hybrid }),
        Method("godwit-postcopy", new MigrationPolicy { Method = MigrationMethod.Postcopy }),
    ];

    private static readonly Cell[] _choices =
    [
        new(ConvergenceScenarios.Writer, new LinkShape(60_000_000, TimeSpan.Zero)),
        new(ConvergenceScenarios.Eager, new LinkShape(80_000_000, TimeSpan.Zero)),
        .. from load in new[] { GuestLoad.Counters, GuestLoad.Text, GuestLoad.Incompressible }
           select new Cell(load, new LinkShape(100_000_000, TimeSpan.FromMilliseconds(5))),
    ];

    private static Mode Method(string name, MigrationPolicy policy)
    {
        policy.MaxDowntimeMs = 1_000;
        return new Mode(name, (run, load) => ConvergenceScenarios.Play(run, load, policy, null));
    }

    internal static void List(TextWriter to)
    {
        to.WriteLine("scenarios: " + string.Join(' ', _cells.Select(cell => cell.Name)));
        to.WriteLine("modes:     " + string.Join(' ', _modes.Select(mode => mode.Name)));
        to.WriteLine("--methods: " + string.Join(' ', _choices.Select(cell => cell.Name)));
        to.WriteLine("           " + string.Join(' ', _methods.Select(mode => mode.Name)));
    }

    /// <summary>
    /// Runs the bench; the exit status is 1 when a run lost something, or did not bring its guest over.
    /// </summary>
    /// <param name="methods">
    /// Not plain QEMU's modes but every method that Godwit could have chosen, beside what it chooses: only that one has
    /// to bring the guest over.
    /// </param>
    /// <param name="only">Part of a scenario's name (load@link), or null for all.</param>
    /// <param name="modes">Names of modes, or empty for all.</param>
    internal static int Execute(bool methods, string? only, IReadOnlyList<string> modes, int runs, bool json)
    {
        Mode[] all = methods ? _methods : _modes;
        Cell[] cells =
        [
            .. (methods ? _choices : _cells)
                .Where(cell => only is null || cell.Name.Contains(only, StringComparison.Ordinal)),
        ];
        Mode[] chosen = [.. all.Where(mode => modes.Count == 0 || modes.Contains(mode.Name))];
        if (cells.Length == 0)
        {
            throw new LabException($"No scenario matches \"{only}\": see bench --list.");
        }

        if (modes.FirstOrDefault(mode => all.All(known => known.Name != mode)) is { } unknown)
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
        BenchReport report = new(rows, methods ? BenchTable.AgainstBest(rows) : BenchTable.Ratios(rows));
        Console.WriteLine(json ? report.ToJson() : BenchTable.Write(report));
        return rows.Any(row => row.Failed > 0 && (!methods || row.Mode == _methods[0].Name)) ? 1 : 0;
    }
}
