using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.Daemon.Guests;
using Godwit.Host.Parcels;
using Godwit.Host.Registry;
using Godwit.Migration;
using ParcelKind = Godwit.ChunkStore.Parcels.ParcelKind;

namespace Godwit.Daemon.Parcels;

// Whose a guest is: who may take it out of a parcel, and the word for it in the store.
internal sealed partial class ParcelKeeper
{
    private Store? TryOpenHome(ParcelManifest manifest)
    {
        if (stores.FindOpen(manifest.Home) is { } open)
        {
            return open;
        }

        foreach (var entry in stores.All)
        {
            try
            {
                if (stores.Open(entry) is { } store && store.Descriptor.Id == manifest.Home)
                {
                    return store;
                }
            }
            catch (Exception exception) when (StoreErrors.IsKnown(exception))
            {
                // It may be another one.
            }
        }

        return null;
    }

    // A copy of a parcel in another store has what it takes to run the guest, and not the word who may.
    private Store RequireHome(ParcelManifest manifest) => TryOpenHome(manifest) ?? throw new GodwitException(
        "parcel-copy",
        $"Parcel {manifest.Id} is a copy: who may run guest '{manifest.Name}' is decided in the store that it was made "
        + $"in ({manifest.Home}), which host '{settings.HostName}' does not reach.",
        "Make that store known here with 'godwit store create', or begin another guest: 'godwit vm fork'.");

    // Who may go on from it, if nobody is to be put out of the way.
    private ResumePlan PlanResume(Store home, ParcelManifest manifest)
    {
        var contract = ContractJson.Read(manifest);
        var known = guests.Find(contract.Uuid);
        // What an unfinished resume or rollback left, whatever kind the parcel is of.
        if (known is not null && SleepsHere(known, manifest.Id))
        {
            return new ResumePlan(contract, Math.Max(manifest.Epoch + 1, known.Record.Epoch), MustClaim: true);
        }

        if (manifest.Kind != ParcelKind.Suspend)
        {
            throw new GodwitException("parcel-checkpoint",
                $"Parcel {manifest.Id} is a checkpoint: guest '{manifest.Name}' went on after it.",
                $"Go back to it with 'godwit vm rollback {manifest.Id}', or begin another guest from it with "
                + $"'godwit vm fork {manifest.Id} --name NAME'.");
        }

        if (known is not null && known.Record.Host == settings.HostName
            && known.Record.Parcel is not { Stage: ParcelStage.Asleep })
        {
            throw GuestKeeper.State(known, known.Machine is not null ? "runs here" : "is stopped here, and not asleep",
                $"Start it with 'godwit vm start', or go back to the parcel: 'godwit vm rollback {manifest.Id}'.");
        }

        if (known is not null && known.Record.Epoch > manifest.Epoch)
        {
            throw Stale(manifest, known.Record.Host);
        }

        // What was made of the guest later says that it went on from here, whatever has become of the claim.
        var plan = new ResumePlan(contract, manifest.Epoch + 1, MustClaim: true);
        return ParcelsOf(home, manifest.Guest).Read.FirstOrDefault(one => one.Epoch >= plan.Epoch) is { } later
            ? throw Stale(manifest, later.Host) : plan;
    }

    // Whoever owns the guest takes it back, or anybody if it sleeps; whether it still does its claim decides.
    private ResumePlan PlanRollback(Store home, ParcelManifest manifest)
    {
        var contract = ContractJson.Read(manifest);
        var known = guests.Find(contract.Uuid);
        if (known is not null)
        {
            guests.RequireHere(known);
        }

        var (read, refused) = ParcelsOf(home, manifest.Guest);
        var newest = read.OrderBy(one => one.Epoch).ThenBy(one => one.Kind == ParcelKind.Suspend).LastOrDefault()
            ?? manifest;
        if (known is null && refused.Find(one => string.CompareOrdinal(one.Parcel, newest.Id) > 0) is { } unread)
        {
            // It may be a checkpoint, and the guest run somewhere.
            throw unread;
        }

        if (known is null && newest.Kind != ParcelKind.Suspend)
        {
            throw new GodwitException("guest-state",
                $"Guest '{manifest.Name}' went on after its newest parcel {newest.Id}, on host '{newest.Host}': only "
                + "where it runs now can it be taken back.",
                $"Run the command on the host that 'godwit vm list' names, '{newest.Host}' if it did not move.");
        }

        var epoch = Math.Max(newest.Epoch, known?.Record.Epoch ?? 0) + 1;
        while (known is not null
            && ParcelShelf.FindClaim(home, manifest.Guest, epoch) is { } claim && claim.Host == settings.HostName)
        {
            // Left by an attempt of this host's that came to nothing.
            epoch++;
        }

        return new ResumePlan(contract, epoch, MustClaim: true);
    }

