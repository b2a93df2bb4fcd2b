using System.Diagnostics;
using System.Globalization;
using Godwit.Api.V1;
using Godwit.Lab.Scenarios;

namespace Godwit.Lab.Daemons;

// Into a store and out of it.
internal sealed partial class LabGuest
{
    internal const string StoreName = "office";

    /// <summary>Makes a store that both hosts reach, empty.</summary>
    internal static string MakeStore(LabDaemons daemons, string name = StoreName)
    {
        string path = Path.Combine(LabDirectory.Disks, $"store-{name}");
        if (Directory.Exists(path))
        {
            Directory.Delete(path, recursive: true);
        }

        foreach (string host in new[] { "a", "b" })
        {
            Call(() => daemons[host].CreateStore(new StoreSpec { Name = name, Location = path }));
        }

        return path;
    }

    /// <summary>Puts the guest to sleep, or keeps its state while it runs on.</summary>
    /// <param name="counts">False for one that only prepares what is measured.</param>
    internal MoveResult Suspend(bool keepRunning = false, bool counts = true)
    {
        long began = Stopwatch.GetTimestamp();
        Parcel parcel = Call(() => _daemons[Host].SuspendGuest(
            new SuspendGuestRequest { Guest = Name, Store = StoreName, KeepRunning = keepRunning },
            cancellationToken: _run.Stopped));
        return Note(new MoveResult(
            Name, Host, StoreName, keepRunning ? "checkpoint" : "suspend", "completed",
            Stopwatch.GetElapsedTime(began).TotalSeconds, (long)parcel.WrittenBytes, parcel.PauseMs, 0,
            new Dictionary<string, double>(), new Dictionary<string, long>(), []), counts);
    }

    /// <summary>Wakes the guest on a host.</summary>
    internal MoveResult Resume(string host, bool lazy = false, bool counts = true)
    {
        long began = Stopwatch.GetTimestamp();
        ResumeGuestResponse answer = Call(() => _daemons[host].ResumeGuest(
            new ResumeGuestRequest { Reference = Name, Lazy = lazy }, cancellationToken: _run.Stopped));
        double seconds = Stopwatch.GetElapsedTime(began).TotalSeconds;
        Host = host;
        return Note(new MoveResult(
            Name, StoreName, host, lazy ? "resume-lazy" : "resume", "completed", seconds, (long)answer.FetchedBytes,
            answer.TotalSeconds * 1000, 0, new Dictionary<string, double>(),
            new Dictionary<string, long>
            {
                ["inPlace"] = (long)answer.KeptBytes,
                ["knownDisk"] = (long)answer.RebuiltBytes,
                ["read"] = (long)answer.ReadBytes,
            }, []), counts);
    }

    private MoveResult Note(MoveResult result, bool counts)
    {
        _run.Display.Line(string.Create(
            CultureInfo.InvariantCulture,
            $"  {result.Method} from {result.From} to {result.To}: {result.TotalSeconds:0.00} s, "
            + $"{ResultText.Bytes(result.WireBytes)}, {result.DowntimeMs:0} ms"));
        if (counts)
        {
            _run.Add(result);
        }

        return result;
    }
}
