namespace Godwit.ChunkStore.Storage;

/// <summary>What a store takes.</summary>
/// <param name="Bytes">All objects.</param>
/// <param name="Packs">Number of packs.</param>
/// <param name="PackBytes">Bytes of packs.</param>
/// <param name="IndexBytes">Bytes of indexes.</param>
/// <param name="Parcels">Number of manifests.</param>
public sealed record StoreUse(long Bytes, int Packs, long PackBytes, long IndexBytes, int Parcels)
{
    /// <summary>Adds up what a listing has.</summary>
    public static StoreUse Of(IObjectStorage objects)
    {
        IReadOnlyList<StoredObject> packs = objects.List(ObjectNames.Packs);
        IReadOnlyList<StoredObject> parcels = objects.List(ObjectNames.Parcels);
        long packBytes = packs.Sum(one => one.Bytes);
        long indexBytes = objects.List(ObjectNames.Indexes).Sum(one => one.Bytes);
        return new StoreUse(
            packBytes + indexBytes + parcels.Sum(one => one.Bytes), packs.Count, packBytes, indexBytes, parcels.Count);
    }
}
