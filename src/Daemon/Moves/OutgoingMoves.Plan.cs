using System.Diagnostics;
using System.Globalization;
using Godwit.Api.V1;
using Godwit.Daemon.Guests;
using Godwit.Host.Registry;
using Google.Protobuf;
using MigrationOutcome = Godwit.Migration.MigrationOutcome;
using MigrationPolicy = Godwit.Migration.MigrationPolicy;

namespace Godwit.Daemon.Moves;

/// <summary>What a move would cost, said with what the forecast rests on.</summary>
internal sealed partial class OutgoingMoves
{
    // Before a guest has moved once, nothing is known of its contents or how fast it dirties them. Measured on guests
    // of several kinds, pages coded to 0.3 to 1 of their size, and a busy guest re-sent its memory about once.
    private const double CodedLow = 0.3;
    private const double ResentHigh = 2.0;
    private const double RepeatLow = 0.6;
    private const double RepeatHigh = 1.6;
    private const uint DowntimeLowMs = 20;

    public async Task<MigrationPlan> PlanAsync(
        string name, string to, MigrationPolicy policy, CancellationToken cancellationToken)
    {
        var (guest, host, refusals) = await CheckAsync(name, to, cancellationToken);
        var plan = new MigrationPlan { Possible = refusals.Count == 0, Method = "precopy" };
        plan.Refusals.AddRange(refusals);
        if (!plan.Possible)
        {
            plan.Basis = "No forecast: the move is not possible.";
            return plan;
        }

        var last = (await reports.ListAsync(guest.Record.Name, 20, cancellationToken)).FirstOrDefault(
            record => record.Snapshot.Outcome == MigrationOutcome.Completed && record.Snapshot.WireBytes > 0);
        var used = UsedBytes(guest);
        string sizeBasis;
        if (last is not null)
        {
            plan.BytesLow = (ulong)(last.Snapshot.WireBytes * RepeatLow);
            plan.BytesHigh = (ulong)(last.Snapshot.WireBytes * RepeatHigh);
            sizeBasis = $"bytes from this guest's move {last.Id} ({last.Snapshot.WireBytes >> 20} MiB)";
        }
        else
        {
            plan.BytesLow = (ulong)(used * CodedLow);
            plan.BytesHigh = (ulong)(used * ResentHigh);
            sizeBasis = $"bytes from {used >> 20} MiB of memory in use; this guest has not moved before";
        }

        var (rate, rateBasis) = await LinkRateAsync(host, last, cancellationToken);
        if (policy.BandwidthBitsPerSecond > 0 && policy.BandwidthBitsPerSecond / 8.0 < rate)
        {
            rate = policy.BandwidthBitsPerSecond / 8.0;
            rateBasis = "rate from your --bandwidth";
        }

        plan.SecondsLow = plan.BytesLow / rate;
        plan.SecondsHigh = plan.BytesHigh / rate * 1.5;
        var budget = (uint)policy.DowntimeMax.TotalMilliseconds;
        var pause = last is null ? DowntimeLowMs : (uint)last.Snapshot.Downtime.TotalMilliseconds;
        plan.DowntimeMsLow = Math.Min(pause, budget);
        plan.DowntimeMsHigh = budget;
        plan.Basis = $"{sizeBasis}; {rateBasis}; the pause is at most the budget of {budget} ms or the move is "
            + "not made; how fast the guest dirties its memory is not known before the move";
        return plan;
    }

    private async Task<(double BytesPerSecond, string Basis)> LinkRateAsync(
        HostRecord host, MigrationRecord? last, CancellationToken cancellationToken)
    {
        if (last is { } move && move.Snapshot.Elapsed > TimeSpan.FromSeconds(1) && move.To == host.Name
            && move.Policy.BandwidthBitsPerSecond == 0)
        {
            var rate = move.Snapshot.WireBytes / move.Snapshot.Elapsed.TotalSeconds;
            return (rate, $"rate from that move ({Megabits(rate)} Mbit/s)");
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
