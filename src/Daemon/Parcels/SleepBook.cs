using Godwit.Api.V1;
using Godwit.ChunkStore.Parcels;
using Godwit.Daemon.Cluster;
using Godwit.Host.Registry;
using Godwit.Migration;

namespace Godwit.Daemon.Parcels;

/// <summary>Where and when guests were suspended and resumed, as the members of the cluster have seen it.</summary>
/// <remarks>
/// A host records the sleeps that began or ended on it; whoever wants to know more asks the others. Nothing waits for
/// the record of a sleep, and nothing fails for it.
/// </remarks>
internal sealed class SleepBook(
    DaemonSettings settings, IRegistry registry, Membership membership, PeerLinks links, ILogger<SleepBook> logger)
{
    private static readonly TimeSpan AskDeadline = TimeSpan.FromSeconds(3);

    /// <summary>What this host knows of a guest's sleeps, the newest first.</summary>
    public Task<IReadOnlyList<SleepRecord>> ListAsync(Guid guest, CancellationToken cancellationToken) =>
        registry.ListSleepsAsync(guest, cancellationToken);

    /// <summary>What all members know of a guest's sleeps, the newest first, and who did not answer.</summary>
    public async Task<(IReadOnlyList<SleepRecord> Sleeps, IReadOnlyList<string> NotAsked)> GatherAsync(
        Guid guest, CancellationToken cancellationToken)
    {
        var own = await ListAsync(guest, cancellationToken);
        var others = (await membership.ListAsync(cancellationToken)).Where(one => one.Name != settings.HostName);
        var answers = await Task.WhenAll(others.Select(host => AskAsync(host, guest, cancellationToken)));
        return (
            [
                .. own.Concat(answers.SelectMany(answer => answer.Sleeps))
                    .GroupBy(sleep => sleep.Parcel).Select(known => known.Aggregate(Join))
                    .OrderByDescending(sleep => sleep.Suspended)
                    .ThenByDescending(sleep => sleep.Parcel, StringComparer.Ordinal),
            ],
            [.. answers.Where(answer => !answer.IsThere).Select(answer => answer.Host)]);
    }

    /// <summary>Records what is known of a sleep, beside what was known.</summary>
    public async Task NoteAsync(SleepRecord sleep)
    {
        try
        {
            await registry.PutSleepAsync(sleep, CancellationToken.None);
        }
        catch (GodwitException exception)
        {
            Log.SleepNotRecorded(logger, sleep.Guest, exception.Message);
        }
    }

    public Task ForgetAsync(Guid guest) => registry.RemoveSleepsAsync(guest, CancellationToken.None);

    /// <summary>The sleep that began with a parcel.</summary>
    public static SleepRecord Of(ParcelManifest manifest) => new(
        Guid.Parse(manifest.Guest), manifest.Id, manifest.Host,
        DateTimeOffset.FromUnixTimeMilliseconds(manifest.CreatedUnixMs));

    public static Sleep ToApi(SleepRecord sleep)
    {
        var there = new Sleep
        {
            Parcel = sleep.Parcel,
            SuspendedOn = sleep.SuspendedOn,
            SuspendedUnixMs = sleep.Suspended.ToUnixTimeMilliseconds(),
            ResumedOn = sleep.ResumedOn,
            ResumedUnixMs = sleep.Resumed?.ToUnixTimeMilliseconds() ?? 0,
            PredictedHost = sleep.PredictedHost,
            PredictedUnixMs = sleep.PredictedFor?.ToUnixTimeMilliseconds() ?? 0,
        };
        if (sleep is { HoardedBytes: { } hoarded, UsedBytes: { } used })
        {
            (there.HoardedBytes, there.UsedBytes) = ((ulong)hoarded, (ulong)used);
        }

        return there;
    }

    private async Task<(string Host, bool IsThere, IReadOnlyList<SleepRecord> Sleeps)> AskAsync(
        HostRecord host, Guid guest, CancellationToken cancellationToken)
    {
        try
        {
            var answer = await links.CallAsync(
                host, AskDeadline,
                (peer, options) => peer.ListSleepsAsync(
                    new ListSleepsRequest { GuestUuid = guest.ToString() }, options),
                cancellationToken);
            return (host.Name, true, [.. answer.Sleeps.Select(sleep => FromApi(guest, sleep))]);
        }
        catch (GodwitException)
        {
            return (host.Name, false, []);
        }
    }

    private static SleepRecord FromApi(Guid guest, Sleep sleep) => new(
        guest, sleep.Parcel, sleep.SuspendedOn, Time(sleep.SuspendedUnixMs))
    {
        ResumedOn = sleep.ResumedOn,
        Resumed = sleep.ResumedOn.Length > 0 ? Time(sleep.ResumedUnixMs) : null,
        PredictedHost = sleep.PredictedHost,
        PredictedFor = sleep.PredictedHost.Length > 0 ? Time(sleep.PredictedUnixMs) : null,
        HoardedBytes = sleep.HasHoardedBytes ? (long)sleep.HoardedBytes : null,
        UsedBytes = sleep.HasUsedBytes ? (long)sleep.UsedBytes : null,
    };

    // A member's word: a time that is none is as good as the beginning of time.
    private static DateTimeOffset Time(long unixMs) => DateTimeOffset.FromUnixTimeMilliseconds(
        Math.Clamp(unixMs, 0, DateTimeOffset.MaxValue.AddYears(-1).ToUnixTimeMilliseconds()));

    // Each host knows its own end of it.
    private static SleepRecord Join(SleepRecord one, SleepRecord other) => one with
    {
        ResumedOn = one.ResumedOn.Length > 0 ? one.ResumedOn : other.ResumedOn,
        Resumed = one.Resumed ?? other.Resumed,
        PredictedHost = one.PredictedHost.Length > 0 ? one.PredictedHost : other.PredictedHost,
        PredictedFor = one.PredictedFor ?? other.PredictedFor,
        HoardedBytes = one.HoardedBytes ?? other.HoardedBytes,
        UsedBytes = one.UsedBytes ?? other.UsedBytes,
    };
}
