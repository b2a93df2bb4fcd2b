namespace Godwit.ChunkStore.Storage;

/// <summary>What the objects of a store are called; docs/formats/chunk-store.md.</summary>
internal static class ObjectNames
{
    public const string Descriptor = "godwit-store";
    public const string Packs = "packs";
    public const string Indexes = "indexes";
    public const string Parcels = "parcels";
    public const string Claims = "claims";
    public const string Sessions = "sessions";
    public const string Condemned = "condemned";
    public const string Waits = "waits";

    // 256 folders: some file systems are slow with many thousand names in one.
    public static string Pack(ChunkId id) => $"{Packs}/{id.ToString()[..2]}/{id}";

    /// <summary>The id that a pack or an index is called by.</summary>
    public static bool TryId(string name, out ChunkId id) => ChunkId.TryParse(Last(name), out id);

    /// <summary>A name without its folders.</summary>
    public static string Last(string name) => name[(name.LastIndexOf('/') + 1)..];
}
