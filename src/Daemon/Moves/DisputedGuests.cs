using Godwit.Api.V1;
using Godwit.Daemon.Cluster;
using Godwit.Daemon.Guests;
using Godwit.Migration;
using Godwit.Migration.HandOver;

namespace Godwit.Daemon.Moves;

/// <summary>
/// Guests that died where they had arrived before their source knew how the move ended: it may run them again by an
/// operator's decision.
/// </summary>
internal sealed class DisputedGuests(
    DaemonSettings settings, HandOvers handOvers, Membership membership, PeerLinks links)
{
    private static readonly TimeSpan AskDeadline = TimeSpan.FromSeconds(8);

    /// <summary>Asks the source of such a guest whether it is this host's to start; at once for any other.</summary>
    /// <exception cref="GodwitException"><c>guest-disputed</c>: the source says no, or nothing.</exception>
    public async Task RequireUndisputedAsync(LocalGuest guest, CancellationToken cancellationToken)
    {
        if (handOvers.OfGuest(guest.Record.Uuid) is not { } record || HandOverRules.IsUndisputed(record)
            || guest.Machine is not null || guest.Record.Host != settings.HostName)
        {
            return;
        }

        string reason;
        try
        {
            var source = await membership.FindAsync(record.Peer, cancellationToken);
            var request = new AskHandOverRequest { MigrationId = record.Migration };
            var answer = await links.CallAsync(source, AskDeadline,
                (peer, options) => peer.AskHandOverAsync(request, options), cancellationToken);
            if (answer.GuestIsCallers)
            {
                await handOvers.CloseAsync(record.Migration, record.Peer);
                return;
            }

            reason = $"Host '{record.Peer}' has not settled that move yet.";
        }
        catch (GodwitException exception)
        {
            reason = exception.Message;
        }

        throw new GodwitException("guest-disputed",
            $"Guest '{guest.Record.Name}' came from host '{record.Peer}' by migration {record.Migration} and died here "
            + $"before that host knew; it may have been started there again. {reason}",
            $"Try again in a few seconds; 'godwit migration show {record.Migration}' on '{record.Peer}' tells where "
            + $"the guest runs. If that host is gone for good: 'godwit vm start {guest.Record.Name} --force'.");
    }

    /// <summary>Whether a guest of this host was given to the one that asks.</summary>
    public bool IsGivenTo(string migration, string host)
    {
        var record = handOvers.Find(migration);
        return (record is null || record.Peer == host) && HandOverRules.IsGivenAway(record);
    }
}