    // Those that were made there: who may resume them is decided there.
    private (List<ParcelManifest> Read, List<ParcelRefusedException> Refused) ParcelsOf(Store home, string guest)
    {
        var all = ParcelShelf.FindAll(home, trust, guest);
        return ([.. all.Select(one => one.Manifest).OfType<ParcelManifest>()
            .Where(one => one.Home == home.Descriptor.Id)],
            [.. all.Select(one => one.Refused).OfType<ParcelRefusedException>()]);
    }

    private bool SleepsHere(LocalGuest guest, string parcel) => guest.Record.Host == settings.HostName
        && guest.Record.Parcel is { Stage: ParcelStage.Asleep } note && note.Id == parcel;

    private static GodwitException Stale(ParcelManifest manifest, string owner) => new("parcel-stale",
        $"Guest '{manifest.Name}' has been resumed from parcel {manifest.Id} already, by host '{owner}': it is its "
        + "owner now.",
        $"Look at 'godwit vm show {manifest.Name}' there; 'godwit vm history {manifest.Name}' lists its parcels.");

    /// <summary>Puts the claim by which this host owns the guest.</summary>
    /// <param name="claimed">Takes what this call has put: only that may be given up again.</param>
    /// <param name="takenFrom">The host that the guest is taken from by an operator's word, or empty.</param>
    private async Task ClaimAsync(
        Store home, ParcelManifest manifest, long epoch, List<(Store Store, long Epoch)> claimed,
        string takenFrom = "")
    {
        var other = await Task.Run(() => ParcelShelf.TryClaim(
            home, manifest.Guest, epoch, Claim(manifest) with { TakenFrom = takenFrom }, Stores.Random));
        if (other is null)
        {
            claimed.Add((home, epoch));
            await Task.Run(() => RequireNewest(home, manifest, epoch));
            return;
        }

        var known = guests.Find(Guid.Parse(manifest.Guest));
        // One that this host has put before: once the guest has run by it, only the registry can say that it came back.
        if (other.Host == settings.HostName && ((known is not null && SleepsHere(known, manifest.Id))
            || !await Task.Run(() => ParcelShelf.MayHaveRun(home, manifest.Guest, epoch))))
        {
            await Task.Run(() => RequireNewest(home, manifest, epoch));
            return;
        }

        if (known is not null)
        {
            await GiveUpIfClaimedAsync(known);
        }

        throw Stale(manifest, other.Host);
    }

    /// <summary>Claims the parcel that the guest sleeps in here, if another store has the word on it.</summary>
    private async Task ClaimWhereItSleepsAsync(
        Store home, ParcelManifest manifest, List<(Store Store, long Epoch)> claimed)
    {
        if (guests.Find(Guid.Parse(manifest.Guest)) is not { Record.Parcel: { Stage: ParcelStage.Asleep } note }
            || note.Id == manifest.Id)
        {
            return;
        }

        var store = stores.Open(stores.Find(note.Store));
        if (await Task.Run(() => ParcelShelf.Find(store, manifest.Guest, note.Id, trust)) is { } asleep
            && asleep.Home != home.Descriptor.Id)
        {
            await ClaimAsync(RequireHome(asleep), asleep, asleep.Epoch + 1, claimed);
        }
    }

    /// <summary>Puts the word for it in the store: the guest is this host's, and needs the parcel.</summary>
    /// <param name="claimed">Takes what this call has put.</param>
    private async Task TakeAsync(
        Store home, ParcelManifest manifest, ResumePlan plan, List<(Store Store, long Epoch)> claimed, string takenFrom)
    {
        await ClaimWhereItSleepsAsync(home, manifest, claimed);
        await ClaimAsync(home, manifest, plan.Epoch, claimed, takenFrom);
        await Task.Run(() => ParcelShelf.NoteNeed(
            home, manifest.Guest, plan.Epoch, Claim(manifest), Stores.Random));
        if (takenFrom.Length > 0)
        {
            Log.ParcelTakenOver(logger, manifest.Id, plan.Contract.Name, takenFrom, plan.Epoch);
        }
    }

    private static void RequireNewest(Store home, ParcelManifest manifest, long epoch)
    {
        if (ParcelShelf.FindNewestClaim(home, manifest.Guest) is { } newest && newest.Epoch > epoch)
        {
            throw Stale(manifest, newest.Claim.Host);
        }
    }

    private ParcelClaim Claim(ParcelManifest manifest) =>
        new(manifest.Id, settings.HostName, clock.GetUtcNow().ToUnixTimeMilliseconds());

    // False if it stays this host's to resume.
    private bool TryUnclaim(Store home, ParcelManifest manifest, long epoch)
    {
        try
        {
            ParcelShelf.Unclaim(home, manifest.Guest, epoch);
            return true;
        }
        catch (StorageException exception)
        {
            Log.ParcelUnsettled(logger, manifest.Id, manifest.Name, "", exception.Message);
            return false;
        }
    }
}
