using System.Runtime.InteropServices;
using Godwit.Lab.Guests;
using Godwit.Lab.Network;
using Godwit.Lab.Outside;
using Godwit.Lab.Qemu;
using Grpc.Core;

namespace Godwit.Lab.Scenarios;

/// <summary>One playing of a scenario: the lab it has for itself, and what comes out of it.</summary>
internal sealed class ScenarioRun : IDisposable
{
    private readonly List<IDisposable> _owned = [];
    private readonly List<MoveResult> _moves = [];
    private readonly List<string> _failures = [];
    private readonly CancellationTokenSource _stopped = new();
    private ClientResult _client = new(0, 0, 0);
    private CheckResult _memory = new(0, 0);
    private CheckResult _disk = new(0, 0);

    private ScenarioRun(Scenario scenario, LinkShape shape, GuestImage image, Display display, uint pauseMaxMs)
    {
        Display = display;
        PauseMaxMs = pauseMaxMs;
        Scenario = scenario;
        Shape = shape;
        Image = image;
    }

    internal Scenario Scenario { get; }

    internal LinkShape Shape { get; }

    internal GuestImage Image { get; }

    internal Display Display { get; }

    /// <summary>
    /// The pause budget of moves of which the scenario does not say one; 0 for the daemon's own.
    /// </summary>
    internal uint PauseMaxMs { get; }

    /// <summary>The image that a guest's disk is a copy of.</summary>
    internal string DiskFor(GuestShape shape) =>
        shape.Userland ? UserlandDisk.Obtain(Display.Line) : Image.Disk;

    /// <summary>Ends when the user stops the run.</summary>
    internal CancellationToken Stopped => _stopped.Token;

    /// <summary>Plays a scenario and prints its result; the exit status.</summary>
    internal static int Execute(Scenario scenario, LinkShape shape, bool json, bool keep)
    {
        LabResult result = Perform(scenario, shape, new Display(json), out bool interrupted, keep);
        Console.WriteLine(json ? result.ToJson() : ResultText.Write(result));
        return interrupted ? 130 : result.Failures.Count == 0 ? 0 : 1;
    }

