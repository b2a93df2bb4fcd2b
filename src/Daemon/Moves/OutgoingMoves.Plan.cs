using System.Diagnostics;
using System.Globalization;
using System.Runtime.CompilerServices;
using Godwit.Api.V1;
using Godwit.Daemon.Guests;
using Godwit.Host.Forecasts;
using Godwit.Host.Qemu;
using Godwit.Host.Registry;
using Godwit.Migration.Convergence;
using Google.Protobuf;
using MigrationOutcome = Godwit.Migration.MigrationOutcome;
using ContentSharing = Godwit.Migration.ContentSharing;
using MigrationPhase = Godwit.Migration.MigrationPhase;
using MigrationPolicy = Godwit.Migration.MigrationPolicy;
using PlayedForecast = Godwit.Migration.Convergence.Forecast;

namespace Godwit.Daemon.Moves;

/// <summary>What a move would cost, said with what the forecast rests on.</summary>
internal sealed partial class OutgoingMoves
{
    // Memory that cannot be read tells nothing: what guests of several kinds took, and a slow writer.
    private const double UnseenBytesPerPage = 2000;
    private const double UnseenPagesPerSecond = 500;
    // A lane's work on a page besides coding, writing to the connection among it.
    private const double LanePageSeconds = 5e-6;
    // A lane that gets less than that of a processor is one that somebody else is in the way of for a moment.
    private const double SpeedLeast = 0.2;
    // Of what is in use a probe may send so much, for it has to be little beside the move.
    private const long ProbeShare = 128;
    private const long ProbeBytesMin = 1 << 20;
    private const long ProbeBytesMax = 4 << 20;
    private const uint MovesLooked = 50;
    private const long RoundTellsBytes = 8 << 20;
    private const double LinkIdleShare = 0.7;
    private const int PacesLooked = 5;
    private static readonly TimeSpan MoveTellsFor = TimeSpan.FromHours(24);

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

