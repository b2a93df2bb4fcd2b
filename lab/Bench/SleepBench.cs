using System.Text.Json.Nodes;
using Godwit.Api.V1;
using Godwit.Lab.Daemons;
using Godwit.Lab.Guests;
using Godwit.Lab.Network;
using Godwit.Lab.Outside;
using Godwit.Lab.Qemu;
using Godwit.Lab.Scenarios;

namespace Godwit.Lab.Bench;

/// <summary>What sleeping and waking cost, each figure against what it has to be held against, in one run.</summary>
/// <remarks>
/// The guest is the server of 512 MiB with a warm page cache. Hosts of the lab share a file system: where a host is not
/// to have the other's disk, that is put aside.
/// </remarks>
internal static class SleepBench
{
    // As for a store behind a slow link; the default is made for fast ones.
    private const string Coding = "zstd";
    private static readonly TimeSpan _lightUse = TimeSpan.FromMinutes(1);
    private static readonly LinkShape _farLink = new(100_000_000, TimeSpan.FromMilliseconds(20));
    private static readonly GuestLoad _load = GuestLoad.Server with { MemoryMegabytes = 512 };

    /// <summary>Runs all of it; the exit status is 1 when a run lost something.</summary>
    /// <param name="only">What the names of the parts contain that are run.</param>
    internal static int Execute(string only, int runs, bool json)
    {
        Display display = new(json);
        List<SleepFigure> figures = [];
        int failed = 0;
        for (int i = 0; i < runs; i++)
        {
            foreach ((string name, LinkShape link, Action<ScenarioRun, Action<SleepFigure>> play) in
                new (string, LinkShape, Action<ScenarioRun, Action<SleepFigure>>)[]
                {
                    ("sleep-bytes", LinkShape.Unshaped, Bytes), ("sleep-lazy-far", _farLink, Answer),
                })
            {
                if (!name.Contains(only, StringComparison.Ordinal))
                {
                    continue;
                }

                display.Line($"[{i + 1}/{runs}] {name}");
                List<SleepFigure> these = [];
                Scenario scenario = new(name, "", run => play(run, these.Add));
                LabResult result = ScenarioRun.Perform(scenario, link, display, out bool interrupted);
                if (interrupted)
                {
                    return 130;
                }

                failed += result.Failures.Count > 0 ? 1 : 0;
                figures.AddRange(result.Failures.Count > 0 ? [] : these);
            }
        }

        IReadOnlyList<SleepRow> rows = SleepTable.Rows(figures);
        Console.WriteLine(json ? SleepTable.ToJson(rows) : SleepTable.Write(rows));
        return failed > 0 ? 1 : 0;
    }

    /// <summary>Suspended on a, woken on b which has the base image only, a minute there, and back.</summary>
    private static void Bytes(ScenarioRun run, Action<SleepFigure> add)
    {
        string image = UserlandDisk.Obtain(run.Display.Line);
        long stock = StockBytes(run, image);
        LabDaemons daemons = run.Own(LabDaemons.Start(
            new Dictionary<string, string> { ["inventoryImages"] = image, ["hoardMebibytes"] = "0" }));
        LabGuest guest = LabGuest.Boot(run, daemons, _load.Shape, MemoryBacking.Shared);
        LabGuest.MakeStoreOn(daemons, ["a", "b"], Coding);
        _load.Begin(run, guest.Agent);
        long written = guest.Agent.PagesWritten();
        WaitForInventory(run, daemons, "b", entry => entry.Name == image);
        run.Pause(TimeSpan.FromSeconds(1));
        MoveResult first = guest.Suspend();
        WaitForInventory(run, daemons, "a", entry => entry.Kind == "memory");
        string disk = guest.Disk;
        long whole = ((long)_load.MemoryMegabytes << 20) + new FileInfo(disk).Length;
        File.Move(disk, disk + ".a");
        MoveResult there = guest.Resume("b");
        add(new SleepFigure("first resume, base image there", "bytes fetched", "stock's, zstd -3",
            there.WireBytes, stock, 0.25));
        run.Pause(_lightUse);
        MoveResult second = guest.Suspend();
        add(new SleepFigure("second suspend after 1 min", "bytes written", "the first's",
            second.WireBytes, first.WireBytes, 0.05));
        File.Move(disk, disk + ".b");
        File.Move(disk + ".a", disk);
        MoveResult back = guest.Resume("a");
        add(new SleepFigure("resume where it was before", "bytes fetched", "RAM and disk",
            back.WireBytes, whole, 0.05));
        guest.ExpectRunningOnlyOn("a");
        run.Verify(guest.Agent, written);
    }

