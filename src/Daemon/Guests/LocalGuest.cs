using Godwit.Api.V1;
using Godwit.Host.Qemu;
using Godwit.Host.Registry;
using Godwit.Migration.HandOver;

namespace Godwit.Daemon.Guests;

/// <summary>A guest as this host knows it: its record, and its QEMU while one runs here.</summary>
/// <remarks><see cref="Gate"/> is held by whoever changes it; reading a property needs no lock.</remarks>
internal sealed class LocalGuest(GuestRecord record)
{
    private volatile GuestRecord _record = record;
    private volatile QemuMachine? _machine;
    private volatile string _migrationId = "";
    private int _consoleSessions;

    public SemaphoreSlim Gate { get; } = new(1);

    /// <summary>As the registry has it; behind the record's own while a fact could not be stored.</summary>
    public long StoredEpoch { get; set; } = record.Epoch;

    public GuestRecord Record
    {
        get => _record;
        set => _record = value;
    }

    public QemuMachine? Machine
    {
        get => _machine;
        set => _machine = value;
    }

    /// <summary>What was known of a guest before it set out to come back; null if it has never been here.</summary>
    public GuestRecord? BeforeArrival { get; set; }

    /// <summary>
    /// Of the move in progress; empty if there is none. While it is set nobody else touches the machine.
    /// </summary>
    public string MigrationId
    {
        get => _migrationId;
        set => _migrationId = value;
    }

    /// <summary>
    /// True while it is on its way here. A record that says so without a move is one that could not be removed.
    /// </summary>
    public bool IsArriving => Record.Intent == GuestIntent.Incoming && MigrationId.Length > 0;

    /// <summary>
    /// Takes the console, which serves one session: QEMU lets a second one connect and then neither shows it anything
    /// nor takes its keys before the first has ended.
    /// </summary>
    /// <returns>False if another session has it.</returns>
    public bool TryTakeConsole() => Interlocked.CompareExchange(ref _consoleSessions, 1, 0) == 0;

    public void ReleaseConsole() => Volatile.Write(ref _consoleSessions, 0);

    public bool IsPaused { get; set; }

    /// <summary>
    /// What an earlier daemon left of its arrival: it runs here, lacks memory, and its QEMU may not answer until it has
    /// more. Null for every other guest.
    /// </summary>
    public HandOverRecord? TakenUp { get; set; }

    /// <summary>Ends when the QEMU of such a guest has answered, and the guest runs.</summary>
    public TaskCompletionSource Adopted { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>Pages that it touched first when it was last woken here; the next parcel is told.</summary>
    public IReadOnlyList<long> WakePages { get; set; } = [];

    /// <summary>Set by QEMU's SHUTDOWN event: the guest switched itself off, or it was told to.</summary>
    public bool HasShutDown { get; set; }

    public GuestState StateOn(string host)
    {
        if (Record.Intent == GuestIntent.Incoming)
        {
            return GuestState.Incoming;
        }

        if (Record.Host != host)
        {
            return GuestState.Elsewhere;
        }

        if (Record.Parcel is { Stage: ParcelStage.Suspending or ParcelStage.Asleep or ParcelStage.Resuming })
        {
            return GuestState.Suspended;
        }

        var isFilling = MigrationId.Length > 0 && Record.Parcel is { Stage: ParcelStage.Filling };
        if (Machine is null)
        {
            // Of a guest that runs and lacks memory, QEMU may not have answered this daemon yet.
            return TakenUp is not null ? GuestState.Migrating
                : isFilling ? GuestState.Running
                : Record.Detail.Length > 0 ? GuestState.Failed : GuestState.Stopped;
        }

        // Memory that still arrives from a store does not make it any less a running one.
        return MigrationId.Length > 0 && !isFilling ? GuestState.Migrating
            : IsPaused ? GuestState.Paused : GuestState.Running;
    }
}
