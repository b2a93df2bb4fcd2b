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

/// <summary>A parcel that is there: what its manifest says, or why it is refused.</summary>
public sealed record ShelvedParcel(
    string Guest, string Id, ParcelManifest? Manifest, ParcelRefusedException? Refused);

/// <summary>The manifests and claims of a store.</summary>
public static partial class ParcelShelf
{
    private const int CertificateBytesMax = 16 << 10;
    private const int SignatureBytesMax = 1 << 10;

    // Lengths of the manifest and of the certificate.
    private const int LengthsBytes = 8;
    private const int ManifestsAtOnce = 64;
    private const int ManifestBytesUsual = 256 << 10;
    private const string Needed = "-need";

    private static ReadOnlySpan<byte> Magic => "GDWM"u8;

    private static ReadOnlySpan<byte> VoidMagic => "GDWV"u8;

    /// <summary>Signs a manifest and puts it. What it names has been flushed before.</summary>
    /// <param name="isWanted">Asked as late as possible: false ends it, and the parcel is not there.</param>
    /// <returns>False if there is a parcel of this id already.</returns>
    public static bool Put(
        Store store, ParcelManifest manifest, IParcelSigner signer, Action<Span<byte>> random,
        Func<bool>? isWanted = null) =>
        store.Objects.PutIfAbsent(
            NameOf(manifest.Guest, manifest.Id), Write(manifest, signer, store.Key, random),
            isWanted ?? (static () => true));

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
    public static ParcelManifest? Find(Store store, string guest, string id, IParcelJudge judge) =>
        store.Objects.TryReadAll(NameOf(guest, id)) is { } bytes ? Check(store, guest, id, bytes.Span, judge) : null;

