using System.Globalization;
using Godwit.Api.V1;
using Godwit.Lab.Guests;
using Godwit.Lab.Network;
using Godwit.Lab.Outside;
using Godwit.Lab.Qemu;
using Godwit.Lab.Scenarios;
using Grpc.Core;

namespace Godwit.Lab.Daemons;

/// <summary>A guest that Godwit runs in the lab, watched by the client outside and by its own agent.</summary>
internal sealed partial class LabGuest
{
    private readonly ScenarioRun _run;
    private readonly LabDaemons _daemons;

    private LabGuest(ScenarioRun run, LabDaemons daemons, string name, AgentControl agent, GuestShape shape)
    {
        _run = run;
        _daemons = daemons;
        Name = name;
        Agent = agent;
        Shape = shape;
    }

    internal string Name { get; }

    internal AgentControl Agent { get; private set; }

    internal GuestShape Shape { get; }

    /// <summary>Its disk image, under the same path on both hosts.</summary>
    internal string Disk => DiskOf(Name);

    /// <summary>The host it runs on, as the last move left it.</summary>
    internal string Host { get; private set; } = "a";

    /// <summary>Creates the guest on host a, boots it, and waits for its agent.</summary>
    /// <param name="diskGibibytes">Of its disk, all of it data; 0 for one that is no larger than it needs.</param>
    internal static LabGuest Boot(
        ScenarioRun run, LabDaemons daemons, GuestShape shape, MemoryBacking backing, int diskGibibytes = 0)
    {
        string name = $"guest{shape.Number}";
        string disk = DiskOf(name);
        File.Copy(run.DiskFor(shape), disk, overwrite: true);
        if (diskGibibytes > 0)
        {
            Enlarge(disk, (long)diskGibibytes << 30);
        }

        GuestSpec spec = new()
        {
            Name = name,
            MemoryBytes = (ulong)shape.MemoryMegabytes << 20,
            Cpus = (uint)shape.Cpus,
            KernelPath = run.Image.Kernel,
            InitramfsPath = run.Image.Initramfs,
            KernelCommandLine = shape.KernelCommandLine,
            MemoryBacking = backing,
            Disks = { new Disk { Path = disk, Format = "raw" } },
            Interfaces =
            {
                new Api.V1.NetworkInterface
                {
                    Bridge = "br0",
                    Mac = shape.Mac,
                    Addresses = { shape.Address, LabNetwork.GuestAddress6(shape.Number) },
                },
            },
        };
        long began = System.Diagnostics.Stopwatch.GetTimestamp();
        Guest made = Call(() => daemons["a"].CreateGuest(new CreateGuestRequest { Spec = spec, Start = true }));
        run.Display.Line($"Booting {name} on host a ({made.Spec.Accelerator}, {shape.MemoryMegabytes} MiB)");
        AgentControl agent = run.Own(AgentControl.Connect(shape.Address, AgentControl.BootMax, run.Stopped));
        run.Display.Line(string.Create(
            CultureInfo.InvariantCulture,
            $"  up after {System.Diagnostics.Stopwatch.GetElapsedTime(began).TotalSeconds:0.0} s, at {shape.Address}"));
        return new LabGuest(run, daemons, name, agent, shape);
    }

    // Behind what the guest uses: noise that repeats itself, so that it costs the store little.
    private static void Enlarge(string disk, long bytes)
    {
        byte[] noise = new byte[1 << 20];
        new Random(1).NextBytes(noise);
        using FileStream file = new(disk, FileMode.Append);
        while (file.Position < bytes)
        {
            file.Write(noise, 0, (int)Math.Min(noise.Length, bytes - file.Position));
        }
    }

    /// <summary>Speaks to the agent of a guest that was started again.</summary>
    internal void ReconnectAgent()
    {
        Agent.Dispose();
        Agent = _run.Own(AgentControl.Connect(Shape.Address, AgentControl.BootMax, _run.Stopped));
    }

