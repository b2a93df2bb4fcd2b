using Godwit.Api.V1;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
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
    private async Task<(StoreEntry Entry, ParcelManifest Manifest)> FindAsync(
        string reference, string storeName, ResumeMode mode)
    {
        var answers = await stores.AskAsync(Named(storeName), (entry, store) => LookFor(entry, store, reference));
        var byId = answers.SelectMany(one => one.Answer?.ById ?? []).ToList();
        var matches = answers.SelectMany(one => one.Answer?.Matches ?? []).ToList();
        var refused = answers.SelectMany(one => one.Answer?.Refused ?? []).ToList();
        var failure = answers.Where(one => one.Failure is not null)
            .Select(one => StoreErrors.Explain(one.Entry.Name, one.Failure!)).LastOrDefault();
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
    }

    private sealed record Looked(
        List<(StoreEntry Entry, ParcelManifest Manifest)> ById,
        List<(StoreEntry Entry, ParcelManifest Manifest)> Matches,
        List<(string Guest, string Id, GodwitException Why)> Refused);

    // What one store has of it.
    private Looked LookFor(StoreEntry entry, Store store, string reference)
    {
        var looked = new Looked([], [], []);
        foreach (var one in ParcelShelf.FindAll(store, trust))
        {
            if (one.Refused is { } refused)
            {
                looked.Refused.Add((one.Guest, one.Id, StoreErrors.Explain(entry.Name, refused)));
            }
            else if (reference.Length >= 4 && one.Id.StartsWith(reference, StringComparison.Ordinal))
            {
                looked.ById.Add((entry, one.Manifest!));
            }
            else if (Matches(one.Manifest!, reference))
            {
                looked.Matches.Add((entry, one.Manifest!));
            }
        }

        return looked;
    }

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

        // It sleeps here: this is where it goes on from, of whatever kind that parcel is. Unless another host has gone
        // on with it since, and this one was away when it was to be told.
        var guest = guests.Find(Guid.Parse(matches[0].Manifest.Guest));
        if (mode == ResumeMode.Resume && guest is { Record.Parcel: { Stage: ParcelStage.Asleep } note }
            && matches.TrueForAll(match => match.Manifest.Epoch <= guest.Record.Epoch)
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
        foreach (var entry in Named(storeName))
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
