using System.Buffers.Binary;
using System.Globalization;
using System.Text.Json;
using Godwit.ChunkStore.Storage;

namespace Godwit.ChunkStore.Parcels;

/// <summary>Signs manifests as this host.</summary>
public interface IParcelSigner
{
    /// <summary>The certificate that others check the signature with.</summary>
    ReadOnlyMemory<byte> Certificate { get; }

    /// <summary>Signs bytes: ECDSA with SHA-256, in the form of IEEE P1363.</summary>
    byte[] Sign(ReadOnlySpan<byte> bytes);
}

/// <summary>Judges who signed a manifest.</summary>
public interface IParcelJudge
{
    /// <summary>Null if a member of the cluster signed these bytes; otherwise why they are refused.</summary>
    /// <param name="host">The host that the manifest says it is of.</param>
    string? Refusal(
        ReadOnlySpan<byte> certificate, ReadOnlySpan<byte> bytes, ReadOnlySpan<byte> signature, string host);
}

/// <summary>A manifest that is damaged, foreign, or not signed by a member.</summary>
public sealed class ParcelRefusedException(string parcel, string why, bool isNewer = false)
    : Exception($"Parcel {parcel}: {why}.")
{
    public string Parcel => parcel;

    public bool IsNewer => isNewer;
}

/// <summary>The manifests and claims of a store.</summary>
public static class ParcelShelf
{
    private const int CertificateBytesMax = 16 << 10;
    private const int SignatureBytesMax = 1 << 10;

    // Lengths of the manifest and of the certificate.
    private const int LengthsBytes = 8;

    private static ReadOnlySpan<byte> Magic => "GDWM"u8;

    private static ReadOnlySpan<byte> VoidMagic => "GDWV"u8;

    /// <summary>Signs a manifest and puts it. What it names has been flushed before.</summary>
    /// <returns>False if there is a parcel of this id already.</returns>
    public static bool Put(
        Store store, ParcelManifest manifest, IParcelSigner signer, Action<Span<byte>> random) =>
        store.Objects.PutIfAbsent(
            NameOf(manifest.Guest, manifest.Id), Write(manifest, signer, store.Key, random));

    /// <summary>Sees to it that a parcel of which it is not known whether it was put never will be.</summary>
    /// <returns>False if it is there: it counts.</returns>
    public static bool TryVoid(Store store, string guest, string id)
    {
        string name = NameOf(guest, id);
        byte[] note = new byte[ObjectHeader.Size];
        ObjectHeader.Write(note, VoidMagic, [], isSealed: false);
        return store.Objects.PutIfAbsent(name, note)
            || (store.Objects.TryReadAll(name) is { } there && IsVoid(there.Span));
    }

    /// <summary>Reads and checks one; null if there is none, or if it was made void before it came.</summary>
    /// <exception cref="ParcelRefusedException">It is not what a member of the cluster has signed.</exception>
    public static ParcelManifest? Find(Store store, string guest, string id, IParcelJudge judge)
    {
        string name = NameOf(guest, id);
        if (store.Objects.TryReadAll(name) is not { } bytes || IsVoid(bytes.Span))
        {
            return null;
        }

        ParcelManifest manifest = Read(id, bytes.Span, judge, store.Key);
        return manifest.Guest == guest && manifest.Id == id
            ? manifest : throw new ParcelRefusedException(id, $"it says that it is parcel {manifest.Id}");
    }

    /// <summary>Whether there is neither a parcel nor a void one.</summary>
    /// <exception cref="StorageException">It is listed, and it is not there to be read.</exception>
    internal static bool IsGone(Store store, string guest, string id)
    {
        string name = NameOf(guest, id);
        return store.Objects.TryReadAll(name) is null && (!List(store).Contains((guest, id))
            ? true : throw new StorageException(
                StorageFailure.Unreachable, $"{name} is listed, and it is not there to be read"));
    }

    /// <summary>Ids of all parcels, with their guests.</summary>
    public static IReadOnlyList<(string Guest, string Id)> List(Store store)
    {
        var found = new List<(string, string)>();
        foreach (StoredObject listed in store.Objects.List(ObjectNames.Parcels))
        {
            string[] parts = listed.Name.Split('/');
            // Other programs leave files of their own in a directory.
            if (parts is [_, var guest, var id] && ParcelManifest.IsName(guest) && ParcelManifest.IsName(id))
            {
                found.Add((guest, id));
            }
        }

        return found;
    }

    /// <summary>Removes a manifest; what only it names goes with the next collection.</summary>
    public static void Remove(Store store, string guest, string id) => store.Objects.Delete(NameOf(guest, id));

    /// <summary>Takes a guest over with the next epoch.</summary>
    /// <returns>
    /// Null if this call has put the claim; otherwise the one that is there, which may be the caller's from before.
    /// </returns>
    public static ParcelClaim? TryClaim(
        Store store, string guest, long epoch, ParcelClaim claim, Action<Span<byte>> random)
    {
        string name = ClaimName(guest, epoch);
        byte[] note = SealedText.Write(claim, StoreJson.Default.ParcelClaim, store.Key, random);
        return store.Objects.PutIfAbsent(name, note)
            ? null
            : FindClaim(store, guest, epoch) ?? throw new StoreFormatException(name, "it went away while it was read");
    }