    /// <summary>Reads and checks all of them, many at a time where the store is far.</summary>
    /// <param name="guest">Only this one's; null for everybody's.</param>
    public static IReadOnlyList<ShelvedParcel> FindAll(Store store, IParcelJudge judge, string? guest = null)
    {
        var found = new List<ShelvedParcel>();
        using IPartReader reader = store.Objects.OpenParts();
        foreach ((StoredObject Listed, string Guest, string Id)[] some in ListObjects(store, guest)
            .Chunk(ManifestsAtOnce))
        {
            // One that is longer than any that was ever written is read by itself, if there is room for it.
            ObjectPart[] parts = [.. some.Select(one => new ObjectPart(
                one.Listed.Name, 0, new byte[one.Listed.Bytes <= ManifestBytesUsual ? one.Listed.Bytes : 0]))];
            reader.Read([.. parts.Where(part => !part.Into.IsEmpty)]);
            foreach ((ObjectPart part, (StoredObject _, string of, string id)) in parts.Zip(some))
            {
                try
                {
                    if ((part.IsThere ? Check(store, of, id, part.Into.Span, judge) : Find(store, of, id, judge))
                        is { } manifest)
                    {
                        found.Add(new ShelvedParcel(of, id, manifest, Refused: null));
                    }
                }
                catch (ParcelRefusedException exception)
                {
                    found.Add(new ShelvedParcel(of, id, Manifest: null, exception));
                }
            }
        }

        return found;
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
    public static IReadOnlyList<(string Guest, string Id)> List(Store store) =>
        [.. ListObjects(store, guest: null).Select(one => (one.Guest, one.Id))];

    /// <summary>Removes a manifest; what only it names goes with the next collection.</summary>
    public static void Remove(Store store, string guest, string id)
    {
        store.Objects.Delete(NameOf(guest, id));
        store.Objects.Delete(VoucherOf(guest, id));
    }

    /// <summary>Takes a guest over with the next epoch.</summary>
    /// <returns>
    /// Null if this call has put the claim; otherwise the one that is there, which may be the caller's from before.
    /// </returns>
    public static ParcelClaim? TryClaim(
        Store store, string guest, long epoch, ParcelClaim claim, Action<Span<byte>> random)
    {
        string name = ClaimName(guest, epoch);
        return TryPut(store, name, claim, random)
            ? null
            : FindClaim(store, guest, epoch) ?? throw new StoreFormatException(name, "it went away while it was read");
    }

    /// <summary>Says that the guest may have run by its claim; put before it runs.</summary>
    public static void NoteRun(
        Store store, string guest, long epoch, ParcelClaim claim, Action<Span<byte>> random) =>
        TryPut(store, RunName(guest, epoch), claim, random);

    /// <summary>Whether the guest may have run by the claim of this epoch.</summary>
    public static bool MayHaveRun(Store store, string guest, long epoch) =>
        store.Objects.TryReadAll(RunName(guest, epoch)) is not null;

    /// <summary>Says that a guest which was claimed needs its parcel; put before anything is taken out of it.</summary>
    public static void NoteNeed(
        Store store, string guest, long epoch, ParcelClaim claim, Action<Span<byte>> random) =>
        TryPut(store, NeedName(guest, epoch), claim, random);

    /// <summary>The guest has everything that its parcel had.</summary>
    public static void RemoveNeed(Store store, string guest, long epoch) =>
        store.Objects.Delete(NeedName(guest, epoch));

    /// <summary>Claims by which a guest still needs its parcel, with their epochs.</summary>
    public static IReadOnlyList<(long Epoch, ParcelClaim Claim)> FindNeeds(Store store, string guest) =>
        [.. List(store, guest, Needed)];

    /// <summary>The claim with the highest epoch; null if nobody ever took the guest over.</summary>
    public static (long Epoch, ParcelClaim Claim)? FindNewestClaim(Store store, string guest) =>
        List(store, guest, "").Cast<(long, ParcelClaim)?>().FirstOrDefault();

    // The newest first; each is read when it is asked for.
    private static IEnumerable<(long Epoch, ParcelClaim Claim)> List(Store store, string guest, string suffix)
    {
        var found = new List<(long Epoch, string Name)>();
        foreach (StoredObject listed in store.Objects.List($"{ObjectNames.Claims}/{guest}"))
        {
            string name = ObjectNames.Last(listed.Name);
            if (name.EndsWith(suffix, StringComparison.Ordinal)
                && long.TryParse(
                    name.AsSpan(0, name.Length - suffix.Length), NumberStyles.None, CultureInfo.InvariantCulture,
                    out long epoch))
            {
                found.Add((epoch, listed.Name));
            }
        }

        foreach ((long epoch, string name) in found.OrderByDescending(one => one.Epoch))
        {
            if (store.Objects.TryReadAll(name) is { } bytes)
            {
                yield return (epoch, SealedText.Read(name, bytes.Span, StoreJson.Default.ParcelClaim, store.Key));
            }
        }
    }

    /// <summary>Gives up a claim; only who has put it may, and only if the guest has not run by it.</summary>
    public static void Unclaim(Store store, string guest, long epoch)
    {
        store.Objects.Delete(NeedName(guest, epoch));
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
        if (from.Objects.TryReadAll(VoucherOf(guest, id)) is { } voucher)
        {
            to.Objects.PutIfAbsent(VoucherOf(guest, id), SealedText.Write(
                ReadVoucher(from, guest, id, voucher.Span), StoreJson.Default.ParcelVoucher, to.Key, random));
        }

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

    /// <param name="isVouchedFor">Asked for the plain bytes of a manifest whose signer is refused.</param>
    internal static ParcelManifest Read(
        string id, ReadOnlySpan<byte> bytes, IParcelJudge judge, StoreKey? key,
        Func<byte[], bool>? isVouchedFor = null)
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
                && isVouchedFor?.Invoke(plain.ToArray()) != true
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

    private static ParcelManifest? Check(
        Store store, string guest, string id, ReadOnlySpan<byte> bytes, IParcelJudge judge)
    {
        if (IsVoid(bytes))
        {
            return null;
        }

        ParcelManifest manifest = Read(
            id, bytes, judge, store.Key, plain => IsVouchedFor(store, guest, id, plain, judge));
        return manifest.Guest == guest && manifest.Id == id
            ? manifest : throw new ParcelRefusedException(id, $"it says that it is parcel {manifest.Id}");
    }

    private static IEnumerable<(StoredObject Listed, string Guest, string Id)> ListObjects(Store store, string? guest)
    {
        foreach (StoredObject listed in store.Objects.List(
            guest is null ? ObjectNames.Parcels : $"{ObjectNames.Parcels}/{guest}"))
        {
            string[] parts = listed.Name.Split('/');
            // Other programs leave files of their own in a directory.
            if (parts is [_, var of, var id] && ParcelManifest.IsName(of) && ParcelManifest.IsName(id))
            {
                yield return (listed, of, id);
            }
        }
    }

    private static bool TryPut(Store store, string name, ParcelClaim claim, Action<Span<byte>> random) =>
        store.Objects.PutIfAbsent(
            name, SealedText.Write(claim, StoreJson.Default.ParcelClaim, store.Key, random));

    private static bool IsVoid(ReadOnlySpan<byte> bytes) => bytes.StartsWith(VoidMagic);

    private static string NameOf(string guest, string id)
    {
        if (!ParcelManifest.IsName(guest) || !ParcelManifest.IsName(id))
        {
            throw new ArgumentException($"'{guest}' and '{id}' name no parcel.");
        }

        return $"{ObjectNames.Parcels}/{guest}/{id}";
    }

    private static string NeedName(string guest, long epoch) => ClaimName(guest, epoch) + Needed;

    private static string RunName(string guest, long epoch) => ClaimName(guest, epoch) + "-run";

    private static string ClaimName(string guest, long epoch) => string.Create(
        CultureInfo.InvariantCulture, $"{ObjectNames.Claims}/{guest}/{epoch:d12}");
}
