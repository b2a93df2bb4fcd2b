using Godwit.Api.V1;
using Godwit.ChunkStore.Parcels;

namespace Godwit.Daemon.Parcels;

/// <summary>Parcels as the store has them and as the API says them.</summary>
internal static class ParcelMapping
{
    public static Parcel ToApi(string store, ParcelManifest manifest, string resumedOn) => new()
    {
        Id = manifest.Id,
        Store = store,
        Kind = manifest.Kind == Godwit.ChunkStore.Parcels.ParcelKind.Suspend
            ? Api.V1.ParcelKind.Suspend : Api.V1.ParcelKind.Checkpoint,
        GuestUuid = manifest.Guest,
        Guest = manifest.Name,
        Host = manifest.Host,
        Epoch = manifest.Epoch,
        Home = manifest.Home,
        CreatedUnixMs = manifest.CreatedUnixMs,
        Parent = manifest.Parent,
        MemoryBytes = (ulong)manifest.Memory[0].Bytes,
        DiskBytes = (ulong)manifest.Disks.Sum(disk => disk.Bytes),
        WrittenBytes = (ulong)manifest.BytesWritten,
        PauseMs = manifest.PauseMs,
        QemuVersion = manifest.Qemu,
        ResumedOn = resumedOn,
    };
}
