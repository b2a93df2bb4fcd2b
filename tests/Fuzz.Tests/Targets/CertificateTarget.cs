using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Godwit.Host.Trust;
using Godwit.Migration;

namespace Godwit.Fuzz.Tests.Targets;

/// <summary>Certificates and requests for them, as strangers present them.</summary>
internal static class CertificateTarget
{
    private static readonly X509Certificate2 _authority =
        X509CertificateLoader.LoadCertificateFromFile(Path.Combine(FuzzTarget.CorpusFolder, "authority.pem"));

    private static readonly byte[][] _genuine =
        [.. Directory.EnumerateFiles(Path.Combine(FuzzTarget.CorpusFolder, "certificate"), "good-*")
            .Select(File.ReadAllBytes)];

    private static readonly string _directory = Directory.CreateTempSubdirectory("gw-fuzz-").FullName;
    private static readonly Then _clock = new(new DateTimeOffset(_authority.NotBefore.ToUniversalTime()).AddDays(1));
    private static readonly ClusterTrust _trust = ClusterTrust.LoadOrCreate(_directory, "a", "10.0.0.1", _clock);
    private static readonly CertificateAuthority _signer = _trust.LoadAuthority()!;

    static CertificateTarget() =>
        AppDomain.CurrentDomain.ProcessExit += (_, _) => Directory.Delete(_directory, recursive: true);

    /// <summary>No certificate proves anything but those that the authority signed, to the byte.</summary>
    public static bool Fuzz(ReadOnlySpan<byte> bytes)
    {
        X509Certificate2 certificate;
        try
        {
            certificate = ClusterTrust.ReadCertificate(bytes);
        }
        catch (GodwitException e) when (e.Code == "certificate-broken")
        {
            return false;
        }

        using (certificate)
        {
            PeerVerdict verdict = _trust.Verify(certificate, _authority);
            Require.That(verdict.Accepted == (verdict.Host.Length > 0), "a verdict names a host or a reason");
            Require.That(!verdict.Reason.Any(char.IsControl), "a reason is fit for a log");
            Require.That(!verdict.Accepted || _genuine.Any(one => certificate.RawData.AsSpan().SequenceEqual(one)),
                "nobody but the authority makes members");
            return verdict.Accepted;
        }
    }

    /// <summary>A request gets a certificate for the name that the token states, or none.</summary>
    public static bool FuzzRequest(ReadOnlySpan<byte> bytes)
    {
        try
        {
            using X509Certificate2 certificate = _signer.Sign(bytes, "b", "10.0.0.2");
            PeerVerdict verdict = _trust.Verify(certificate);
            Require.That(verdict.Host == "b", $"signed for b, good for '{verdict.Host}': {verdict.Reason}");
            using ECDsa? key = certificate.GetECDsaPublicKey();
            Require.That(key?.KeySize == 256, "the key is P-256");
            return true;
        }
        catch (GodwitException e) when (e.Code == "certificate-request")
        {
            return false;
        }
    }

    private sealed class Then(DateTimeOffset instant) : TimeProvider
    {
        public override DateTimeOffset GetUtcNow() => instant;
    }
}
