using Godwit.Api.V1;
using Godwit.ChunkStore.Parcels;
using Godwit.Host.Registry;
using Godwit.Migration;
using ParcelKind = Godwit.ChunkStore.Parcels.ParcelKind;

namespace Godwit.Daemon.Parcels;

// Which parcel is meant.
internal sealed partial class ParcelKeeper
{
    /// <summary>Finds the parcel that is meant: by its id, or the newest of a guest.</summary>
    /// <remarks>
    /// A parcel that is refused is in the way of its own guest only, and only if it is newer than what is found.
    /// </remarks>
    private Task<(StoreEntry Entry, ParcelManifest Manifest)> FindAsync(
        string reference, string storeName, ResumeMode mode) => Task.Run(() =>
    {
        var matches = new List<(StoreEntry Entry, ParcelManifest Manifest)>();
        var byId = new List<(StoreEntry Entry, ParcelManifest Manifest)>();
        var refused = new List<(string Guest, string Id, GodwitException Why)>();
        GodwitException? failure = null;
        foreach (var entry in storeName.Length > 0 ? [stores.Find(storeName)] : stores.All)
        {
            try
            {
                var store = stores.Open(entry);
                foreach (var (uuid, id) in ParcelShelf.List(store))
                {
                    try
                    {
                        if (ParcelShelf.Find(store, uuid, id, trust) is not { } manifest)
                        {
                            continue;
                        }

                        if (reference.Length >= 4 && id.StartsWith(reference, StringComparison.Ordinal))
                        {
                            byId.Add((entry, manifest));
                        }
                        else if (Matches(manifest, reference))
                        {
                            matches.Add((entry, manifest));
                        }
                    }
                    catch (ParcelRefusedException exception)
                    {
                        refused.Add((uuid, id, StoreErrors.Explain(entry.Name, exception)));
                    }
                }
            }
            catch (Exception exception) when (StoreErrors.IsKnown(exception))
            {
                failure = StoreErrors.Explain(entry.Name, exception);
            }
        }

        if (byId.Count > 0 && byId.All(match => match.Manifest.Id == byId[0].Manifest.Id))
        {
            return byId[0];
        }

        if (byId.Count > 0)
        {
            throw new GodwitException("parcel-unknown",
                $"'{reference}' is the beginning of {byId.Count} parcels' ids.", "Give more of it.");
        }

        return NewestOf(OfOneGuest(matches, reference), refused, mode) ?? throw failure
            ?? refused.Select(one => one.Why).FirstOrDefault()
            ?? new GodwitException("parcel-unknown",
                $"No store of host '{settings.HostName}' has a parcel of '{reference}'.",
                "List them with 'godwit vm history'; another store is named with --store.");
    });

    // A name may have been another guest's before: the one that this host knows by it is meant.
    private List<(StoreEntry Entry, ParcelManifest Manifest)> OfOneGuest(
        List<(StoreEntry Entry, ParcelManifest Manifest)> matches, string reference)
    {
        var known = guests.All.FirstOrDefault(guest => guest.Record.Name == reference)?.Record.Uuid.ToString();
        List<string> meant = [.. matches.Select(match => match.Manifest.Guest).Distinct()
            .Where(uuid => known is null || uuid == known)];
        return meant.Count <= 1
            ? [.. matches.Where(match => meant.Contains(match.Manifest.Guest))]
            : throw new GodwitException("guest-ambiguous",
                $"'{reference}' means {meant.Count} guests that have parcels: {string.Join(", ", meant)}.",
                "Give the UUID of the one, or the id of its parcel: 'godwit vm history' lists them.");
    }

    private (StoreEntry Entry, ParcelManifest Manifest)? NewestOf(
        List<(StoreEntry Entry, ParcelManifest Manifest)> matches,
        List<(string Guest, string Id, GodwitException Why)> refused, ResumeMode mode)
    {
        if (matches.Count == 0)
        {
            return null;
        }

        // It sleeps here: this is where it goes on from, of whatever kind that parcel is.
        var guest = guests.Find(Guid.Parse(matches[0].Manifest.Guest));
        if (mode == ResumeMode.Resume && guest is { Record.Parcel: { Stage: ParcelStage.Asleep } note }
            && matches.Where(match => match.Manifest.Id == note.Id).OrderBy(match => match.Entry.Name != note.Store)
                .Cast<(StoreEntry Entry, ParcelManifest Manifest)?>().FirstOrDefault() is { } own)
        {
            return own;
        }

        var newest = matches
            .Where(match => mode != ResumeMode.Resume || match.Manifest.Kind == ParcelKind.Suspend)
            .OrderBy(match => match.Manifest.Epoch).ThenBy(match => match.Manifest.Id, StringComparer.Ordinal)
            .Cast<(StoreEntry Entry, ParcelManifest Manifest)?>().LastOrDefault();
        return refused.FirstOrDefault(one => one.Guest == matches[0].Manifest.Guest
            && string.CompareOrdinal(one.Id, newest?.Manifest.Id ?? "") > 0) is { Why: { } why } ? throw why : newest;
    }

    /// <summary>Removes a parcel that nobody can read, if it is named by its whole id.</summary>
    private Parcel? TryRemoveUnreadable(string id, string storeName)
    {
        foreach (var entry in storeName.Length > 0 ? [stores.Find(storeName)] : stores.All)
        {
            try
            {
                var store = stores.Open(entry);
                foreach (var (guest, _) in ParcelShelf.List(store).Where(parcel => parcel.Id == id))
                {
                    try
                    {
                        _ = ParcelShelf.Find(store, guest, id, trust);
                    }
                    catch (ParcelRefusedException exception) when (!exception.IsNewer)
                    {
                        ParcelShelf.Remove(store, guest, id);
                        Log.ParcelRemoved(logger, id, guest, entry.Name);
                        return new Parcel { Id = id, Store = entry.Name, GuestUuid = guest };
                    }
                }
            }
            catch (Exception exception) when (StoreErrors.IsKnown(exception))
            {
                // The parcel may be in another one.
            }
        }

        return null;
    }
}
