using Godwit.Api.V1;
using Godwit.Daemon.Cluster;
using Godwit.Daemon.Guests;
using Godwit.Daemon.Inventories;
using Godwit.Host.Qemu;
using Godwit.Host.Registry;
using Godwit.Host.Transfers;
using Godwit.Host.Trust;
using Godwit.Migration;
using Godwit.Migration.HandOver;
using MigrationMethod = Godwit.Migration.MigrationMethod;
using MigrationPolicy = Godwit.Migration.MigrationPolicy;

namespace Godwit.Daemon.Moves;

// What stands in the way of a move, as far as it can be known beforehand.
internal sealed partial class OutgoingMoves
{
    /// <summary>Every reason against the move that can be known beforehand, from both hosts.</summary>
    /// <exception cref="GodwitException">The guest or the host is not known, or the host does not answer.</exception>
    /// <returns>Notes are reasons against postcopy alone, for a policy that can do without.</returns>
    private async Task<(LocalGuest Guest, HostRecord Host, List<Refusal> Refusals, List<Refusal> Notes)> CheckAsync(
        string name, string to, MigrationPolicy policy, CancellationToken cancellationToken)
    {
        var guest = guests.Find(name);
        var host = await membership.FindAsync(to, cancellationToken);
        var machine = RequireMovable(guest);
        if (host.Name == settings.HostName)
        {
            throw new GodwitException("host-self", $"Guest '{guest.Record.Name}' is on host '{host.Name}' already.",
                "Name another host: 'godwit host list'.");
        }

        var contract = guest.Record.Contract;
        var request = new CheckIncomingRequest
        {
            Spec = ContractMapping.ToSpec(contract),
            SourceQemuVersion = qemu.VersionText,
            WireVersionMin = WireVersions.Min,
            WireVersionMax = WireVersions.Max,
            CpuFeaturesMissing = { await machine.FeaturesMissingAsync(cancellationToken) },
        };
        request.DiskBytes.AddRange(contract.Disks.Select(
            disk => File.Exists(disk.Path) ? (ulong)new FileInfo(disk.Path).Length : 0));
        var answer = await links.CallAsync(
            host, CheckDeadline, (peer, options) => peer.CheckIncomingAsync(request, options), cancellationToken);
        List<Refusal> refusals =
            [.. HostReadiness.Check(settings, isDestination: false), .. CheckBudget(policy), .. answer.Refusals];
        List<Refusal> notes = policy.MayTurnToPostcopy ? [.. CheckPostcopy(machine, host, answer)] : [];
        if (policy.Method is MigrationMethod.Postcopy or MigrationMethod.Hybrid)
        {
            refusals.AddRange(notes);
            notes = [];
        }

        return (guest, host, refusals, notes);
    }

    private static Refusal Refuse(string code, string message, string remedy) =>
        new() { Code = code, Message = message, Remedy = remedy };

    private static IEnumerable<Refusal> CheckBudget(MigrationPolicy policy)
    {
        if (policy.DowntimeMax < SourceEngine.DowntimeLeast)
        {
            yield return Refuse("budget-impossible",
                $"A pause of {policy.DowntimeMax.TotalMilliseconds:F0} ms is too short for any guest: its devices' "
                + $"state alone takes about {SourceEngine.DowntimeLeast.TotalMilliseconds:F0} ms.",
                "Allow a longer pause with --max-downtime.");
        }
        else if (policy.Method == MigrationMethod.Postcopy && policy.DowntimeMax < SourceEngine.PostcopyDowntimeLeast)
        {
            yield return Refuse("budget-impossible",
                $"A pause of {policy.DowntimeMax.TotalMilliseconds:F0} ms is too short for a turn to postcopy: loading "
                + $"a guest takes about {SourceEngine.PostcopyDowntimeLeast.TotalMilliseconds:F0} ms.",
                "Allow a longer pause with --max-downtime, or choose another method.");
        }
    }

    private static IEnumerable<Refusal> CheckPostcopy(
        QemuMachine machine, HostRecord host, CheckIncomingResponse answer)
    {
        var status = $"/proc/{machine.ProcessId}/status";
        if (PostcopySupport.CheckSource(
            machine.Contract, machine.Version, File.Exists(status) ? File.ReadAllText(status) : "") is { } refusal)
        {
            yield return new Refusal { Code = refusal.Code, Message = refusal.Message, Remedy = refusal.Remedy };
        }

        if (!answer.KnowsPostcopy)
        {
            yield return Refuse("wire-version",
                $"Host '{host.Name}' speaks no version of the wire protocol that has postcopy (3 and later).",
                "Bring both hosts to neighbouring versions of godwitd, or move the guest by precopy.");
        }

        foreach (var reason in answer.PostcopyRefusals)
        {
            yield return reason;
        }
    }

    private QemuMachine RequireMovable(LocalGuest guest)
    {
        guests.RequireHere(guest);
        if (guest.MigrationId.Length > 0)
        {
            throw GuestKeeper.State(guest, $"is moving already (migration {guest.MigrationId})",
                $"Watch it with 'godwit migration watch {guest.MigrationId}'.");
        }

        if (guest.Machine is not { } machine)
        {
            throw GuestKeeper.State(guest, "does not run",
                $"Start it first: 'godwit vm start {guest.Record.Name}'. Only a running guest moves.");
        }

        return guest.IsPaused
            ? throw GuestKeeper.State(guest, "is paused", "Look at 'godwit vm show': it may be unsettled after a move.")
            : machine;
    }
}
