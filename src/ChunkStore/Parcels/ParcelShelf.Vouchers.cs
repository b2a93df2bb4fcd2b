using System.Security.Cryptography;
using System.Text;
using Godwit.ChunkStore.Storage;

namespace Godwit.ChunkStore.Parcels;

/// <summary>A member's word that it held a manifest for genuine while its signer was a member.</summary>
/// <param name="Manifest">SHA-256 of the manifest's plain bytes, signature included; hexadecimal digits.</param>
/// <param name="Host">Who gives it.</param>
/// <param name="Certificate">Of that host, DER.</param>
/// <param name="Signature">As of a manifest.</param>
internal sealed record ParcelVoucher(string Manifest, string Host, byte[] Certificate, byte[] Signature);

// What was signed by a host that is no member any more.
public static partial class ParcelShelf
{
    private const string Vouched = "vouched";

    /// <summary>Vouches for every parcel of a host that is about to be removed.</summary>
    /// <remarks>
    /// Afterwards nobody believes that host's signature any more: what it signs later has no voucher, and no member
    /// gives one, for it would have to believe the signature first.
    /// </remarks>
    /// <param name="former">The host that is removed.</param>
    /// <param name="member">The host that gives its word.</param>
    /// <returns>Parcels that were vouched for.</returns>
    public static int Vouch(
        Store store, string former, string member, IParcelJudge judge, IParcelSigner signer,
        Action<Span<byte>> random)
    {
        int count = 0;
        foreach ((string guest, string id) in List(store))
        {
            if (store.Objects.TryReadAll(NameOf(guest, id)) is not { } bytes || IsVoid(bytes.Span)
                || TryRead(id, bytes.Span, judge, store.Key) is not { } manifest || manifest.Host != former
                || manifest.Guest != guest || manifest.Id != id)
            {
                continue;
            }

            string digest = DigestOf(SealedObject.Read("its manifest", bytes.Span, Magic, store.Key));
            var voucher = new ParcelVoucher(
                digest, member, signer.Certificate.ToArray(), signer.Sign(Signed(guest, id, digest, member)));
            store.Objects.PutIfAbsent(VoucherOf(guest, id), SealedText.Write(
                voucher, StoreJson.Default.ParcelVoucher, store.Key, random));
            count++;
        }

        return count;
    }

    private static ParcelManifest? TryRead(string id, ReadOnlySpan<byte> bytes, IParcelJudge judge, StoreKey? key)
    {
        try
        {
            return Read(id, bytes, judge, key);
        }
        catch (ParcelRefusedException)
        {
            return null;
        }
    }

    private static bool IsVouchedFor(Store store, string guest, string id, byte[] plain, IParcelJudge judge)
    {
        if (store.Objects.TryReadAll(VoucherOf(guest, id)) is not { } bytes)
        {
            return false;
        }

        ParcelVoucher voucher = ReadVoucher(store, guest, id, bytes.Span);
        return voucher is { Host: not null, Certificate: not null, Signature: not null }
            && voucher.Manifest == DigestOf(plain)
            && judge.Refusal(
                voucher.Certificate, Signed(guest, id, voucher.Manifest, voucher.Host), voucher.Signature,
                voucher.Host) is null;
    }

    private static ParcelVoucher ReadVoucher(Store store, string guest, string id, ReadOnlySpan<byte> bytes) =>
        SealedText.Read(VoucherOf(guest, id), bytes, StoreJson.Default.ParcelVoucher, store.Key);

    // Begins like no manifest, which begins with lengths: a signature of the one is none of the other.
    private static byte[] Signed(string guest, string id, string digest, string member) =>
        Encoding.UTF8.GetBytes($"godwit voucher 1\n{guest}\n{id}\n{digest}\n{member}\n");

    private static string DigestOf(ReadOnlySpan<byte> plain) => Convert.ToHexStringLower(SHA256.HashData(plain));

    private static string VoucherOf(string guest, string id) => $"{Vouched}/{guest}/{id}";
}
