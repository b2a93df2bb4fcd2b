using Godwit.Api.V1;
using Godwit.Host.Registry;
using Godwit.Migration;

namespace Godwit.Daemon.Cluster;

// How a host gets out.
internal sealed partial class Membership
{
    /// <summary>Takes a host out of the cluster: its certificates are refused from now on, here at once.</summary>
    /// <remarks>
    /// The host itself is asked nothing: it may be lost, or in foreign hands. Its guests run on there.
    /// </remarks>
    /// <returns>Members that could not be told; they learn of it when they next greet this host.</returns>
    /// <exception cref="GodwitException">
    /// <c>authority-absent</c>, <c>host-unknown</c> or <c>host-holds-ca</c>.
    /// </exception>
    /// <param name="before">Done when it is sure that the host goes, while its certificates are still good.</param>
    public async Task<IReadOnlyList<string>> RemoveAsync(
        string name, Func<string, Task> before, CancellationToken cancellationToken)
    {
        if (!HoldsAuthority)
        {
            throw await AuthorityAbsentAsync(cancellationToken);
        }

        var host = await FindAsync(name, cancellationToken);
        if (host.Name == settings.HostName)
        {
            throw new GodwitException("host-holds-ca",
                $"Host '{host.Name}' holds the CA key: without it nobody could be admitted or removed any more.",
                "Remove the other hosts instead, each with its name.");
        }

        await before(host.Name);
        // Rounded up: a certificate tells the second of its issue, and those of this very second are revoked too.
        var issuedBefore = DateTimeOffset.FromUnixTimeSeconds(clock.GetUtcNow().ToUnixTimeSeconds() + 1);
        var revocation = new RevocationRecord(trust.Identity.AuthoritySha256, host.Name, issuedBefore);
        await RevokeAsync(revocation, cancellationToken);
        Log.HostRemoved(logger, host.Name, host.CertificateSha256);
        var members = await registry.ListHostsAsync(CancellationToken.None);
        var told = await Task.WhenAll(members.Where(member => member.Name != settings.HostName)
            .Select(async member => (member.Name, IsTold: await TellAsync(member, revocation))));
        return [.. told.Where(member => !member.IsTold).Select(member => member.Name)];
    }

    /// <summary>Takes the word of the authority's host for who was removed; nobody else's.</summary>
    /// <param name="beforeEach">Done with each name while its certificates are still good; may be null.</param>
    public async Task LearnRevocationsAsync(
        string caller, IEnumerable<Revocation> revocations, Func<string, Task>? beforeEach,
        CancellationToken cancellationToken)
    {
        await RequireAuthorityAsync(caller, cancellationToken);
        var authority = trust.Identity.AuthoritySha256;
        var known = (await registry.ListRevocationsAsync(authority, cancellationToken))
            .ToDictionary(one => one.Host, one => one.IssuedBefore);
        foreach (var given in revocations.Where(one => one.Host != settings.HostName))
        {
            var before = DateTimeOffset.FromUnixTimeMilliseconds(Math.Clamp(
                given.IssuedBeforeUnixMs, 0, DateTimeOffset.MaxValue.ToUnixTimeMilliseconds()));
            // A known one is left alone: the host may have been admitted again since.
            if (!known.TryGetValue(given.Host, out var last) || last < before)
            {
                await (beforeEach?.Invoke(given.Host) ?? Task.CompletedTask);
                await RevokeAsync(new RevocationRecord(authority, given.Host, before), cancellationToken);
                Log.RemovalLearnt(logger, given.Host, caller);
            }
        }
    }

    /// <summary>What this host tells those that greet it.</summary>
    public async Task<IEnumerable<Revocation>> ListRevocationsAsync(CancellationToken cancellationToken) =>
        (await registry.ListRevocationsAsync(trust.Identity.AuthoritySha256, cancellationToken)).Select(Describe);

    private async Task RevokeAsync(RevocationRecord revocation, CancellationToken cancellationToken)
    {
        await registry.RemoveHostAsync(revocation, cancellationToken);
        trust.Revoke(revocation.Host, revocation.IssuedBefore);
        links.Drop(revocation.Host);
    }

    private async Task<bool> TellAsync(HostRecord member, RevocationRecord revocation)
    {
        try
        {
            await links.CallAsync(member, HelloDeadline,
                (peer, options) => peer.AnnounceRemovalAsync(Describe(revocation), options), CancellationToken.None);
            return true;
        }
        catch (GodwitException exception)
        {
            Log.RemovalUntold(logger, member.Name, revocation.Host, exception.Message);
            return false;
        }
    }

    private static Revocation Describe(RevocationRecord revocation) => new()
    {
        Host = revocation.Host,
        IssuedBeforeUnixMs = revocation.IssuedBefore.ToUnixTimeMilliseconds(),
    };
}
