using System.Security.Cryptography.X509Certificates;
using Godwit.Api.V1;
using Godwit.Host.Registry;
using Godwit.Host.Transfers;
using Godwit.Host.Trust;
using Godwit.Migration;
using Godwit.Migration.Wire;
using Google.Protobuf;
using Grpc.Core;
using JoinToken = Godwit.Host.Trust.JoinToken;

namespace Godwit.Daemon.Cluster;

/// <summary>Who is in the cluster, and how a host gets in.</summary>
internal sealed partial class Membership(
    DaemonSettings settings, IRegistry registry, ClusterTrust trust, PeerLinks links, TimeProvider clock,
    ILogger<Membership> logger) : IDisposable
{
    private static readonly TimeSpan TokenLifetime = TimeSpan.FromMinutes(15);
    private static readonly TimeSpan TokenLifetimeMax = TimeSpan.FromDays(7);
    private static readonly TimeSpan JoinDeadline = TimeSpan.FromSeconds(15);
    private static readonly TimeSpan HelloDeadline = TimeSpan.FromSeconds(4);
    private static readonly TimeSpan RefreshInterval = TimeSpan.FromMinutes(5);
    private readonly SemaphoreSlim _joining = new(1);
    private readonly CancellationTokenSource _stopping = new();

    public bool HoldsAuthority
    {
        get
        {
            using var authority = trust.LoadAuthority();
            return authority is not null;
        }
    }

    public HostRecord Self => new(settings.HostName, settings.PeerAddress, trust.Identity.Sha256, HoldsAuthority);

    /// <summary>Records this host as it is now configured, and the authority it belongs to.</summary>
    public async Task StartAsync(CancellationToken cancellationToken)
    {
        await registry.PutHostAsync(Self, cancellationToken);
        if (HoldsAuthority && await registry.GetAuthorityAsync(cancellationToken) is null)
        {
            await registry.PutAuthorityAsync(
                new AuthorityRecord(trust.Identity.AuthoritySha256, clock.GetUtcNow(), 1), cancellationToken);
        }

        foreach (var revocation in await registry.ListRevocationsAsync(
            trust.Identity.AuthoritySha256, cancellationToken))
        {
            trust.Revoke(revocation.Host, revocation.IssuedBefore);
        }
    }

    /// <summary>
    /// Learns in the background, now and every five minutes, who was admitted or removed while this host was not
    /// reached.
    /// </summary>
    public void KeepRefreshing() => _ = Task.Run(async () =>
    {
        using var timer = new PeriodicTimer(RefreshInterval, clock);
        try
        {
            do
            {
                await RefreshAsync(_stopping.Token);
            }
            while (await timer.WaitForNextTickAsync(_stopping.Token));
        }
        catch (OperationCanceledException)
        {
            // The daemon ends.
        }
    });

    private async Task RefreshAsync(CancellationToken cancellationToken)
    {
        if (trust.RenewIfDue(settings.Address))
        {
            await registry.PutHostAsync(Self, cancellationToken);
            Log.CertificateRenewed(logger, trust.Identity.Expires);
        }

        foreach (var host in await registry.ListHostsAsync(cancellationToken))
        {
            if (host.HoldsAuthority && host.Name != settings.HostName)
            {
                try
                {
                    await GreetAsync(host, cancellationToken);
                }
                catch (GodwitException exception)
                {
                    Log.RefreshLost(logger, host.Name, exception.Code, exception.Message);
                }
            }
        }
    }

    /// <summary>Exchanges versions with a member; the authority's host tells the members besides.</summary>
    public async Task<HelloResponse> GreetAsync(HostRecord host, CancellationToken cancellationToken)
    {
        var request = new HelloRequest
        {
            Host = settings.HostName,
            WireVersionMin = WireVersions.Min,
            WireVersionMax = WireVersions.Max,
        };
        var answer = await links.CallAsync(
            host, HelloDeadline, (peer, options) => peer.HelloAsync(request, options), cancellationToken);
        if (host.HoldsAuthority && answer.Hosts.Count > 0)
        {
            await LearnRevocationsAsync(host.Name, answer.Revocations, beforeEach: null, cancellationToken);
            await LearnAsync(host.Name, answer.Hosts, cancellationToken);
        }

        return answer;
    }

    /// <summary>Every member, this one among them.</summary>
    public Task<IReadOnlyList<HostRecord>> ListAsync(CancellationToken cancellationToken) =>
        registry.ListHostsAsync(cancellationToken);

    /// <exception cref="GodwitException"><c>host-unknown</c>.</exception>
    public async Task<HostRecord> FindAsync(string name, CancellationToken cancellationToken)
    {
        var hosts = await registry.ListHostsAsync(cancellationToken);
        return hosts.FirstOrDefault(host => host.Name == name)
            ?? throw new GodwitException("host-unknown",
                $"No host named '{name}' has joined this cluster; its members are "
                + $"{string.Join(", ", hosts.Select(host => host.Name))}.",
                "Join it: 'godwit host invite' here, then 'godwit host join TOKEN' there.");
    }

    /// <summary>
    /// Makes a token that admits one host once. The secret is in the answer only; its hash is what is kept.
    /// </summary>
    public async Task<(JoinToken Token, DateTimeOffset Expires)> CreateTokenAsync(
        string host, TimeSpan lifetime, CancellationToken cancellationToken)
    {
        if (!HoldsAuthority)
        {
            throw await AuthorityAbsentAsync(cancellationToken);
        }

        if (lifetime > TokenLifetimeMax)
        {
            throw new GodwitException("token-lifetime",
                $"A join token may be valid for at most {TokenLifetimeMax.TotalDays} days, "
                + $"not {lifetime.TotalDays:F1}.",
                "Make it when it is needed; 15 minutes is the default.");
        }

        var token = JoinToken.Create(settings.HostName, settings.PeerAddress, trust.Identity.AuthoritySha256);
        var expires = clock.GetUtcNow() + (lifetime > TimeSpan.Zero ? lifetime : TokenLifetime);
        await registry.AddTokenAsync(
            new TokenRecord(JoinToken.Hash(token.Secret), host, expires, null), cancellationToken);
        Log.TokenMade(logger, expires, host);
        return (token, expires);
    }

    /// <summary>Admits a joiner: its token is used up, its key gets a certificate, other members are told.</summary>
    public async Task<JoinResponse> AdmitAsync(JoinRequest request, string remote, CancellationToken cancellationToken)
    {
        try
        {
            return await AdmitCheckedAsync(request, cancellationToken);
        }
        catch (GodwitException exception)
        {
            Log.JoinRefused(logger, Shorten(request.Name), remote, exception.Code, exception.Message);
            throw;
        }
    }

    private async Task<JoinResponse> AdmitCheckedAsync(JoinRequest request, CancellationToken cancellationToken)
    {
        using var authority = trust.LoadAuthority() ?? throw await AuthorityAbsentAsync(cancellationToken);
        if (!SettingsReader.IsHostName(request.Name) || request.Address.Length > 300
            || !Uri.TryCreate($"https://{request.Address}", UriKind.Absolute, out var address))
        {
            throw new GodwitException("join-malformed",
                $"The joiner's name '{Shorten(request.Name)}' or address '{Shorten(request.Address)}' is not valid.",
                "Set hostName and address on the joining host.");
        }

        // A name is a member's identity: only a token made for exactly this name may give it to a new key. A caller
        // without a token of ours learns nothing about names.
        var hash = JoinToken.Hash(request.Secret);
        var token = await registry.FindTokenAsync(hash, cancellationToken);
        var members = await registry.ListHostsAsync(cancellationToken);
        if (token is { Used: null } && members.Any(host => host.Name == request.Name)
            && (request.Name == settings.HostName || token.Host != request.Name))
        {
            throw new GodwitException("host-exists", $"A host named '{request.Name}' is a member already.",
                $"Give the joiner another hostName; or, if it takes that member's place, remove the member first: "
                + $"'godwit host remove {request.Name}'.");
        }

        var verdict = await registry.TakeTokenAsync(
            hash, request.Name, clock.GetUtcNow(), cancellationToken);
        const string Again = "Make a new one with 'godwit host invite NAME' on the host that holds the CA key.";
        switch (verdict)
        {
            case TokenVerdict.Unknown:
                throw new GodwitException("token-unknown", "This cluster never made that join token.", Again);
            case TokenVerdict.Expired:
                throw new GodwitException("token-expired", "The join token has expired.", Again);
            case TokenVerdict.Used:
                throw new GodwitException("token-used",
                    "The join token has been used already; it admits one host once.",
                    Again + " If it was not you who used it, look at 'godwit host list'.");
            case TokenVerdict.OtherHost:
                throw new GodwitException("token-host-mismatch",
                    $"The join token was made for another host than '{request.Name}'.", Again);
        }

        // If the name was removed once, its new certificate is told from the revoked ones by the time of its issue.
        var revocations = await registry.ListRevocationsAsync(trust.Identity.AuthoritySha256, cancellationToken);
        using var certificate = authority.Sign(
            request.CertificateRequest.Span, request.Name, address.Host.Trim('[', ']'),
            revocations.FirstOrDefault(revocation => revocation.Host == request.Name)?.IssuedBefore ?? default);
        var host = new HostRecord(request.Name, request.Address, HostIdentity.Fingerprint(certificate), false);
        await registry.PutHostAsync(host, cancellationToken);
        if (await registry.GetAuthorityAsync(cancellationToken) is { } record)
        {
            await registry.PutAuthorityAsync(
                record with { CertificatesIssued = record.CertificatesIssued + 1 }, cancellationToken);
        }

        Log.HostJoined(logger, host.Name, host.Address, host.CertificateSha256);
        members = await registry.ListHostsAsync(cancellationToken);
        _ = Task.Run(() => AnnounceAsync(host, members), CancellationToken.None);
        var response = new JoinResponse
        {
            Certificate = ByteString.CopyFrom(certificate.RawData),
            CaCertificate = ByteString.CopyFrom(trust.Identity.Authority.RawData),
        };
        response.Hosts.AddRange(members.Select(Describe));
        return response;
    }

    private async Task AnnounceAsync(HostRecord member, IReadOnlyList<HostRecord> members)
    {
        foreach (var host in members.Where(one => one.Name != member.Name && one.Name != settings.HostName))
        {
            try
            {
                await links.CallAsync(host, HelloDeadline,
                    (peer, options) => peer.AnnounceHostAsync(Describe(member), options), CancellationToken.None);
            }
            catch (GodwitException exception)
            {
                // It learns of the member when it next says hello to this host.
                Log.AnnouncementLost(logger, host.Name, member.Name, exception.Message);
            }
        }
    }

    /// <summary>Takes the word of the authority's host for new or changed members; nobody else's.</summary>
    public async Task LearnAsync(string caller, IEnumerable<HostInfo> hosts, CancellationToken cancellationToken)
    {
        await RequireAuthorityAsync(caller, cancellationToken);
        foreach (var host in hosts.Where(one => one.Name != settings.HostName))
        {
            await registry.PutHostAsync(
                new HostRecord(host.Name, host.Address, host.CertificateSha256, host.HoldsCa), cancellationToken);
        }
    }

    private async Task RequireAuthorityAsync(string caller, CancellationToken cancellationToken)
    {
        var known = await registry.ListHostsAsync(cancellationToken);
        if (!known.Any(host => host.Name == caller && host.HoldsAuthority))
        {
            throw new GodwitException("authority-absent",
                $"Host '{caller}' does not hold the CA key: it admits and removes nobody.",
                "Only the host that holds the CA key announces members.");
        }
    }

    /// <summary>Joins this host to the cluster that the token names.</summary>
    public async Task<HostRecord> JoinAsync(string text, string addressOverride, CancellationToken cancellationToken)
    {
        await _joining.WaitAsync(cancellationToken);
        try
        {
            return await JoinAloneAsync(JoinToken.Parse(text), addressOverride, cancellationToken);
        }
        finally
        {
            _joining.Release();
        }
    }

    private async Task<HostRecord> JoinAloneAsync(
        JoinToken token, string addressOverride, CancellationToken cancellationToken)
    {
        var members = await registry.ListHostsAsync(cancellationToken);
        // A token of its own cluster renews a member's certificate.
        if (token.AuthoritySha256 != trust.Identity.AuthoritySha256
            && members.Any(host => host.Name != settings.HostName))
        {
            throw new GodwitException("cluster-joined",
                $"This host is a member of a cluster of {members.Count} already.",
                "A host is in one cluster. To leave it, stop godwitd and remove its pki directory and registry.");
        }

        var address = addressOverride.Length > 0 ? addressOverride : token.Address;
        if (HoldsAuthority && token.AuthoritySha256 == trust.Identity.AuthoritySha256)
        {
            throw new GodwitException("cluster-joined", "The token is of this host's own cluster.",
                "Use it on the host that is to join.");
        }

        using var authority = await FetchAuthorityAsync(token, address, cancellationToken);

        // The second connection is pinned: only a member of the token's cluster with the token's name sees the secret.
        PeerVerdict? refused = null;
        var tls = trust.ClientOptions(token.Host);
        tls.ClientCertificateContext = null;
        tls.RemoteCertificateValidationCallback = (_, certificate, _, _) =>
        {
            var verdict = trust.Verify(certificate as X509Certificate2, authority);
            refused = verdict.Accepted && verdict.Host != token.Host
                ? new PeerVerdict("", "certificate-host-mismatch",
                    $"the certificate names the host '{verdict.Host}', the token '{token.Host}'")
                : verdict.Accepted ? null : verdict;
            return refused is null;
        };
        using var channel = PeerLinks.Open(address, tls);
        JoinResponse response;
        try
        {
            response = await new Peer.PeerClient(channel).JoinAsync(
                new JoinRequest
                {
                    Secret = token.Secret,
                    Name = settings.HostName,
                    Address = settings.PeerAddress,
                    CertificateRequest = ByteString.CopyFrom(trust.CreateRequest()),
                },
                Options(cancellationToken));
        }
        catch (RpcException exception)
        {
            throw PeerLinks.Explain(exception, $"host '{token.Host}' at {address}", refused);
        }

        var certificate = ClusterTrust.ReadCertificate(response.Certificate.Span);
        var issued = trust.Verify(certificate, authority);
        if (!issued.Accepted || issued.Host != settings.HostName)
        {
            throw new GodwitException("certificate-broken",
                "The certificate received is of no use: "
                + $"{(issued.Accepted ? $"it names '{issued.Host}'" : issued.Reason)}.",
                "Compare the clocks of both hosts; then join again with a new token.");
        }

        trust.Install(certificate, X509CertificateLoader.LoadCertificate(authority.RawData));
        links.Reset();
        foreach (var host in response.Hosts.Where(one => one.Name != settings.HostName))
        {
            await registry.PutHostAsync(
                new HostRecord(host.Name, host.Address, host.CertificateSha256, host.HoldsCa), cancellationToken);
        }

        await registry.PutHostAsync(Self, cancellationToken);
        Log.ClusterJoined(logger, token.Host, token.AuthoritySha256, response.Hosts.Count);
        return Self;
    }

    private async Task<X509Certificate2> FetchAuthorityAsync(
        JoinToken token, string address, CancellationToken cancellationToken)
    {
        // Anybody may answer here: nothing secret is sent, and what is received counts only if the token names it.
        var tls = trust.ClientOptions(token.Host);
        tls.ClientCertificateContext = null;
#pragma warning disable CA5359 // The answer is judged by the token's fingerprint, and the connection is not used again.
        tls.RemoteCertificateValidationCallback = static (_, _, _, _) => true;
#pragma warning restore CA5359
        using var channel = PeerLinks.Open(address, tls);
        try
        {
            var answer = await new Peer.PeerClient(channel).GetAuthorityAsync(new Empty(), Options(cancellationToken));
            var authority = ClusterTrust.ReadCertificate(answer.Certificate.Span);
            var fingerprint = HostIdentity.Fingerprint(authority);
            return fingerprint == token.AuthoritySha256
                ? authority
                : throw new GodwitException("authority-mismatch",
                    $"The host at {address} belongs to the cluster {fingerprint[..16]}; the token names "
                    + $"{token.AuthoritySha256[..16]}. Nothing secret was sent to it.",
                    "Check the address; if it is right, somebody may be in between. Make a new token.");
        }
        catch (RpcException exception)
        {
            throw PeerLinks.Explain(exception, $"host '{token.Host}' at {address}", null);
        }
    }

    private static CallOptions Options(CancellationToken cancellationToken) =>
        new(deadline: DateTime.UtcNow + JoinDeadline, cancellationToken: cancellationToken);

    private async Task<GodwitException> AuthorityAbsentAsync(CancellationToken cancellationToken)
    {
        var holder = (await registry.ListHostsAsync(cancellationToken)).FirstOrDefault(host => host.HoldsAuthority);
        return new GodwitException("authority-absent",
            $"Host '{settings.HostName}' does not hold the cluster's CA key.",
            holder is null
                ? "Ask the host that made the cluster."
                : $"Host '{holder.Name}' holds it: run 'godwit host invite' and 'godwit host remove' there.");
    }

    public static HostInfo Describe(HostRecord host) => new()
    {
        Name = host.Name,
        Address = host.Address,
        CertificateSha256 = host.CertificateSha256,
        HoldsCa = host.HoldsAuthority,
    };

    public void Dispose()
    {
        _stopping.Cancel();
        _stopping.Dispose();
        _joining.Dispose();
    }

    // A stranger chose it, and it goes to the log.
    private static string Shorten(string text) =>
        PeerText.Printable(text.Length > 64 ? text[..64] + "..." : text).Replace('\n', '?');
}