    /// <summary>Moves the guest and waits for the end, whatever it is; shows it as it happens.</summary>
    /// <param name="counts">False for a move that only prepares the one that is measured.</param>
    /// <param name="meanwhile">Called at each message of the daemon, to interfere.</param>
    internal MoveResult Move(
        string to, OutsideClient client, MigrationPolicy policy, Action<Api.V1.Migration>? meanwhile = null,
        bool counts = true)
    {
        string from = Host;
        Control.ControlClient source = _daemons[from];
        if (policy.MaxDowntimeMs == 0 && _run.PauseMaxMs > 0)
        {
            policy = policy.Clone();
            policy.MaxDowntimeMs = _run.PauseMaxMs;
        }

        GuestPace before = GuestPace.Take(Agent);
        _run.Pause(TimeSpan.FromSeconds(1));
        _ = Agent.TakeLongestGapMs();
        bool walks = WalkResult.Begin(Agent);
        GuestPace start = GuestPace.Take(Agent);
        DateTime began = DateTime.UtcNow;
        long uplink = LabNetwork.UplinkBytes(from);
        Api.V1.Migration state = Call(() => source.StartMigration(
            new StartMigrationRequest { Guest = Name, To = to, Policy = policy }));
        _run.Display.Line($"Moving {Name} from {from} to {to}");
        state = Watch(source, state, meanwhile).GetAwaiter().GetResult();
        uplink = LabNetwork.UplinkBytes(from) - uplink;
        GuestPace end = GuestPace.Take(Agent);
        end.ExpectClock(_run, start);
        _run.Pause(TimeSpan.FromSeconds(1));
        double gap = Agent.TakeLongestGapMs();
        GuestPace after = GuestPace.Take(Agent);
        if (state.Outcome == MigrationOutcome.Completed)
        {
            Host = to;
        }

        ClientReport seen = client.Report(began, DateTime.UtcNow);
        double blackout = Math.Round(new TimeSpan(seen.Blackout.Ticks).TotalMilliseconds, 1);
        MoveResult result = new(
            Name, from, to, state.Method, OutcomeText(state.Outcome), state.TotalSeconds, (long)state.WireBytes,
            state.DowntimeMs, blackout,
            Parts(state, blackout),
            state.SavedBytes.OrderBy(part => part.Key, StringComparer.Ordinal)
                .ToDictionary(part => part.Key, part => (long)part.Value),
            [.. state.Rounds.Select(round =>
                new RoundResult((long)round.Pages, (long)round.Bytes, round.Seconds, round.DirtyBytesPerSecond))])
        {
            GuestPagesPerSecond = new PaceResult(start.Since(before), end.Since(start), after.Since(end)),
            UplinkBytes = uplink,
            LaterWireBytes = (long)state.Rounds.Skip(1).Aggregate(0UL, (sum, round) => sum + round.Bytes),
            GuestLongestGapMs = Math.Round(gap, 1),
            GuestClockLagMs = end.ClockLagMs(start),
            Walk = walks ? WalkResult.Take(_run, Agent, seen.Blackout) : null,
            DaemonCpuSeconds = state.DaemonCpuSeconds,
            MethodReason = state.MethodReason.Length > 0 ? state.MethodReason : null,
            Forecast = ForecastResult.Of(state),
            Error = state.Error.Length > 0 ? $"{state.ErrorCode}: {state.Error}" : null,
        };
        if (counts)
        {
            _run.Add(result);
        }

        _run.Display.Line(string.Create(
            CultureInfo.InvariantCulture,
            $"  {result.Outcome} after {result.TotalSeconds:0.00} s, {ResultText.Bytes(result.WireBytes)} on the wire, "
            + $"{result.Rounds.Count} rounds, paused {result.DowntimeMs:0} ms, "
            + $"blackout outside {result.BlackoutMs:0} ms"));
        return result;
    }

    // What the daemons measured, in the order in which it passes, and what is left of the blackout: a guest that runs
    // again has to answer too, and an emulated processor translates its code anew first.
    private static Dictionary<string, double> Parts(Api.V1.Migration state, double blackout)
    {
        Dictionary<string, double> parts = [];
        foreach (string name in new[] { "last_round", "device_state", "load", "commit", "resume", "announcement" })
        {
            if (state.BlackoutParts.TryGetValue($"{name}_ms", out double value))
            {
                string[] words = name.Split('_');
                parts[words[0] + string.Concat(words.Skip(1).Select(word => char.ToUpperInvariant(word[0]) + word[1..]))
                    + "Ms"] = Math.Round(value, 3);
            }
        }

        if (parts.Count > 0)
        {
            parts["untilAnswerMs"] = Math.Round(Math.Max(0, blackout - parts.Values.Sum()), 1);
        }

        return parts;
    }

