namespace Godwit.ChunkStore.Storage;

/// <summary>
/// Says to everybody that this host works on the store: what it may rely on is not removed meanwhile.
/// </summary>
/// <remarks>
/// The rule that makes removal safe without a lock: a session is put before its holder looks which packs are condemned,
/// and packs are condemned before the collector looks which sessions there are. So either the session does not build on
/// a condemned pack, or the collector sees it and waits for its end.
/// </remarks>
public sealed class StoreSession : IDisposable
{
    private readonly Store _store;
    private readonly string _name;

    private StoreSession(Store store, string name)
    {
        _store = store;
        _name = name;
    }

    /// <summary>False once it was disposed of.</summary>
    public bool IsOpen { get; private set; } = true;

    /// <summary>Begins one, and brings the store up to date.</summary>
    /// <param name="id">Unique: letters, digits, hyphens.</param>
    /// <param name="host">Whose it is.</param>
    /// <param name="nowUnixMs">The time.</param>
    /// <param name="random">Fills bytes at random.</param>
    public static StoreSession Begin(
        Store store, string id, string host, long nowUnixMs, Action<Span<byte>> random)
    {
        string name = $"{ObjectNames.Sessions}/{id}";
        byte[] note = SealedText.Write(
            new SessionNote(host, nowUnixMs), StoreJson.Default.SessionNote, store.Key, random);
        if (!store.Objects.PutIfAbsent(name, note))
        {
            throw new ArgumentException($"There is a session {id} already.", nameof(id));
        }

        var session = new StoreSession(store, name);
        try
        {
            store.Refresh();
            return session;
        }
        catch
        {
            session.Dispose();
            throw;
        }
    }

    /// <summary>Removes the sessions that an earlier process of this host left behind.</summary>
    public static void RemoveLeftOvers(Store store, string host)
    {
        foreach (StoredObject listed in store.Objects.List(ObjectNames.Sessions))
        {
            try
            {
                if (TryRead(store, listed.Name) is { } note && note.Host == host)
                {
                    store.Objects.Delete(listed.Name);
                }
            }
            catch (StoreFormatException)
            {
                // Nobody knows whose it is: the collector waits for it a day.
            }
        }
    }

    /// <summary>
    /// Sees that this one still counts. To be called after the last chunk and before the manifest: a collector takes a
    /// session for lost when it is old by the clocks of two hosts.
    /// </summary>
    /// <exception cref="StorageException">It does not: what was relied on may be gone.</exception>
    public void RequireThere()
    {
        if (_store.Objects.TryReadAll(_name) is null)
        {
            throw new StorageException(StorageFailure.Changed,
                $"{_name} was removed while it was under way; what it relied on may have been collected");
        }
    }

    internal static SessionNote? TryRead(Store store, string name) =>
        store.Objects.TryReadAll(name) is { } bytes
            ? SealedText.Read(name, bytes.Span, StoreJson.Default.SessionNote, store.Key) : null;

    /// <summary>Ends it. If storage fails the session stays until it is old.</summary>
    public void Dispose()
    {
        IsOpen = false;
        try
        {
            _store.Objects.Delete(_name);
        }
        catch (StorageException)
        {
            // The collector takes no notice of it after a day.
        }
    }
}
