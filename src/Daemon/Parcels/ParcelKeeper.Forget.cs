using Godwit.Api.V1;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.Host.Registry;
using Godwit.Migration;
using ParcelKind = Godwit.ChunkStore.Parcels.ParcelKind;

namespace Godwit.Daemon.Parcels;

// Which parcels may go.
internal sealed partial class ParcelKeeper
{
    /// <summary>Removes a parcel, unless a guest sleeps in it that nobody has resumed, or one still needs it.</summary>
    /// <exception cref="GodwitException"><c>guest-asleep</c>, <c>parcel-needed</c>.</exception>
    public async Task<Parcel> RemoveAsync(string reference, string storeName, bool force)
    {
        if (await Task.Run(() => TryRemoveUnreadable(reference, storeName)) is { } removed)
        {
            return removed;
        }

        var (entry, manifest) = await FindAsync(reference, storeName, ResumeMode.Fork);
        return await StoreErrors.GuardAsync(entry.Name, () => Task.Run(() =>
        {
            if (!force)
            {
                RequireUnneeded(entry, manifest);
            }

            var store = stores.Open(entry);
            var resumedOn = ResumedOn(manifest);
            ParcelShelf.Remove(store, manifest.Guest, manifest.Id);
            Log.ParcelRemoved(logger, manifest.Id, manifest.Name, entry.Name);
            return ParcelMapping.ToApi(entry.Name, manifest, resumedOn);
        }));
    }

    private void RequireUnneeded(StoreEntry entry, ParcelManifest manifest)
    {
        if (stores.All.Any(other => other.Name != entry.Name && HasCopy(other, manifest)))
        {
            // What is left serves as well.
            return;
        }

        var here = guests.All.Where(guest => guest.Record.Host == settings.HostName
            && guest.Record.Parcel is { Stage: not ParcelStage.Awake } note && note.Id == manifest.Id).ToList();
        if (here.Find(guest => guest.Record.Parcel is { Stage: not ParcelStage.Asleep }) is { } busy)
        {
            throw Needed(manifest, busy.Record.Name, settings.HostName);
        }

        var home = TryOpenHome(manifest);
        if (home is not null && ParcelShelf.FindNeeds(home, manifest.Guest)
            .FirstOrDefault(need => need.Claim.Parcel == manifest.Id) is { Claim: { } claim })
        {
            throw Needed(manifest, manifest.Name, claim.Host);
        }

        // By a claim of this host's own; if by another one's, it is that host's now.
        if (here.Count > 0 && (home is null
            || ParcelShelf.FindNewestClaim(home, manifest.Guest) is not { } newest
            || newest.Epoch <= manifest.Epoch || newest.Claim.Host == settings.HostName))
        {
            throw Asleep(manifest, "");
        }

        if (manifest.Kind != ParcelKind.Suspend)
        {
            return;
        }

        if (home is null)
        {
            throw Asleep(manifest, " As far as is known: the store that it was made in is not reached from here.");
        }

        // Whoever went on with the guest, from this parcel or an earlier one, has claimed the next epoch.
        if (ParcelShelf.FindClaim(home, manifest.Guest, manifest.Epoch + 1) is null)
        {
            throw Asleep(manifest, "");
        }
    }

    private bool HasCopy(StoreEntry entry, ParcelManifest manifest)
    {
        try
        {
            return ParcelShelf.Find(stores.Open(entry), manifest.Guest, manifest.Id, trust) is not null;
        }
        catch (Exception exception) when (StoreErrors.IsKnown(exception))
        {
            return false;
        }
    }

    private static GodwitException Asleep(ParcelManifest manifest, string why) => new("guest-asleep",
        $"Guest '{manifest.Name}' sleeps in parcel {manifest.Id}, and nothing else remembers it.{why}",
        $"Resume it first, or copy the parcel to another store. To give the guest up: 'godwit vm forget {manifest.Id} "
        + "--force'.");

    private static GodwitException Needed(ParcelManifest manifest, string guest, string host) => new("parcel-needed",
        $"Guest '{guest}' on host '{host}' still takes its memory or its disks out of parcel {manifest.Id}.",
        $"Wait until all is there: 'godwit vm show {guest}' on that host tells. If the host is gone for good: 'godwit "
        + $"vm forget {manifest.Id} --force'.");
}
