using System.Collections.Immutable;
using System.Net.Security;
using System.Security.Authentication;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Godwit.Migration;
using Godwit.Migration.Wire;

namespace Godwit.Host.Trust;

/// <summary>What a peer's certificate proves.</summary>
/// <param name="Host">The host it binds; empty if it proves nothing.</param>
/// <param name="Code">Stable code of the refusal, empty if the certificate is good.</param>
/// <param name="Reason">Why it is refused, for the log and for the peer.</param>
public sealed record PeerVerdict(string Host, string Code, string Reason)
{
    public bool Accepted => Code.Length == 0;
}

/// <summary>Decides which peers this host talks to, and makes the TLS options for both directions.</summary>
/// <remarks>
/// Every connection asks for its options anew, so a certificate installed by <see cref="Install"/> serves the next
/// connection without a restart. TLS 1.3 only; only this cluster's authority counts, never the system's.
/// </remarks>
public sealed class ClusterTrust(string directory, HostIdentity identity, TimeProvider clock)
{
    private static readonly TimeSpan RenewalBefore = TimeSpan.FromDays(30);
    private readonly Lock _changing = new();
    private volatile HostIdentity _identity = identity;
    private volatile ImmutableDictionary<string, DateTimeOffset> _revoked =
        ImmutableDictionary<string, DateTimeOffset>.Empty;
    private int _changes;

    public HostIdentity Identity => _identity;

    /// <summary>Rises when what was said of a certificate may no longer hold.</summary>
    public int Changes => Volatile.Read(ref _changes);

    /// <summary>
    /// The authority's key, if this host holds it for the cluster it is a member of; the caller disposes it.
    /// </summary>
    public CertificateAuthority? LoadAuthority()
    {
        var authority = CertificateAuthority.Load(directory, clock);
        if (authority is null)
        {
            return null;
        }

        using var certificate = authority.Certificate;
        if (HostIdentity.Fingerprint(certificate) == _identity.AuthoritySha256)
        {
            return authority;
        }

        // Left over from the cluster of one that this host was before it joined.
        authority.Dispose();
        return null;
    }