    /// <summary>The state the daemon of a host has of this guest, or null when it knows none.</summary>
    internal Guest? On(string host)
    {
        try
        {
            return _daemons[host].GetGuest(new GuestRequest { Name = Name });
        }
        catch (RpcException e) when (e.StatusCode == StatusCode.NotFound)
        {
            return null;
        }
    }

    /// <summary>Whether a host has in its inventory what the guest left there.</summary>
    internal bool IsKeptOn(string host) =>
        _daemons[host].ListInventory(new ListInventoryRequest()).Entries.Any(
            entry => entry.Kind == "memory" && entry.Name == Name);

    /// <summary>Checks that the guest runs on exactly the host it should.</summary>
    internal void ExpectRunningOnlyOn(string host)
    {
        foreach (string each in LabNetwork.Hosts)
        {
            bool runs = On(each) is { State: GuestState.Running };
            _run.Expect(runs == (each == host), $"{Name} {(runs ? "runs" : "does not run")} on host {each}");
        }
    }

    private static string DiskOf(string name) => Path.Combine(LabDirectory.Disks, name + ".raw");

    private static T Call<T>(Func<T> call)
    {
        try
        {
            return call();
        }
        catch (RpcException e)
        {
            throw new LabException($"The daemon refused: {e.Status.Detail}", e);
        }
    }

    private async Task<Api.V1.Migration> Watch(
        Control.ControlClient source, Api.V1.Migration state, Action<Api.V1.Migration>? meanwhile)
    {
        int round = -1;
        MigrationPhase phase = MigrationPhase.Preparing;
        string reason = "";
        try
        {
            using AsyncServerStreamingCall<Api.V1.Migration> call =
                source.WatchMigration(new MigrationRequest { Id = state.Id }, cancellationToken: _run.Stopped);
            while (await call.ResponseStream.MoveNext(_run.Stopped))
            {
                state = call.ResponseStream.Current;
                bool news = state.Rounds.Count != round || state.Phase != phase;
                round = state.Rounds.Count;
                phase = state.Phase;
                if (state.MethodReason != reason)
                {
                    reason = state.MethodReason;
                    _run.Display.Line($"  {reason}");
                }

                _run.Display.Progress(Describe(state), news);
                meanwhile?.Invoke(state);
            }
        }
        catch (RpcException e) when (e.StatusCode == StatusCode.Cancelled && _run.Stopped.IsCancellationRequested)
        {
            throw new OperationCanceledException(_run.Stopped);
        }

        return Call(() => source.GetMigration(new MigrationRequest { Id = state.Id }));
    }

    private static string Describe(Api.V1.Migration state)
    {
        Progress p = state.Progress ?? new Progress();
        string left = p.SecondsLeft >= 0
            ? string.Create(CultureInfo.InvariantCulture, $", {p.SecondsLeft:0.0} s left") : "";
        ulong saved = state.SavedBytes.Values.Aggregate(0UL, (sum, each) => sum + each);
        string verdict = p.Verdict.Length > 0 ? $"  ({p.Verdict})" : "";
        return string.Create(
            CultureInfo.InvariantCulture,
            $"  {state.Phase.ToString().ToLowerInvariant(),-10} {p.Fraction * 100,3:0}%  round {state.Rounds.Count}  "
            + $"sent {ResultText.Bytes((long)p.SentBytes)}, saved {ResultText.Bytes((long)saved)}, "
            + $"dirty {ResultText.Bytes((long)p.DirtyBytesPerSecond)}/s, pause now {p.ExpectedDowntimeMs} ms"
            + $"{left}{verdict}");
    }

    private static string OutcomeText(MigrationOutcome outcome) => outcome switch
    {
        MigrationOutcome.Completed => "completed",
        MigrationOutcome.Failed => "failed",
        MigrationOutcome.Cancelled => "cancelled",
        MigrationOutcome.NotConverged => "not converged",
        MigrationOutcome.Unsettled => "unsettled",
        _ => "pending",
    };
}
