using Godwit.ChunkStore.Parcels;
using Godwit.Host.Parcels;
using Godwit.Migration;

namespace Godwit.Daemon.Parcels;

// Disk images that come out of a parcel: which of them may be made or changed on this host.
internal sealed partial class ParcelKeeper
{
    // Nothing that this host is run by is an image that a parcel brings.
    private static readonly string[] SystemDirectories =
    [
        "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sys",
        "/usr", "/var/spool", "/var/lib/dpkg", "/var/lib/rpm", "/var/lib/systemd",
    ];

    /// <summary>Every image of the parcel that this host does not let it make or change.</summary>
    private IEnumerable<(string Message, string Remedy)> DiskClashes(ParcelManifest manifest, ResumePlan plan)
    {
        foreach (var part in manifest.Disks)
        {
            var path = plan.PathOf(part.Name);
            if (File.Exists(path) && !plan.IsOwnDisk(part.Name))
            {
                // It is compared, and nothing else.
                continue;
            }

            if (!IsKnownDisk(plan, path) && !IsPlaceFor(path))
            {
                yield return ($"Parcel {manifest.Id} brings the image '{path}', which is no place for one.",
                    "Put the file there yourself if the guest needs it there; Godwit makes none in a directory of the "
                    + "system's.");
            }

            if (guests.All.Where(one => one.Record.Uuid != plan.Contract.Uuid).FirstOrDefault(one =>
                one.Record.Contract.Disks.Any(disk => ParcelRestorer.ImagesOf(disk.Path).Contains(path)))
                is { } other)
            {
                yield return ($"The disk {path} is guest '{other.Record.Name}''s here.",
                    $"Resume on another host, or move the disk of '{other.Record.Name}'; if that guest is no more, "
                    + $"'godwit vm rm {other.Record.Name}' forgets it.");
            }
        }
    }

    /// <summary>Refuses images that the guest does not use, and those in the way that are not its own.</summary>
    private void CompareDisks(
        ParcelRestorer restorer, ParcelManifest manifest, ResumePlan plan, CancellationToken cancellationToken)
    {
        if (restorer.StrayImages(ContractJson.Read(manifest)) is [var stray, ..])
        {
            throw new ParcelRefusedException(
                manifest.Id, $"it brings the file '{stray}', which its guest does not use");
        }

        foreach (var part in manifest.Disks)
        {
            var (path, isOwn) = (plan.PathOf(part.Name), plan.IsOwnDisk(part.Name));
            if (File.Exists(path) && !(isOwn && IsKnownDisk(plan, path)))
            {
                restorer.CompareDisk(part, path, isOwn, cancellationToken);
            }
        }
    }

    // What is there and is not the guest's own has been compared.
    private static void RestoreDisks(
        ParcelRestorer restorer, ParcelManifest manifest, ResumePlan plan, bool isOwn,
        CancellationToken cancellationToken)
    {
        foreach (var part in manifest.Disks.Where(part => plan.IsOwnDisk(part.Name) == isOwn))
        {
            var path = plan.PathOf(part.Name);
            if (isOwn || !File.Exists(path))
            {
                restorer.RestoreDisk(part, path, cancellationToken);
            }
        }
    }

    private bool IsKnownDisk(ResumePlan plan, string path) => guests.Find(plan.Contract.Uuid) is { } guest
        && guest.Record.Contract.Disks.Any(disk => !disk.ReadOnly && Path.GetFullPath(disk.Path) == path);

    private bool IsPlaceFor(string path) => Path.IsPathFullyQualified(path) && Path.GetFullPath(path) == path
        && !path.Contains("/.", StringComparison.Ordinal)
        && !SystemDirectories.Append(settings.StateDirectory).Append(settings.PkiDirectory)
            .Any(place => path.StartsWith(place + "/", StringComparison.Ordinal));
}
