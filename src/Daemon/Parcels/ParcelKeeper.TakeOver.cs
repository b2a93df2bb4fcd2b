using Godwit.Api.V1;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.Daemon.Guests;
using Godwit.Host.Parcels;
using Godwit.Host.Registry;
using Godwit.Migration;
using ParcelKind = Godwit.ChunkStore.Parcels.ParcelKind;

namespace Godwit.Daemon.Parcels;

// A guest whose host is gone for good, and a host that comes back all the same.
internal sealed partial class ParcelKeeper
{
    /// <summary>Looks whether another host has taken over a guest of this one: the store has the word.</summary>
    public async Task LookForClaimAsync(string uuid)
    {
        if (Guid.TryParse(uuid, out var id) && guests.Find(id) is { } guest)
        {
            await LookForClaimAsync(guest);
        }
    }

    private async Task LookForClaimAsync(LocalGuest guest)
    {
        if (guest.Record.Parcel is { Stage: ParcelStage.Asleep })
        {
            using var alone = await GuestKeeper.EnterAsync(guest, CancellationToken.None);
            await GiveUpIfClaimedAsync(guest);
        }
        else if (guest.Record.Parcel is { Stage: ParcelStage.Awake or ParcelStage.Filling })
        {
            // Whatever goes on with it here is void if it is another host's.
            await GiveUpIfClaimedAsync(guest);
        }
    }

    /// <summary>Refuses to start a guest of which it is not known that it is still this host's.</summary>
    /// <exception cref="GodwitException"><c>guest-state</c>, or what is wrong with the store.</exception>
    public async Task RequireOwnedAsync(LocalGuest guest)
    {
        if (guest.Machine is null && guest.Record.Parcel is not null)
        {
            await GiveUpIfClaimedAsync(guest);
            guests.RequireHere(guest);
        }
    }

    /// <summary>Whether a guest is this host's.</summary>
    public FindOwnerResponse FindOwner(string uuid) =>
        Guid.TryParse(uuid, out var id) && guests.Find(id) is { } guest
            ? new FindOwnerResponse
            {
                IsOwner = guest.Record.Host == settings.HostName || guest.IsArriving, Epoch = guest.Record.Epoch,
            }
            : new FindOwnerResponse();

