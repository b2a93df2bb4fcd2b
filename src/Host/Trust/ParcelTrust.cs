using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Godwit.ChunkStore.Parcels;
using Godwit.Migration;

namespace Godwit.Host.Trust;

/// <summary>Signs parcels as this host, and takes those that a member of the cluster has signed.</summary>
/// <remarks>
/// A parcel may be older than a certificate lasts: its signer's has to be of this cluster and not revoked, and is not
/// held against the calendar.
/// </remarks>
public sealed class ParcelTrust(ClusterTrust trust) : IParcelSigner, IParcelJudge
{
    public ReadOnlyMemory<byte> Certificate => trust.Identity.Certificate.RawData;

    public byte[] Sign(ReadOnlySpan<byte> bytes)
    {
        using ECDsa key = trust.Identity.Certificate.GetECDsaPrivateKey()!;
        return key.SignData(bytes, HashAlgorithmName.SHA256);
    }

    public string? Refusal(
        ReadOnlySpan<byte> certificate, ReadOnlySpan<byte> bytes, ReadOnlySpan<byte> signature, string host)
    {
        try
        {
            using X509Certificate2 read = ClusterTrust.ReadCertificate(certificate);
            PeerVerdict verdict = trust.VerifySigner(read);
            if (!verdict.Accepted)
            {
                return $"it was not signed by a member of this cluster: {verdict.Reason}";
            }

            if (verdict.Host != host)
            {
                return $"it says that it is of host '{host}' and was signed by '{verdict.Host}'";
            }

            using ECDsa? key = read.GetECDsaPublicKey();
            return key?.VerifyData(bytes, signature, HashAlgorithmName.SHA256) == true
                ? null : $"the signature of host '{host}' does not fit it";
        }
        catch (Exception e) when (e is GodwitException or CryptographicException)
        {
            return $"its signature cannot be checked: {e.Message}";
        }
    }
}
