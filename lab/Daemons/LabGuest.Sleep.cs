using System.Diagnostics;
using System.Globalization;
using Godwit.Api.V1;
using Godwit.Lab.Scenarios;
using Grpc.Core;

namespace Godwit.Lab.Daemons;

// Into a store and out of it.
internal sealed partial class LabGuest
{
    internal const string StoreName = "office";

    /// <summary>Makes a store that both hosts reach, empty.</summary>
    internal static string MakeStore(LabDaemons daemons) => MakeStoreOn(daemons, ["a", "b"], "");

    /// <summary>Makes a store, empty, and has some hosts know it.</summary>
    /// <param name="coding">Empty for the default.</param>
    internal static string MakeStoreOn(LabDaemons daemons, string[] hosts, string coding)
    {
        string path = Path.Combine(LabDirectory.Disks, $"store-{StoreName}");
        if (Directory.Exists(path))
        {
            Directory.Delete(path, recursive: true);
        }

        foreach (string host in hosts)
        {
            StoreSpec spec = new() { Name = StoreName, Location = path, Coding = coding };
            Call(() => daemons[host].CreateStore(spec));
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

    /// <summary>Has a host fetch ahead what the guest's resume will need.</summary>
    internal HoardProgress Hoard(string host)
    {
        HoardProgress last = Call(() => FollowAsync(_daemons[host].HoardGuest(
            new HoardGuestRequest { Reference = Name }, cancellationToken: _run.Stopped)).GetAwaiter().GetResult());
        _run.Display.Line(string.Create(
            CultureInfo.InvariantCulture,
            $"  hoarded on {host}: {last.TotalSeconds:0.00} s, {ResultText.Bytes((long)last.HoardedBytes)} of "
            + $"{ResultText.Bytes((long)last.NeededBytes)}, {ResultText.Bytes((long)last.FetchedBytes)} fetched"));
        return last;
    }

    private static async Task<HoardProgress> FollowAsync(AsyncServerStreamingCall<HoardProgress> call)
    {
        HoardProgress last = new();
        using (call)
        {
            await foreach (HoardProgress progress in call.ResponseStream.ReadAllAsync())
            {
                last = progress;
            }
        }

        return last;
    }

    private MoveResult Note(MoveResult result, bool counts)
    {
        _run.Display.Line(string.Create(
            CultureInfo.InvariantCulture,
            $"  {result.Method} from {result.From} to {result.To}: {result.TotalSeconds:0.00} s, "
            + $"{ResultText.Bytes(result.WireBytes)}, {result.DowntimeMs:0} ms")
            + string.Concat(result.SavedBytes.Select(part => $", {part.Key} {ResultText.Bytes(part.Value)}")));
        if (counts)
        {
            _run.Add(result);
        }

        return result;
    }
}
