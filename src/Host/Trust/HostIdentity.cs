using System.Net.Security;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Godwit.Migration;

namespace Godwit.Host.Trust;

/// <summary>Who this host is to its peers: its key, its certificate, and the authority both chain to.</summary>
/// <remarks>
/// The key is made once and kept for life. <c>host.pem</c> holds the certificate and the authority's, in this order, so
/// joining another cluster is the replacement of one file.
/// </remarks>
public sealed class HostIdentity
{
    private const string KeyName = "host.key";
    private const string ChainName = "host.pem";

    private HostIdentity(X509Certificate2 certificate, X509Certificate2 authority)
    {
        Certificate = certificate;
        Authority = authority;
        Name = NameOf(certificate) ?? "";
        Sha256 = Fingerprint(certificate);
        AuthoritySha256 = Fingerprint(authority);
        TlsContext = SslStreamCertificateContext.Create(certificate, [authority], offline: true);
    }

    /// <summary>With its private key.</summary>
    public X509Certificate2 Certificate { get; }

    public X509Certificate2 Authority { get; }

    /// <summary>Both, made ready for handshakes: a stranger's connection is not worth that work.</summary>
    internal SslStreamCertificateContext TlsContext { get; }

    /// <summary>The host name that the certificate binds.</summary>
    public string Name { get; }

    /// <summary>Fingerprint of the certificate, lower-case hexadecimal.</summary>
    public string Sha256 { get; }

    /// <summary>Fingerprint of the authority's certificate, lower-case hexadecimal: the name of the cluster.</summary>
    public string AuthoritySha256 { get; }

    public DateTimeOffset Expires => new(Certificate.NotAfter.ToUniversalTime());

    public static string Fingerprint(X509Certificate2 certificate) =>
        Convert.ToHexStringLower(SHA256.HashData(certificate.RawData));

    /// <summary>The host name a member's certificate binds: its first DNS entry, or null if it has none.</summary>
    public static string? NameOf(X509Certificate2 certificate) =>
        certificate.Extensions.OfType<X509SubjectAlternativeNameExtension>().FirstOrDefault()
            ?.EnumerateDnsNames().FirstOrDefault();

    /// <summary>Loads the identity kept in the directory, or null if there is none yet.</summary>
    /// <exception cref="GodwitException"><c>key-mode</c>, <c>key-broken</c> or <c>certificate-broken</c>.</exception>
    public static HostIdentity? Load(string directory)
    {
        var chainPath = Path.Combine(directory, ChainName);
        var keyPath = Path.Combine(directory, KeyName);
        if (!File.Exists(chainPath) || !File.Exists(keyPath))
        {
            return null;
        }

        using var key = KeyFile.Read(keyPath);
        try
        {
            var chain = new X509Certificate2Collection();
            chain.ImportFromPemFile(chainPath);
            if (chain.Count == 2)
            {
                return Combine(chain[0], chain[1], key);
            }

            throw new CryptographicException($"it holds {chain.Count} certificates instead of 2");
        }
        catch (Exception exception) when (exception is CryptographicException or ArgumentException)
        {
            throw new GodwitException("certificate-broken", $"{chainPath} is of no use: {exception.Message}",
                "Restore the file from a backup, or remove the pki directory and join the cluster again.", exception);
        }
    }

    /// <summary>Makes the identity of the first host of a cluster, signed by its own authority.</summary>
    public static HostIdentity Create(string directory, CertificateAuthority authority, string host, string address) =>
        Install(directory, authority.Sign(CreateRequest(directory, host), host, address), authority.Certificate);

    /// <summary>A PKCS#10 request for this host's key, which is made and stored first if there is none.</summary>
    public static byte[] CreateRequest(string directory, string host)
    {
        using var key = LoadOrCreateKey(directory);
        return new CertificateRequest(new X500DistinguishedName($"CN={host}"), key, HashAlgorithmName.SHA256)
            .CreateSigningRequest();
    }

    /// <summary>
    /// Stores a certificate for this host's key, with the authority it chains to, and gives the identity.
    /// </summary>
    /// <exception cref="GodwitException"><c>certificate-broken</c>: it is not for this host's key.</exception>
    public static HostIdentity Install(string directory, X509Certificate2 certificate, X509Certificate2 authority)
    {
        using var key = LoadOrCreateKey(directory);
        HostIdentity identity;
        try
        {
            identity = Combine(certificate, authority, key);
        }
        catch (ArgumentException exception)
        {
            throw new GodwitException("certificate-broken",
                "The certificate received was not made for this host's key.",
                "Join again with a new token.", exception);
        }

        KeyFile.Replace(Path.Combine(directory, ChainName),
            certificate.ExportCertificatePem() + "\n" + authority.ExportCertificatePem() + "\n");
        return identity;
    }

    private static HostIdentity Combine(X509Certificate2 certificate, X509Certificate2 authority, ECDsa key) =>
        new(certificate.CopyWithPrivateKey(key), authority);

    private static ECDsa LoadOrCreateKey(string directory)
    {
        var path = Path.Combine(directory, KeyName);
        if (File.Exists(path))
        {
            return KeyFile.Read(path);
        }

        var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        KeyFile.Write(path, key);
        return key;
    }
}
