using System.Net;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Godwit.Migration;

namespace Godwit.Host.Trust;

/// <summary>
/// The cluster's certificate authority: an ECDSA P-256 key on one host, which signs the members' certificates.
/// </summary>
/// <remarks>A certificate binds one host name; the address beside it is for tools that look for it.</remarks>
public sealed class CertificateAuthority : IDisposable
{
    internal const string ServerUsage = "1.3.6.1.5.5.7.3.1";
    internal const string ClientUsage = "1.3.6.1.5.5.7.3.2";
    private const int RequestBytesMax = 16 * 1024;

    // Clocks of two hosts differ a little; a certificate must not be "not yet valid" for its first peer.
    private static readonly TimeSpan ClockSkewMax = TimeSpan.FromMinutes(5);

    private readonly X509Certificate2 _certificate;
    private readonly TimeProvider _clock;

    private CertificateAuthority(X509Certificate2 certificate, TimeProvider clock)
    {
        _certificate = certificate;
        _clock = clock;
    }

    /// <summary>How long a new authority is valid.</summary>
    public static TimeSpan AuthorityLifetime { get; } = TimeSpan.FromDays(3652);

    /// <summary>How long a member's certificate is valid.</summary>
    public static TimeSpan HostLifetime { get; } = TimeSpan.FromDays(365);

    /// <summary>The authority's certificate, without its key.</summary>
    public X509Certificate2 Certificate => X509CertificateLoader.LoadCertificate(_certificate.RawData);

    /// <summary>Makes a new authority and stores it as <c>ca.pem</c> and <c>ca.key</c> (0600).</summary>
    public static CertificateAuthority Create(string directory, string host, TimeProvider clock)
    {
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        var now = clock.GetUtcNow();
        var request = new CertificateRequest($"CN=Godwit cluster of {host}", key, HashAlgorithmName.SHA256);
        request.CertificateExtensions.Add(new X509BasicConstraintsExtension(true, true, 0, critical: true));
        request.CertificateExtensions.Add(
            new X509KeyUsageExtension(X509KeyUsageFlags.KeyCertSign | X509KeyUsageFlags.CrlSign, critical: true));
        request.CertificateExtensions.Add(new X509SubjectKeyIdentifierExtension(request.PublicKey, critical: false));
        var certificate = request.CreateSelfSigned(now - ClockSkewMax, now + AuthorityLifetime);
        // The key first: a certificate without its key would be an authority that can admit nobody.
        KeyFile.Write(Path.Combine(directory, "ca.key"), key);
        KeyFile.Replace(Path.Combine(directory, "ca.pem"), certificate.ExportCertificatePem() + "\n");
        return new CertificateAuthority(certificate, clock);
    }

    /// <summary>Loads the authority kept in the directory, or null if this host holds none.</summary>
    /// <exception cref="GodwitException"><c>key-mode</c> or <c>key-broken</c>.</exception>
    public static CertificateAuthority? Load(string directory, TimeProvider clock)
    {
        var certificatePath = Path.Combine(directory, "ca.pem");
        var keyPath = Path.Combine(directory, "ca.key");
        if (!File.Exists(certificatePath) || !File.Exists(keyPath))
        {
            return null;
        }

        using var key = KeyFile.Read(keyPath);
        using var certificate = X509CertificateLoader.LoadCertificateFromFile(certificatePath);
        return new CertificateAuthority(certificate.CopyWithPrivateKey(key), clock);
    }

    /// <summary>Removes an authority that signs for no cluster any more, because its host has joined another.</summary>
    public static void Remove(string directory)
    {
        File.Delete(Path.Combine(directory, "ca.key"));
        File.Delete(Path.Combine(directory, "ca.pem"));
    }

    /// <summary>Signs a request made by <see cref="HostIdentity.CreateRequest"/>.</summary>
    /// <remarks>
    /// Of the request only the public key is believed: name, address and usages are what the caller states.
    /// </remarks>
    /// <exception cref="GodwitException">
    /// <c>certificate-request</c>: no request, a weak key, or a false signature.
    /// </exception>
    public X509Certificate2 Sign(
        ReadOnlySpan<byte> encodedRequest, string host, string address, DateTimeOffset earliest = default)
    {
        if (encodedRequest.Length > RequestBytesMax)
        {
            throw Refuse($"it has {encodedRequest.Length} bytes; the limit is {RequestBytesMax}");
        }

        PublicKey key;
        try
        {
            // Loading checks the signature, so the joiner holds the key it wants a certificate for.
            key = CertificateRequest.LoadSigningRequest(
                encodedRequest.ToArray(), HashAlgorithmName.SHA256, CertificateRequestLoadOptions.Default).PublicKey;
            using var publicKey = key.GetECDsaPublicKey();
            if (publicKey is not { KeySize: 256 })
            {
                throw new CryptographicException("its key is not ECDSA P-256");
            }
        }
        catch (Exception exception) when (exception is CryptographicException or NotSupportedException)
        {
            throw Refuse(exception.Message);
        }

        return Issue(key, host, address, earliest);
    }

    /// <summary>When a member's certificate was signed, in whole seconds by the authority's clock.</summary>
    internal static DateTimeOffset IssuedAt(X509Certificate2 certificate) =>
        new DateTimeOffset(certificate.NotBefore.ToUniversalTime()) + ClockSkewMax;

    private X509Certificate2 Issue(PublicKey key, string host, string address, DateTimeOffset earliest)
    {
        var request = new CertificateRequest(
            new X500DistinguishedName($"CN={host}"), key, HashAlgorithmName.SHA256);
        request.CertificateExtensions.Add(new X509BasicConstraintsExtension(false, false, 0, critical: true));
        request.CertificateExtensions.Add(
            new X509KeyUsageExtension(X509KeyUsageFlags.DigitalSignature, critical: true));
        request.CertificateExtensions.Add(new X509EnhancedKeyUsageExtension(
            [new Oid(ServerUsage), new Oid(ClientUsage)], critical: false));
        var names = new SubjectAlternativeNameBuilder();
        // The host's name is always the first DNS entry; HostIdentity.NameOf reads it back.
        names.AddDnsName(host);
        if (IPAddress.TryParse(address, out var ip))
        {
            names.AddIpAddress(ip);
        }

        request.CertificateExtensions.Add(names.Build());
        request.CertificateExtensions.Add(X509AuthorityKeyIdentifierExtension.CreateFromCertificate(
            _certificate, includeKeyIdentifier: true, includeIssuerAndSerial: false));
        var clock = _clock.GetUtcNow();
        var now = clock > earliest ? clock : earliest;
        var end = now + HostLifetime;
        var authorityEnd = new DateTimeOffset(_certificate.NotAfter.ToUniversalTime());
        // With a clock that has gone back it may begin late, and is then called what it is: not valid yet.
        var begin = now - ClockSkewMax;
        var authorityBegin = new DateTimeOffset(_certificate.NotBefore.ToUniversalTime());
        return request.Create(
            _certificate, begin > authorityBegin ? begin : authorityBegin, end < authorityEnd ? end : authorityEnd,
            RandomNumberGenerator.GetBytes(16));
    }

    private static GodwitException Refuse(string reason) => new("certificate-request",
        $"The certificate request is refused: {reason}.", "Join with the godwit of the same version on both hosts.");

    public void Dispose() => _certificate.Dispose();
}