        var postcopy = policy.MayTurnToPostcopy && notes.Count == 0;
        var (forecast, facts, basis) = await ForecastAsync(
            guest, host, policy, postcopy, LinkRateAsync(guest, host, cancellationToken), () => { }, cancellationToken)
            .LastAsync(cancellationToken);
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
        plan.MethodReason = forecast.Reason;
        var from = forecast.Method is "hybrid" or "postcopy" ? "From the switch" : "If it turns to postcopy, from then";
        plan.Risk = !postcopy ? ""
            : $"{from} until all its memory has come {guest.Record.Name} needs both hosts: lost for good, "
                + $"'{settings.HostName}' costs the guest.";
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
            _ => steps,
        };
    }

    /// <summary>The forecast, and again whenever the guest has been looked at for longer.</summary>
    private async IAsyncEnumerable<(PlayedForecast Forecast, ForecastFacts Facts, string Basis)> ForecastAsync(
        LocalGuest guest, HostRecord host, MigrationPolicy policy, bool postcopy, Task<LinkRate> rating, Action coded,
        [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        var cost = await Task.Run(FeedCost.Measure, cancellationToken);
        if (guest.Machine?.OpenMemory() is not [var memory])
        {
            yield return ForecastOf(guest, policy, postcopy, await rating, null, cost);
            yield break;
        }

        using (memory)
        {
            await foreach (var sample in MemorySample.TakeAsync(
                memory, names => FindContentsAsync(guest, host, policy, names, cancellationToken), coded,
                cancellationToken))
            {
                yield return ForecastOf(guest, policy, postcopy, await rating, sample, cost);
            }
        }
    }

    private (PlayedForecast Forecast, ForecastFacts Facts, string Basis) ForecastOf(
        LocalGuest guest, MigrationPolicy policy, bool postcopy, LinkRate link, MemorySample? sample, FeedCost cost)
    {
        var contract = guest.Record.Contract;
        var total = contract.MemoryBytes / Godwit.Pages.Page.Size;
        var used = sample?.UsedPages ?? UsedBytes(guest) / Godwit.Pages.Page.Size;
        var (dirty, set) = sample is null
            ? (UnseenPagesPerSecond, used / 4.0)
            : PlayedForecast.FromSample(
                used, sample.EarlyShare, sample.EarlySeconds, sample.LateShare, sample.LateSeconds);
        var unmapped = sample is null ? 0 : Math.Max(0, used - (UsedBytes(guest) / Godwit.Pages.Page.Size));
        var speed = Math.Max(sample?.Speed ?? 1, SpeedLeast);
        var feed = (((used - unmapped) * FeedCost.MappedSeconds) + (unmapped * cost.UnmappedSeconds)
            + ((total - used) * cost.HoleSeconds)) / speed;
        var rate = policy.BandwidthBitsPerSecond > 0
            ? Math.Min(link.BytesPerSecond, policy.BandwidthBitsPerSecond / 8.0) : link.BytesPerSecond;
        var cores = policy.Cores > 0 ? Math.Min(policy.Cores, settings.Lanes * speed) : settings.Lanes * speed;
        var (perPage, work) = sample is null ? (UnseenBytesPerPage, 0)
            : SampledCoder.Mix(
                // A lane begins with LZ4 and has hardly ever reason to leave pages as they are.
                policy.Compression ? [.. sample.Coders.Skip(1)] : [sample.Coders[0]], rate, cores, LanePageSeconds);
        var facts = new ForecastFacts
        {
            UsedPages = used,
            TotalPages = total,
            WireBytesPerPage = policy.Compression || sample is not null ? perPage : Godwit.Pages.Page.Size,
            AgainBytesPerPage = sample is null || !policy.Compression ? 0 : sample.AgainBytesPerPage,
            DirtyPagesPerSecond = dirty,
            WorkingSetPages = set,
            LinkBytesPerSecond = link.BytesPerSecond,
            Postcopy = postcopy,
            RoundTrip = link.RoundTrip,
            HoldsWritten = guest.Machine is { } machine && QemuInstallation.HoldsSwitchover(machine.Version),
            FirstRoundLeast = link.SecondsPerPage is { } achieved ? TimeSpan.FromSeconds(total * achieved)
                // QEMU's thread, the lanes, and both of them on the processors that there are.
                : TimeSpan.FromSeconds(Math.Max(
                    Math.Max(feed, used * work / cores),
                    ((feed * speed) + (used * work)) / (Environment.ProcessorCount * speed))),
        };
        var basis = string.Create(CultureInfo.InvariantCulture,
            $"{used >> 8} MiB in use, {facts.WireBytesPerPage:F0} bytes a page coded")
            + (sample is null ? "; private memory: its contents and its writes are not known"
                : string.Create(CultureInfo.InvariantCulture,
                    $"; {100 * sample.KnownShare:F0} % of a sample is there already; "
                    + $"{dirty * Godwit.Pages.Page.Size / 1e6:F1} MB/s written, in a sample of a second"))
            + $"; {link.Basis}; "
            + string.Create(CultureInfo.InvariantCulture,
                $"reading all memory takes {facts.FirstRoundLeast.TotalSeconds:F1} s");
        return (PlayedForecast.Of(facts, policy), facts, basis);
    }

    // What the destination says it holds, by the same rules as in the move.
    private async Task<ReadOnlyMemory<byte>> FindContentsAsync(
        LocalGuest guest, HostRecord host, MigrationPolicy policy, ReadOnlyMemory<byte> names,
        CancellationToken cancellationToken)
    {
        if (policy.Share == ContentSharing.None)
        {
            return ReadOnlyMemory<byte>.Empty;
        }

        try
        {
            var request = new FindContentsRequest
            {
                Spec = ContractMapping.ToSpec(guest.Record.Contract),
                Policy = MoveMapping.ToApi(policy),
                Names = UnsafeByteOperations.UnsafeWrap(names),
            };
            var answer = await links.CallAsync(host, CheckDeadline,
                (peer, options) => peer.FindContentsAsync(request, options), cancellationToken);
            return answer.Found.Memory;
        }
        catch (Godwit.Migration.GodwitException exception) when (exception.Code == "wire-version")
        {
            // A daemon before this one: it may hold much, and cannot be asked.
            return ReadOnlyMemory<byte>.Empty;
        }
    }

    /// <summary>Puts a forecast beside the move that is beginning, so that its report tells how good it was.</summary>
    /// <param name="measured">Ends when the move no longer disturbs what is measured.</param>
    private async Task ForecastBesideAsync(
        Departure departure, TaskCompletionSource measured, CancellationToken cancellationToken)
    {
        try
        {
            var move = departure.Move;
            var rating = LinkRateAsync(departure.Guest, departure.Host, cancellationToken);
            await foreach (var (forecast, _, _) in ForecastAsync(
                departure.Guest, departure.Host, move.Record.Policy, departure.Postcopy, rating,
                () => rating.ContinueWith(_ => measured.TrySetResult(), TaskScheduler.Default), cancellationToken))
            {
                // Told afterwards it would be no forecast.
                if (move.Record.Snapshot is { Phase: > MigrationPhase.Copying } or { Rounds.Count: > 0 })
                {
                    break;
                }

                move.Set(record => record with { Snapshot = record.Snapshot with { Forecast = forecast.Report } });
                departure.Expect(forecast);
            }
        }
        catch (Exception exception) when (exception is Godwit.Migration.GodwitException or IOException
            or OperationCanceledException or ObjectDisposedException)
        {
            // The move needs none.
        }
        finally
        {
            measured.TrySetResult();
        }
    }

    /// <summary>What the link to a host carries, as far as it can be known before a move.</summary>
    /// <param name="SecondsPerPage">What processors took for a page of all memory in the first round of moves between
    /// the two hosts; null if none tells.</param>
    private sealed record LinkRate(
        double BytesPerSecond, TimeSpan RoundTrip, string Basis, double? SecondsPerPage = null);

    // What moves have got of a link is what the next one gets of it, and it costs nothing to know. Only the first one
    // has to probe: moves whose pages went by name, or that were held to a rate, say nothing of the link.
    private async Task<LinkRate> LinkRateAsync(
        LocalGuest guest, HostRecord host, CancellationToken cancellationToken)
    {
        var now = clock.GetUtcNow();
        var moves = (await reports.ListAsync("", MovesLooked, cancellationToken))
            .Where(record => (record.From == host.Name || record.To == host.Name)
                && record.Policy is { BandwidthBitsPerSecond: 0, Cores: 0 } && now - record.Started < MoveTellsFor
                && record.Snapshot is { Outcome: MigrationOutcome.Completed, Rounds.Count: > 0 }).ToList();
        var achieved = moves.Where(record => record.To == host.Name)
            .SelectMany(record => record.Snapshot.Rounds, (record, round) => (record.Id, round))
            .Where(one => one.round.WireBytes >= RoundTellsBytes && one.round.WireBytes > one.round.Pages * 256)
            .Select(one => (one.Id, Rate: one.round.WireBytes / Math.Max(one.round.Duration.TotalSeconds, 1e-3)))
            .OrderByDescending(one => one.Rate).FirstOrDefault();
        // Where the link was not what a first round waited for, the processors were, on either side.
        double? PaceAt(double bytesPerSecond)
        {
            var paces = moves.Select(record => record.Snapshot.Rounds[0])
                .Where(round => round.Pages > 0
                    && round.WireBytes / Math.Max(round.Duration.TotalSeconds, 1e-3) < bytesPerSecond * LinkIdleShare)
                .Select(round => round.Duration.TotalSeconds / round.Pages).Take(PacesLooked).Order().ToList();
            return paces.Count > 0 ? paces[paces.Count / 2] : null;
        }

        if (achieved.Rate > 0)
        {
            var trip = await ProbeAsync(host, 0, cancellationToken);
            return new LinkRate(achieved.Rate, trip,
                $"rate from move {achieved.Id} ({Megabits(achieved.Rate)} Mbit/s)", PaceAt(achieved.Rate));
        }

        var (probed, roundTrip) = await LinkProbe.MeasureAsync(
            (bytes, token) => ProbeAsync(host, bytes, token),
            Math.Clamp(UsedBytes(guest) / ProbeShare, ProbeBytesMin, ProbeBytesMax), cancellationToken);
        return new LinkRate(probed, roundTrip, $"rate from a probe just now ({Megabits(probed)} Mbit/s)",
            PaceAt(probed));
    }

    private async Task<TimeSpan> ProbeAsync(HostRecord host, int bytes, CancellationToken cancellationToken)
    {
        var request = new MeasureLinkRequest { Padding = ByteString.CopyFrom(new byte[bytes]) };
        var started = Stopwatch.GetTimestamp();
        await links.CallAsync(host, CheckDeadline,
            (peer, options) => peer.MeasureLinkAsync(request, options), cancellationToken);
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
