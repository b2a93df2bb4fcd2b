using System.Diagnostics;
using System.Globalization;
using Godwit.Api.V1;
using Godwit.Daemon.Guests;
using Godwit.Host.Forecasts;
using Godwit.Host.Registry;
using Godwit.Migration.Convergence;
using Google.Protobuf;
using MigrationOutcome = Godwit.Migration.MigrationOutcome;
using MigrationPolicy = Godwit.Migration.MigrationPolicy;
using PlayedForecast = Godwit.Migration.Convergence.Forecast;

namespace Godwit.Daemon.Moves;

/// <summary>What a move would cost, said with what the forecast rests on.</summary>
internal sealed partial class OutgoingMoves
{
    // Memory that cannot be read tells nothing: what guests of several kinds took, and a slow writer.
    private const double UnseenBytesPerPage = 2000;
    private const double UnseenPagesPerSecond = 500;

    public async Task<MigrationPlan> PlanAsync(
        string name, string to, MigrationPolicy policy, CancellationToken cancellationToken)
    {
        policy = ladders.Resolve(policy);
        var (guest, host, refusals, notes) = await CheckAsync(name, to, policy, cancellationToken);
        var plan = new MigrationPlan { Possible = refusals.Count == 0, Method = "precopy", DirtyBytesPerSecond = -1 };
        plan.Refusals.AddRange(refusals);
        plan.Notes.AddRange(notes);
        if (!plan.Possible)
        {
            plan.Basis = "No forecast: the move is not possible.";
            return plan;
        }

        var (forecast, facts, basis) = await ForecastAsync(
            guest, host, policy, policy.MayTurnToPostcopy && notes.Count == 0, cancellationToken);
        var report = MoveMapping.ToApi(forecast.Report);
        plan.Method = forecast.Method.Length > 0 ? forecast.Method : "none";
        plan.BytesLow = report.BytesLow;
        plan.BytesHigh = report.BytesHigh;
        plan.SecondsLow = report.SecondsLow;
        plan.SecondsHigh = report.SecondsHigh;
        plan.DowntimeMsLow = report.DowntimeMsLow;
        plan.DowntimeMsHigh = forecast.PauseMax is { } most
            ? Math.Min(report.DowntimeMsHigh, (uint)most.TotalMilliseconds) : report.DowntimeMsHigh;
        plan.DirtyBytesPerSecond = facts.DirtyPagesPerSecond * Godwit.Pages.Page.Size;
        plan.Basis = basis + Ending(forecast);
        return plan;
    }

    private static string Ending(PlayedForecast forecast)
    {
        var steps = forecast.Steps.Count > 0 ? $"; steps: {string.Join(", then ", forecast.Steps)}" : "";
        return forecast.Method switch
        {
            "" => steps + "; the rounds would not come to an end: the guest would stay where it is",
            "precopy" when forecast.PauseMax is { } most => steps
                + $"; the pause is at most {most.TotalMilliseconds:F0} ms, or the guest is not paused",
            "precopy" => steps,
            _ => steps + "; from the switch on the guest is lost if the source host is, until all its memory has come",
        };
    }

    private async Task<(PlayedForecast Forecast, ForecastFacts Facts, string Basis)> ForecastAsync(
        LocalGuest guest, HostRecord host, MigrationPolicy policy, bool postcopy, CancellationToken cancellationToken)
    {
        var sampling = SampleAsync(guest, cancellationToken);
        var last = (await reports.ListAsync(guest.Record.Name, 20, cancellationToken)).FirstOrDefault(
            record => record.Snapshot.Outcome == MigrationOutcome.Completed && record.Snapshot.WireBytes > 0);
        var (rate, rateBasis) = await LinkRateAsync(host, last, cancellationToken);
        var sample = await sampling;
        var used = sample?.UsedPages ?? UsedBytes(guest) / Godwit.Pages.Page.Size;
        var (dirty, set) = sample is null
            ? (UnseenPagesPerSecond, used / 4.0)
            : PlayedForecast.FromSample(
                used, sample.EarlyShare, sample.EarlySeconds, sample.LateShare, sample.LateSeconds);
        var perPage = sample?.WireBytesPerPage ?? UnseenBytesPerPage;
        var comesBack = last is not null && last.From == host.Name;
        if (comesBack)
        {
            // What the guest left there goes by name: as much of it as last time.
            perPage = Math.Min(perPage, (double)last!.Snapshot.WireBytes / Math.Max(1, used));
        }

        var facts = new ForecastFacts
        {
            UsedPages = used,
            WireBytesPerPage = policy.Compression ? perPage : Godwit.Pages.Page.Size,
            DirtyPagesPerSecond = dirty,
            WorkingSetPages = set,
            LinkBytesPerSecond = rate,
            Postcopy = postcopy,
        };
        var basis = string.Create(CultureInfo.InvariantCulture,
            $"{used >> 8} MiB in use, {facts.WireBytesPerPage:F0} bytes a page coded")
            + (sample is null ? "; private memory: its contents and its writes are not known"
                : string.Create(CultureInfo.InvariantCulture,
                    $"; {dirty * Godwit.Pages.Page.Size / 1e6:F1} MB/s written, in a sample of a second"))
            + $"; {rateBasis}";
        return (PlayedForecast.Of(facts, policy), facts, basis);
    }