    /// <summary>Prepares the machine, brings a fresh lab up, plays, judges, takes the lab down.</summary>
    /// <param name="pauseMaxMs"><see cref="PauseMaxMs"/>.</param>
    /// <exception cref="LabException">The lab itself could not be had.</exception>
    internal static LabResult Perform(
        Scenario scenario, LinkShape shape, Display display, out bool interrupted, bool keep = false,
        uint pauseMaxMs = 0)
    {
        Machine.Prepare(display.Line);
        using IDisposable hold = LabSession.Hold();
        GuestImage image = GuestImage.Obtain(display.Line);
        if (scenario.NeedsRelay && shape.Delay == TimeSpan.Zero)
        {
            shape = shape with { Delay = TimeSpan.FromMilliseconds(0.2) };
        }

        using ScenarioRun run = new(scenario, shape, image, display, pauseMaxMs);
        // The first signal stops the run, which then takes the lab down; so does a closed terminal.
        using PosixSignalRegistration interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, run.OnSignal);
        using PosixSignalRegistration terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, run.OnSignal);
        using PosixSignalRegistration hangUp = PosixSignalRegistration.Create(PosixSignal.SIGHUP, run.OnSignal);
        try
        {
            LabSession.Up(run.Shape);
            run.Play();
        }
        finally
        {
            run.DisposeAll();
            if (!keep || run.Stopped.IsCancellationRequested)
            {
                LabSession.Down();
            }
        }

        interrupted = run.Stopped.IsCancellationRequested;
        return run.Result();
    }

    /// <summary>Hands something over that is to be disposed of when the run ends, last first.</summary>
    internal T Own<T>(T thing)
        where T : IDisposable
    {
        _owned.Add(thing);
        return thing;
    }

    /// <summary>Lets time pass.</summary>
    /// <exception cref="OperationCanceledException">The user stopped the run.</exception>
    internal void Pause(TimeSpan span)
    {
        Stopped.WaitHandle.WaitOne(span);
        Stopped.ThrowIfCancellationRequested();
    }

    internal void Fail(string why)
    {
        Display.Line($"  failed: {why}");
        _failures.Add(why);
    }

    internal void Expect(bool condition, string why)
    {
        if (!condition)
        {
            Fail(why);
        }
    }

    /// <summary>What has failed since the last call; the evidence of it is kept under the name.</summary>
    internal IReadOnlyList<string> TakeFailures(string name)
    {
        string[] failures = [.. _failures];
        if (failures.Length > 0)
        {
            KeepEvidence(name);
            _failures.Clear();
        }

        return failures;
    }

    internal void Add(MoveResult move) => _moves.Add(move);

    /// <summary>Takes the client's count of a whole run in; a lost or repeated anything is a failure.</summary>
    internal void Judge(ClientReport report)
    {
        _client = new ClientResult(
            _client.ConnectionsOpened + report.ConnectionsOpened, _client.ConnectionsLost + report.ConnectionsLost,
            _client.PacketsLost + report.PacketsLost);
        Expect(report.ConnectionsLost == 0, report.Losses);
        Expect(report.RepliesDuplicated == 0, $"{report.RepliesDuplicated} replies came twice: two copies answered");
    }

    /// <summary>Has the guest verify its memory and disk, and that its work never ran backwards.</summary>
    internal void Verify(AgentControl agent, long pagesWrittenBefore)
    {
        Verdict memory = agent.VerifyMemory();
        Verdict disk = agent.VerifyDisk();
        _memory = new CheckResult(_memory.Checked + memory.Checked, _memory.Wrong + memory.Wrong);
        _disk = new CheckResult(_disk.Checked + disk.Checked, _disk.Wrong + disk.Wrong);
        Expect(memory.Wrong == 0, $"{memory.Wrong} pages of memory are wrong: {string.Join(' ', memory.Named)}");
        Expect(disk.Wrong == 0, $"{disk.Wrong} blocks of disk are wrong: {string.Join(' ', disk.Named)}");
        long after = agent.PagesWritten();
        Expect(
            after >= pagesWrittenBefore,
            $"the guest went back in time: {pagesWrittenBefore} pages written, then {after}");
    }

    private void OnSignal(PosixSignalContext context)
    {
        context.Cancel = true;
        _stopped.Cancel();
    }

    private void Play()
    {
        try
        {
            Scenario.Play(this);
        }
        catch (OperationCanceledException) when (_stopped.IsCancellationRequested)
        {
            _failures.Add("stopped by a signal");
        }
        catch (LabException e)
        {
            Fail(e.Message);
        }
        catch (RpcException e)
        {
            Fail($"a daemon did not answer as it should ({e.StatusCode}: {e.Status.Detail})");
        }

        if (_failures.Count > 0)
        {
            KeepEvidence(Scenario.Name);
        }
    }

    /// <summary>Copies logs and consoles to where the lab's end does not remove them.</summary>
    private void KeepEvidence(string name)
    {
        string folder = $"{LabDirectory.Disks}-failed/{DateTime.UtcNow:yyyyMMdd-HHmmss}-{name}";
        Directory.CreateDirectory(folder);
        File.WriteAllText(Path.Combine(folder, "result.json"), Result().ToJson());
        foreach (string path in Directory.EnumerateFiles(LabDirectory.Run, "*", SearchOption.AllDirectories))
        {
            if (path.EndsWith(".log", StringComparison.Ordinal) || path.EndsWith(".console", StringComparison.Ordinal))
            {
                string file = Path.GetRelativePath(LabDirectory.Run, path).Replace('/', '-');
                File.Copy(path, Path.Combine(folder, file), overwrite: true);
            }
        }

        foreach (string old in
            Directory.EnumerateDirectories(Path.GetDirectoryName(folder)!).OrderDescending().Skip(10))
        {
            Directory.Delete(old, recursive: true);
        }

        Display.Line($"  logs are kept in {folder}");
    }

    public void Dispose() => _stopped.Dispose();

    private void DisposeAll()
    {
        for (int i = _owned.Count - 1; i >= 0; i--)
        {
            try
            {
                _owned[i].Dispose();
            }
            catch (Exception e) when (e is LabException or IOException)
            {
                Display.Line($"  while cleaning up: {e.Message}");
            }
        }
    }

    private LabResult Result() => new(Scenario.Name, Shape.ToString(), _moves, _client, _memory, _disk, _failures);
}