    // A host that comes back finds out before anybody asks. Until the store answers it goes by what it knows.
    private async Task LookUntilAnsweredAsync(LocalGuest guest)
    {
        while (!_shutdown.IsCancellationRequested)
        {
            try
            {
                await LookForClaimAsync(guest);
                if (guest.Record is { Parcel: { Stage: ParcelStage.Awake } note } record
                    && record.Host == settings.HostName)
                {
                    await Task.Run(() => RemoveNeed(guest, note));
                }

                return;
            }
            catch (GodwitException exception)
            {
                Log.OwnerUnasked(logger, guest.Record.Name, guest.Record.Parcel?.Store ?? "", exception.Message);
            }

            await Task.Delay(OwnerEvery, clock, _shutdown.Token)
                .ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    private static readonly TimeSpan OwnerEvery = TimeSpan.FromSeconds(30);

    private async Task GiveUpIfClaimedAsync(LocalGuest guest)
    {
        var record = guest.Record;
        if (record.Parcel is not { } note || record.Host != settings.HostName)
        {
            return;
        }

        await StoreErrors.GuardAsync(note.Store, async () =>
        {
            if (await Task.Run(() => FindNewOwner(record, note)) is { } claim)
            {
                if (note.Stage is not ParcelStage.Asleep)
                {
                    Log.GuestFenced(logger, record.Name, claim.Claim.Host, claim.Epoch);
                }

                await guests.EndEveryCopyAsync(guest);
                // Before: once the guest is given up nobody looks at its claim again.
                await NoteResumedElsewhereAsync(record, note, claim.Claim);
                await guests.GiveUpAsleepAsync(guest, claim.Claim.Host, claim.Epoch);
            }

            return true;
        });
    }

    private (long Epoch, ParcelClaim Claim)? FindNewOwner(GuestRecord record, ParcelNote note)
    {
        var store = stores.Open(stores.Find(note.Store));
        var uuid = record.Uuid.ToString();
        var home = ParcelShelf.Find(store, uuid, note.Id, trust) is { } manifest
            ? TryOpenHome(manifest) ?? store : store;
        if (ParcelShelf.FindNewestClaim(home, uuid) is { } newest && newest.Claim.Host != settings.HostName
            && newest.Epoch > record.Epoch)
        {
            return newest;
        }

        // The epoch of one that sleeps may be that of a claim by which this host has tried to resume it.
        return note.Stage == ParcelStage.Asleep && ParcelShelf.FindClaim(home, uuid, record.Epoch) is { } same
            && same.Host != settings.HostName ? (record.Epoch, same) : null;
    }

    /// <summary>Plans to take a guest from a host that is gone for good.</summary>
    private async Task<(ResumePlan Plan, string From)> PlanTakeOverAsync(
        Store home, ParcelManifest manifest, CancellationToken cancellationToken)
    {
        var newest = await Task.Run(() => ParcelShelf.FindNewestClaim(home, manifest.Guest), cancellationToken);
        var (read, _) = await Task.Run(() => ParcelsOf(home, manifest.Guest), cancellationToken);
        var last = read.MaxBy(one => one.Epoch) ?? manifest;
        // A suspend that nobody has claimed is anybody's.
        var owner = newest is { } claimed && claimed.Epoch > last.Epoch ? claimed.Claim.Host
            : last.Kind == ParcelKind.Suspend ? "" : last.Host;
        if (owner.Length == 0 || owner == settings.HostName)
        {
            throw new GodwitException("take-over-refused",
                owner.Length == 0 ? $"Guest '{manifest.Name}' sleeps, and is nobody's to be taken from."
                    : $"Guest '{manifest.Name}' is this host's own, by its claim in the store.",
                $"Without --take-over: 'godwit vm resume {manifest.Name}'.");
        }

        var epoch = Math.Max(newest?.Epoch ?? 0, last.Epoch);
        epoch = Math.Max(epoch, guests.Find(Guid.Parse(manifest.Guest))?.Record.Epoch ?? 0);
        foreach (var host in (await membership.ListAsync(cancellationToken))
            .Where(one => one.Name != settings.HostName))
        {
            var (answer, silence) = await AskOwnerAsync(host, manifest.Guest, cancellationToken);
            if (answer is null && host.Name != owner)
            {
                throw new GodwitException("take-over-refused",
                    $"Host '{host.Name}' does not say whether guest '{manifest.Name}' has moved there: {silence}",
                    $"Bring it back; if it is gone for good as well, take it out of the cluster: 'godwit host remove "
                    + $"{host.Name}'.");
            }

            if (answer is not null && (answer.IsOwner || host.Name == owner))
            {
                throw new GodwitException("take-over-refused",
                    $"Host '{host.Name}' answers{(answer.IsOwner ? $", and guest '{manifest.Name}' is its own" : "")}"
                    + ": it is not gone, and a second copy could run.",
                    $"On '{host.Name}': 'godwit vm suspend {manifest.Name}', or 'godwit vm show' to see what it "
                    + "does with the guest.");
            }

            epoch = Math.Max(epoch, answer?.Epoch ?? 0);
        }

        return (new ResumePlan(ContractJson.Read(manifest), epoch + 1, MustClaim: true), owner);
    }

    // What it says, or why it says nothing.
    private async Task<(FindOwnerResponse? Answer, string Silence)> AskOwnerAsync(
        HostRecord host, string guest, CancellationToken cancellationToken)
    {
        try
        {
            return (await links.CallAsync(
                host, TellDeadline, (peer, options) => peer.FindOwnerAsync(
                    new FindOwnerRequest { GuestUuid = guest }, options), cancellationToken), "");
        }
        catch (GodwitException exception)
        {
            return (null, exception.Message);
        }
    }
}
