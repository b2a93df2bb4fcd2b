using Godwit.Host.HandOver;
using Godwit.Migration.HandOver;

namespace Godwit.Daemon.Guests;

/// <summary>This host's hand-over journal, for any thread. docs/formats/hand-over.md is what it is for.</summary>
internal sealed class HandOvers : IDisposable
{
    private readonly Lock _lock = new();
    private readonly JournalFile _file;
    private readonly HandOverJournal _journal;
    private readonly string _host;

    /// <exception cref="Godwit.Migration.GodwitException">
    /// <c>journal-broken</c> or <c>journal-newer</c>: the daemon may not start, for it might start a second copy.
    /// </exception>
    public HandOvers(DaemonSettings settings)
    {
        _host = settings.HostName;
        _file = new JournalFile(settings.HandOverJournal);
        _journal = HandOverJournal.Open(_file, Guid.NewGuid());
    }

    /// <summary>Of the journal.</summary>
    public Guid Identity => _journal.Identity;

    public IReadOnlyList<HandOverRecord> Outstanding
    {
        get
        {
            lock (_lock)
            {
                return [.. _journal.Records.Where(record => record.IsOutstanding)];
            }
        }
    }

    public HandOverRecord? Find(string migration)
    {
        lock (_lock)
        {
            return _journal.Find(migration);
        }
    }

    /// <inheritdoc cref="HandOverJournal.OfGuest"/>
    public HandOverRecord? OfGuest(Guid guest)
    {
        lock (_lock)
        {
            return _journal.OfGuest(guest);
        }
    }

    /// <summary>Says who may run the guest of a migration to this host.</summary>
    /// <param name="owned">As the registry has it; null if the guest is not known here.</param>
    public HandOverAnswer Answer(GuestOwnership? owned, bool hasDied, GuestCopy copy, string migration, long epoch)
    {
        lock (_lock)
        {
            _journal.TryPutBack();
            return HandOverRules.Answer(_host, owned, hasDied, copy, _journal, migration, epoch);
        }
    }

    /// <inheritdoc cref="HandOverJournal.TryPutBack"/>
    public bool TryPutBack()
    {
        lock (_lock)
        {
            return _journal.TryPutBack();
        }
    }

    /// <summary>Records durably.</summary>
    /// <exception cref="Godwit.Migration.GodwitException"><c>journal-unwritable</c>: nothing is promised.</exception>
    public Task RecordAsync(HandOverRecord record) => Task.Run(() =>
    {
        lock (_lock)
        {
            _journal.Record(record);
        }
    });

    /// <summary>The source knows how the migration ended; this host may forget it.</summary>
    /// <param name="source">Who says so; nobody else is believed.</param>
    public async Task CloseAsync(string migration, string source)
    {
        if (Find(migration) is { State: HandOverState.Resuming } record && record.Peer == source)
        {
            await RecordAsync(record with { State = HandOverState.Closed });
        }
    }

    /// <summary>Drops what is over. For a time when the registry has caught up with the journal.</summary>
    public void Compact()
    {
        lock (_lock)
        {
            _journal.Compact();
        }
    }

    public void Dispose() => _file.Dispose();
}