    /// <summary>Woken over a slow link with its disk in place: with all of its memory, and ahead of it.</summary>
    private static void Answer(ScenarioRun run, Action<SleepFigure> add)
    {
        NetworkStore far = run.Own(NetworkStore.Open(LabDirectory.Disks, run.Display.Line));
        LabDaemons daemons = run.Own(LabDaemons.Start(
            new Dictionary<string, string> { ["inventoryMebibytes"] = "0", ["hoardMebibytes"] = "0" }));
        LabGuest guest = LabGuest.Boot(run, daemons, _load.Shape, MemoryBacking.Shared);
        string store = LabGuest.MakeStoreOn(daemons, ["a"], Coding);
        daemons["b"].CreateStore(new StoreSpec
        {
            Name = LabGuest.StoreName, Location = Path.Combine(far.Mount, Path.GetFileName(store)), Coding = Coding,
        });
        _load.Begin(run, guest.Agent);
        long written = guest.Agent.PagesWritten();
        // With all of its memory, then ahead of it, and ahead of it again: by then it is known what it wants first.
        double[] seconds = new double[3];
        for (int i = 0; i < seconds.Length; i++)
        {
            run.Pause(TimeSpan.FromSeconds(1));
            guest.Suspend();
            bool isLazy = i > 0;
            seconds[i] = FirstAnswer.Measure(
                _load.Shape.Address, _load.Shape.Mac, () => guest.Resume("b", isLazy)).TotalSeconds;
            run.Display.Line($"  answered after {seconds[i]:0.00} s");
            Wait.Until(
                () => guest.On("b") is { MigrationId: "" }, TimeSpan.FromMinutes(5), "the rest of the memory",
                run.Stopped);
            guest.ExpectRunningOnlyOn("b");
            run.Verify(guest.Agent, written);
            if (i < seconds.Length - 1)
            {
                guest.Suspend(counts: false);
                guest.Resume("a", counts: false);
            }
        }

        add(new SleepFigure($"lazy resume, {_farLink}", "s to the first answer", "the full fetch",
            seconds[1], seconds[0], 0.1) { FigureMax = 3 });
        add(new SleepFigure($"the same again, {_farLink}", "s to the first answer", "the full fetch",
            seconds[2], seconds[0], 0.1) { FigureMax = 3 });
    }

    private static void WaitForInventory(
        ScenarioRun run, LabDaemons daemons, string host, Func<InventoryEntry, bool> isThere) => Wait.Until(
        () => daemons[host].ListInventory(new ListInventoryRequest()).Entries.Any(isThere), TimeSpan.FromMinutes(2),
        $"the inventory of host {host}", run.Stopped);

    /// <summary>
    /// What plain QEMU would have copied of the same guest: its stream, and the blocks of its disk that have changed,
    /// both compressed.
    /// </summary>
    private static long StockBytes(ScenarioRun run, string image)
    {
        GuestShape shape = _load.Shape with { Number = 2 };
        string disk = Path.Combine(LabDirectory.Disks, "stock.raw");
        string stream = Path.Combine(LabDirectory.Disks, "stock.zst");
        string changed = Path.Combine(LabDirectory.Disks, "stock-changed");
        File.Copy(image, disk, overwrite: true);
        using (StockQemu stock = StockQemu.Start("a", "stock-a", shape, run.Image, disk, incoming: false))
        {
            using AgentControl agent = AgentControl.Connect(shape.Address, TimeSpan.FromSeconds(60), run.Stopped);
            _load.Begin(run, agent);
            run.Pause(TimeSpan.FromSeconds(1));
            stock.Qmp.Execute("stop");
            stock.Qmp.Execute("migrate-set-parameters", new JsonObject { ["max-bandwidth"] = 0 });
            stock.Qmp.Execute("migrate", new JsonObject { ["uri"] = $"exec:zstd -3 -q -f -o {stream}" });
            Wait.Until(
                () => stock.Qmp.Execute("query-migrate").GetProperty("status").GetString() == "completed",
                TimeSpan.FromMinutes(3), "plain QEMU's stream", run.Stopped);
        }

        CopyChanged(image, disk, changed);
        Tool.Run("zstd", "-3", "-q", "-f", changed, "-o", changed + ".zst");
        long bytes = new FileInfo(stream).Length + new FileInfo(changed + ".zst").Length;
        run.Display.Line($"  plain QEMU's stream and changed blocks, zstd -3: {ResultText.Bytes(bytes)}");
        return bytes;
    }

    private static void CopyChanged(string from, string to, string changed)
    {
        using FileStream before = File.OpenRead(from);
        using FileStream after = File.OpenRead(to);
        using FileStream output = File.Create(changed);
        byte[] was = new byte[4096];
        byte[] block = new byte[4096];
        while (after.ReadAtLeast(block, block.Length, throwOnEndOfStream: false) is > 0 and int count)
        {
            before.ReadAtLeast(was, was.Length, throwOnEndOfStream: false);
            if (!was.AsSpan().SequenceEqual(block))
            {
                output.Write(block, 0, count);
            }
        }
    }
}