    /// <summary>Says that the guest may have run by its claim; put before it runs.</summary>
    public static void NoteRun(
        Store store, string guest, long epoch, ParcelClaim claim, Action<Span<byte>> random) =>
        store.Objects.PutIfAbsent(
            RunName(guest, epoch), SealedText.Write(claim, StoreJson.Default.ParcelClaim, store.Key, random));

    /// <summary>Whether the guest may have run by the claim of this epoch.</summary>
    public static bool MayHaveRun(Store store, string guest, long epoch) =>
        store.Objects.TryReadAll(RunName(guest, epoch)) is not null;

    /// <summary>Gives up a claim; only who has put it may, and only if the guest has not run by it.</summary>
    public static void Unclaim(Store store, string guest, long epoch)
    {
        store.Objects.Delete(RunName(guest, epoch));
        store.Objects.Delete(ClaimName(guest, epoch));
    }

    /// <summary>Who took a guest over with an epoch; null if nobody has.</summary>
    public static ParcelClaim? FindClaim(Store store, string guest, long epoch) =>
        store.Objects.TryReadAll(ClaimName(guest, epoch)) is { } bytes
            ? SealedText.Read(ClaimName(guest, epoch), bytes.Span, StoreJson.Default.ParcelClaim, store.Key) : null;

    /// <summary>Puts a parcel of another store, as its host has signed it.</summary>
    /// <returns>False if it is there already, or was made void here.</returns>
    internal static bool Copy(Store from, Store to, string guest, string id, Action<Span<byte>> random)
    {
        string name = NameOf(guest, id);
        return from.Objects.TryReadAll(name) is { } bytes && to.Objects.PutIfAbsent(
            name, SealedObject.Write(Magic, SealedObject.Read(name, bytes.Span, Magic, from.Key), to.Key, random));
    }

    internal static byte[] Write(
        ParcelManifest manifest, IParcelSigner signer, StoreKey? key, Action<Span<byte>> random)
    {
        byte[] body = JsonSerializer.SerializeToUtf8Bytes(manifest, StoreJson.Default.ParcelManifest);
        ReadOnlySpan<byte> certificate = signer.Certificate.Span;
        byte[] signed = new byte[LengthsBytes + body.Length + certificate.Length];
        BinaryPrimitives.WriteInt32LittleEndian(signed, body.Length);
        BinaryPrimitives.WriteInt32LittleEndian(signed.AsSpan(4), certificate.Length);
        body.CopyTo(signed, LengthsBytes);
        certificate.CopyTo(signed.AsSpan(LengthsBytes + body.Length));
        return SealedObject.Write(Magic, [.. signed, .. signer.Sign(signed)], key, random);
    }

    internal static ParcelManifest Read(string id, ReadOnlySpan<byte> bytes, IParcelJudge judge, StoreKey? key)
    {
        const string what = "its manifest";
        try
        {
            ReadOnlySpan<byte> plain = SealedObject.Read(what, bytes, Magic, key);
            uint body = plain.Length < LengthsBytes ? 0 : BinaryPrimitives.ReadUInt32LittleEndian(plain);
            uint certificateBytes = body == 0 ? 0 : BinaryPrimitives.ReadUInt32LittleEndian(plain[4..]);
            long end = LengthsBytes + (long)body + certificateBytes;
            if (body == 0 || certificateBytes is 0 or > CertificateBytesMax || end >= plain.Length
                || plain.Length - end > SignatureBytesMax)
            {
                throw new ParcelRefusedException(id, $"its manifest of {plain.Length} bytes is cut off or malformed");
            }

            // Before the signature is known to be good this tells only whose it has to be.
            ParcelManifest manifest = JsonSerializer.Deserialize(
                plain.Slice(LengthsBytes, (int)body), StoreJson.Default.ParcelManifest)
                ?? throw new ParcelRefusedException(id, "its manifest says nothing");
            if (manifest.Refusal() is { } refusal)
            {
                throw new ParcelRefusedException(id, refusal, manifest.Format > ParcelManifest.FormatVersion);
            }

            ReadOnlySpan<byte> certificate = plain.Slice(LengthsBytes + (int)body, (int)certificateBytes);
            return judge.Refusal(certificate, plain[..(int)end], plain[(int)end..], manifest.Host) is { } why
                ? throw new ParcelRefusedException(id, why) : manifest;
        }
        catch (StoreFormatException e)
        {
            throw new ParcelRefusedException(id, $"{e.What}: {e.Why}", e.IsNewer);
        }
        catch (JsonException e)
        {
            throw new ParcelRefusedException(id, $"its manifest cannot be read ({e.Message})");
        }
    }

    private static bool IsVoid(ReadOnlySpan<byte> bytes) => bytes.StartsWith(VoidMagic);

    private static string NameOf(string guest, string id)
    {
        if (!ParcelManifest.IsName(guest) || !ParcelManifest.IsName(id))
        {
            throw new ArgumentException($"'{guest}' and '{id}' name no parcel.");
        }

        return $"{ObjectNames.Parcels}/{guest}/{id}";
    }

    private static string RunName(string guest, long epoch) => ClaimName(guest, epoch) + "-run";

    private static string ClaimName(string guest, long epoch) => string.Create(
        CultureInfo.InvariantCulture, $"{ObjectNames.Claims}/{guest}/{epoch:d12}");
}