    /// <summary>Loads this host's identity; on the first start ever, makes a cluster of one.</summary>
    public static ClusterTrust LoadOrCreate(string directory, string host, string address, TimeProvider clock)
    {
        Directory.CreateDirectory(
            directory, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        foreach (var key in Directory.EnumerateFiles(directory, "*.key"))
        {
            KeyFile.CheckMode(key);
        }

        if (HostIdentity.Load(directory) is not { } identity)
        {
            using var authority = CertificateAuthority.Load(directory, clock)
                ?? CertificateAuthority.Create(directory, host, clock);
            identity = HostIdentity.Create(directory, authority, host, address);
        }

        if (identity.Name != host)
        {
            throw new GodwitException("certificate-host-mismatch",
                $"The certificate in {directory} names the host '{identity.Name}'; the configuration says '{host}'.",
                "Set hostName back, or remove the pki directory and join the cluster under the new name.");
        }

        var trust = new ClusterTrust(directory, identity, clock);
        trust.RenewIfDue(address);
        return trust;
    }

    /// <summary>
    /// Renews the certificate of the host that holds the authority's key when it ends within 30 days: it is the only
    /// one that cannot be invited. Members are renewed by joining again.
    /// </summary>
    /// <returns>True if there is a new one.</returns>
    public bool RenewIfDue(string address)
    {
        if (_identity.Expires - clock.GetUtcNow() > RenewalBefore)
        {
            return false;
        }

        using var authority = LoadAuthority();
        if (authority is null)
        {
            return false;
        }

        lock (_changing)
        {
            _identity = HostIdentity.Create(directory, authority, _identity.Name, address);
            _changes++;
        }

        return true;
    }

    /// <summary>A request for this host's key, to be signed by another cluster's authority.</summary>
    public byte[] CreateRequest() => HostIdentity.CreateRequest(directory, _identity.Name);

    /// <summary>Takes the membership of another cluster: the next connection is made and accepted under it.</summary>
    public void Install(X509Certificate2 certificate, X509Certificate2 authority)
    {
        var before = _identity.AuthoritySha256;
        lock (_changing)
        {
            _identity = HostIdentity.Install(directory, certificate, authority);
            if (_identity.AuthoritySha256 != before)
            {
                _revoked = _revoked.Clear();
            }

            _changes++;
        }

        CertificateAuthority.Remove(directory);
    }

    /// <summary>Refuses a host's certificates that were issued earlier, for as long as this process runs.</summary>
    public void Revoke(string host, DateTimeOffset issuedBefore)
    {
        lock (_changing)
        {
            if (!_revoked.TryGetValue(host, out var known) || known < issuedBefore)
            {
                _revoked = _revoked.SetItem(host, issuedBefore);
                _changes++;
            }
        }
    }

    /// <summary>Reads a certificate that a peer sent, in a message and not in a handshake.</summary>
    /// <exception cref="GodwitException"><c>certificate-broken</c>: it is none.</exception>
    public static X509Certificate2 ReadCertificate(ReadOnlySpan<byte> bytes)
    {
        const int BytesMax = 16 * 1024;
        try
        {
            return bytes.Length <= BytesMax
                ? X509CertificateLoader.LoadCertificate(bytes)
                : throw new CryptographicException($"it has {bytes.Length} bytes; the limit is {BytesMax}");
        }
        catch (CryptographicException exception)
        {
            throw new GodwitException("certificate-broken",
                $"The certificate received is of no use: {exception.Message}",
                "Compare the versions of godwitd on both hosts; then join again with a new token.", exception);
        }
    }

    /// <summary>Judges a peer's certificate against this cluster's authority, and against what was revoked.</summary>
    public PeerVerdict Verify(X509Certificate2? certificate) =>
        CheckRevoked(certificate, Verify(certificate, _identity.Authority));

    private PeerVerdict CheckRevoked(X509Certificate2? certificate, PeerVerdict verdict) =>
        verdict.Accepted && _revoked.TryGetValue(verdict.Host, out var before)
            && CertificateAuthority.IssuedAt(certificate!) < before
                ? new PeerVerdict("", "certificate-revoked",
                    $"the host '{verdict.Host}' was removed from the cluster on {before:u}")
                : verdict;

    /// <summary>Judges the certificate of one who signed something in the past: it may have expired since.</summary>
    public PeerVerdict VerifySigner(X509Certificate2 certificate)
    {
        var verdict = Verify(certificate, _identity.Authority, certificate.NotBefore.ToUniversalTime());
        return CheckRevoked(certificate, verdict);
    }

    /// <summary>Judges a certificate against any authority: a joiner does so with the one its token names.</summary>
    public PeerVerdict Verify(X509Certificate2? certificate, X509Certificate2 authority) =>
        Verify(certificate, authority, clock.GetUtcNow().UtcDateTime);

    private PeerVerdict Verify(X509Certificate2? certificate, X509Certificate2 authority, DateTime at)
    {
        if (certificate is null)
        {
            return new PeerVerdict("", "certificate-missing", "the peer presented no certificate");
        }

        try
        {
            return Judge(certificate, authority, at);
        }
        catch (CryptographicException exception)
        {
            // Well-formed enough to be handed over, and no further.
            return new PeerVerdict("", "certificate-foreign", $"the certificate is malformed: {exception.Message}");
        }
    }

    private PeerVerdict Judge(X509Certificate2 certificate, X509Certificate2 authority, DateTime at)
    {
        using var chain = new X509Chain();
        chain.ChainPolicy.TrustMode = X509ChainTrustMode.CustomRootTrust;
        chain.ChainPolicy.CustomTrustStore.Add(authority);
        chain.ChainPolicy.RevocationMode = X509RevocationMode.NoCheck;
        chain.ChainPolicy.DisableCertificateDownloads = true;
        chain.ChainPolicy.VerificationTime = at;
        chain.ChainPolicy.ApplicationPolicy.Add(new Oid(CertificateAuthority.ClientUsage));
        chain.ChainPolicy.ApplicationPolicy.Add(new Oid(CertificateAuthority.ServerUsage));
        if (!chain.Build(certificate))
        {
            var status = chain.ChainStatus.Aggregate(X509ChainStatusFlags.NoError, (all, one) => all | one.Status);
            // An expired certificate of ours has one remedy, a stranger's another; "expired" is said only of ours.
            return status == X509ChainStatusFlags.NotTimeValid
                ? new PeerVerdict("", "certificate-expired",
                    $"the certificate {Subject(certificate)} is valid from {certificate.NotBefore.ToUniversalTime():u} "
                    + $"to {certificate.NotAfter.ToUniversalTime():u}; it is {clock.GetUtcNow():u}")
                : new PeerVerdict("", "certificate-foreign",
                    $"the certificate {Subject(certificate)} does not chain to this cluster's authority "
                    + $"{HostIdentity.Fingerprint(authority)[..16]} ({status})");
        }

        return HostIdentity.NameOf(certificate) is { Length: > 0 } name
            ? new PeerVerdict(name, "", "")
            : new PeerVerdict("", "certificate-foreign", $"the certificate {Subject(certificate)} names no host");
    }

    // A stranger chose it, and it goes to the log.
    private static string Subject(X509Certificate2 certificate)
    {
        const int LengthMax = 100;
        var subject = PeerText.Printable(certificate.Subject).Replace('\n', '?');
        return subject.Length > LengthMax ? $"{subject[..LengthMax]}..." : subject;
    }

    /// <summary>Judges a certificate and the name it has to bind.</summary>
    public PeerVerdict Verify(X509Certificate2? certificate, string host)
    {
        var verdict = Verify(certificate);
        return verdict.Accepted && verdict.Host != host
            ? new PeerVerdict(verdict.Host, "certificate-host-mismatch",
                $"the certificate names the host '{verdict.Host}', not '{host}'")
            : verdict;
    }

    /// <summary>Options for accepting a peer that has to be a member; anybody else fails the handshake.</summary>
    /// <param name="refused">Told why a peer was refused, for the log.</param>
    public SslServerAuthenticationOptions ServerOptions(Action<PeerVerdict>? refused = null)
    {
        var options = JoinableServerOptions();
        options.RemoteCertificateValidationCallback = (_, certificate, _, _) =>
        {
            var verdict = Verify(certificate as X509Certificate2);
            if (!verdict.Accepted)
            {
                refused?.Invoke(verdict);
            }

            return verdict.Accepted;
        };
        return options;
    }

    /// <summary>
    /// Options for accepting anybody over TLS: the caller has to judge the certificate, if there is one, with
    /// <see cref="Verify(X509Certificate2?)"/> before it serves anything but joining.
    /// </summary>
    public SslServerAuthenticationOptions JoinableServerOptions()
    {
        return new SslServerAuthenticationOptions
        {
            ServerCertificateContext = _identity.TlsContext,
            // Each connection is judged by what its peer can show now.
            AllowTlsResume = false,
            EnabledSslProtocols = SslProtocols.Tls13,
            ClientCertificateRequired = true,
#pragma warning disable CA5359 // Judged per request by the caller, which can then answer with a reason.
            RemoteCertificateValidationCallback = static (_, _, _, _) => true,
#pragma warning restore CA5359
            CertificateRevocationCheckMode = X509RevocationMode.NoCheck,
        };
    }

    /// <summary>Options for connecting to the member with this name; anybody else fails the handshake.</summary>
    /// <param name="refused">Told why the peer was refused.</param>
    public SslClientAuthenticationOptions ClientOptions(string host, Action<PeerVerdict>? refused = null)
    {
        return new SslClientAuthenticationOptions
        {
            TargetHost = host,
            AllowTlsResume = false,
            EnabledSslProtocols = SslProtocols.Tls13,
            ClientCertificateContext = _identity.TlsContext,
            CertificateRevocationCheckMode = X509RevocationMode.NoCheck,
            RemoteCertificateValidationCallback = (_, certificate, _, _) =>
            {
                var verdict = Verify(certificate as X509Certificate2, host);
                if (!verdict.Accepted)
                {
                    refused?.Invoke(verdict);
                }

                return verdict.Accepted;
            },
        };
    }
}