    private static async Task<MemorySample?> SampleAsync(LocalGuest guest, CancellationToken cancellationToken)
    {
        if (guest.Machine is not { } machine || machine.OpenMemory() is not [var memory])
        {
            return null;
        }

        using (memory)
        {
            return await Task.Run(() => MemorySample.TakeAsync(memory, cancellationToken), cancellationToken);
        }
    }

    /// <summary>Puts a forecast beside the move that is beginning, so that its report tells how good it was.</summary>
    private async Task ForecastBesideAsync(Departure departure, CancellationToken cancellationToken)
    {
        try
        {
            var move = departure.Move;
            var (forecast, _, _) = await ForecastAsync(
                departure.Guest, departure.Host, move.Record.Policy, departure.Postcopy, cancellationToken);
            move.Set(record => record with { Snapshot = record.Snapshot with { Forecast = forecast.Report } });
        }
        catch (Exception exception) when (exception is Godwit.Migration.GodwitException or IOException
            or OperationCanceledException or ObjectDisposedException)
        {
            // The move needs none.
        }
    }

    private async Task<(double BytesPerSecond, string Basis)> LinkRateAsync(
        HostRecord host, MigrationRecord? last, CancellationToken cancellationToken)
    {
        if (last is { } move && move.Snapshot.WireBytesPerSecond > 0 && move.To == host.Name
            && move.Policy.BandwidthBitsPerSecond == 0)
        {
            return (move.Snapshot.WireBytesPerSecond,
                $"rate from move {move.Id} ({Megabits(move.Snapshot.WireBytesPerSecond)} Mbit/s)");
        }

        // Two sizes, so that the connection's setup and the round trip drop out of the difference.
        const int SmallBytes = 16 << 10;
        const int LargeBytes = 900 << 10;
        const int Repeats = 4;
        await ProbeAsync(host, SmallBytes, 1, cancellationToken);
        var small = await ProbeAsync(host, SmallBytes, Repeats, cancellationToken);
        var large = await ProbeAsync(host, LargeBytes, Repeats, cancellationToken);
        var spent = Math.Max((large - small).TotalSeconds, 1e-4);
        var probed = (LargeBytes - SmallBytes) * (double)Repeats / spent;
        return (probed, $"rate from a probe just now ({Megabits(probed)} Mbit/s)");
    }

    private async Task<TimeSpan> ProbeAsync(
        HostRecord host, int bytes, int repeats, CancellationToken cancellationToken)
    {
        var request = new MeasureLinkRequest { Padding = ByteString.CopyFrom(new byte[bytes]) };
        var started = Stopwatch.GetTimestamp();
        for (var index = 0; index < repeats; index++)
        {
            await links.CallAsync(host, CheckDeadline,
                (peer, options) => peer.MeasureLinkAsync(request, options), cancellationToken);
        }

        return Stopwatch.GetElapsedTime(started);
    }

    /// <summary>Guest memory that has been touched, as the kernel counts it for QEMU's process.</summary>
    private static long UsedBytes(LocalGuest guest)
    {
        var key = guest.Record.Contract.SharedMemory ? "RssShmem:" : "RssAnon:";
        try
        {
            var line = File.ReadLines($"/proc/{guest.Machine?.ProcessId}/status")
                .First(one => one.StartsWith(key, StringComparison.Ordinal));
            var kibibytes = line.Split(' ', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries)[^2];
            return Math.Min(
                long.Parse(kibibytes, CultureInfo.InvariantCulture) << 10, guest.Record.Contract.MemoryBytes);
        }
        catch (Exception exception) when (exception is IOException or InvalidOperationException)
        {
            return guest.Record.Contract.MemoryBytes;
        }
    }

    private static string Megabits(double bytesPerSecond) =>
        (bytesPerSecond * 8 / 1e6).ToString("F0", CultureInfo.InvariantCulture);
}
